"""How a run is divided between processes: `permlab task=spt hardware.processes=2`. Nothing heavy is imported.

A task says in `shares(config)` what of a run several processes can share. Two kinds of work are told apart: one
training whose batches are divided (`Shared.training`), which `runs.supervisor` starts as processes of
torch.distributed, and parts that do not depend on each other, which `processes` works on side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from permlab import registry
from permlab.errors import UserError, check_range
from permlab.hardware import HardwareConfig, cuda_devices


@dataclass(frozen=True)
class Shared:
    """What several processes of a run share.

    Attributes:
        parts: how many there are: more processes would have nothing to do.
        what: what they are, with the key that says how many: `pairs (task.pairs=3)`.
        training: one training that all processes take part in; its `parts` are the rows of a batch.
        adapters: it trains adapters on frozen weights.
    """

    parts: int
    what: str
    training: bool = False
    adapters: bool = False


def shares(config: Any) -> Shared | None:
    """Return what several processes of a run (`Config`) can share, by its task; None for nothing."""
    told = getattr(registry.task(config.task.name), "shares", None)
    found: Shared | None = told(config) if told else None
    return found


def together(hardware: HardwareConfig) -> int:
    """Return the processes of a run on all machines."""
    return hardware.processes * hardware.nodes


def check_division(hardware: HardwareConfig, task: str, shared: Shared | None) -> None:
    """Refuse a division that cannot be made.

    Raises:
        UserError: naming the key and what can be done.
    """
    check_range("hardware.processes", hardware.processes, 1)
    check_range("hardware.nodes", hardware.nodes, 1)
    count = together(hardware)
    asked = f"hardware.processes={hardware.processes}" + (f" hardware.nodes={hardware.nodes}" * (hardware.nodes > 1))
    if count == 1:
        if hardware.shard:
            raise UserError("hardware.shard=true divides a model between processes: add hardware.processes=2 or more")
        return
    if shared is None:
        raise UserError(f"{asked}: task={task} has nothing here that several processes could share; leave it out")
    if hardware.device.startswith("cuda:") or hardware.device == "mps":
        raise UserError(f"{asked}: hardware.device={hardware.device} is one GPU; use cuda, auto or cpu")
    if not shared.training:
        for key, given in (("nodes", hardware.nodes > 1), ("shard", hardware.shard)):
            if given:
                raise UserError(f"hardware.{key} is for one training (task=spt); task={task} works on {shared.what}")
    if count > shared.parts:
        raise UserError(f"{asked}: there is work for {shared.parts} at most, {shared.what}")
    if shared.training and shared.parts % count:
        raise UserError(f"{asked}: {shared.what} cannot be divided by {count}; choose one that can")
    if hardware.shard and hardware.dtype == "float16":
        raise UserError("hardware.shard=true computes in float32 or bfloat16: set hardware.dtype=bfloat16")
    if hardware.shard and shared.adapters:
        raise UserError("hardware.shard=true: adapters on frozen weights are not divided; leave it out")


def described(hardware: HardwareConfig, shared: Shared) -> str:
    """Return the line of a dry run.

    Raises:
        UserError: a training with more processes than GPUs.
    """
    count = together(hardware)
    gpus = cuda_devices() if hardware.device in ("auto", "cuda") else 0
    if shared.training and gpus and hardware.nodes == 1 and gpus < hardware.processes:
        raise UserError(f"hardware.processes={hardware.processes}: this machine has {gpus} CUDA GPUs; use so many")
    machines = f" on {hardware.nodes} machines" if hardware.nodes > 1 else ""
    if not shared.training:
        return f"{count}, side by side: {shared.what}"
    divided = "; weights, gradients and optimizer divided too (FSDP2)" if hardware.shard else ""
    return f"{count}{machines}, {shared.parts // count} rows of each batch in every one{divided}"
