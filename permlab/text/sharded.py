"""Training of a model that several processes hold together (FSDP2): `hardware.processes=4 hardware.shard=true`.

    shard(model, "cuda", torch.bfloat16)
    make_trainer(model, ..., kind=ShardedTrainer).train()
    whole(model)                        # all tensors, in the first process; every one has to call it

Each process keeps its part of weights, gradients and moments; a layer is put together when it is needed. Checkpoints
hold whole tensors, written by the first process, so a run goes on with another number of processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from permlab import ranks
from permlab.text.training import OrderedTrainer

GIVEN = StateDictOptions(full_state_dict=True, cpu_offload=True)
TAKEN = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
OPTIMIZER, SCHEDULE = "optimizer.pt", "scheduler.pt"


def shard(model: Any, device: str, dtype: torch.dtype) -> None:
    """Divide a model between the processes, in place: layer by layer, and what stands around the layers.

    Args:
        model: of transformers, the same in every process.
        device: kind of device: cpu, or cuda.
        dtype: of the forward and backward pass; gradients are summed in float32.
    """
    mesh = init_device_mesh(device, (ranks.count(),))
    policy = MixedPrecisionPolicy() if dtype is torch.float32 else MixedPrecisionPolicy(dtype, torch.float32)
    layers = set(model._no_split_modules or ())
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model._is_accelerate_prepared = True  # accelerate would wrap it for processes that each hold all of it


def whole(model: Any) -> dict[str, torch.Tensor]:
    """Return all tensors on the CPU, in the first process; nothing in the others, which have to call it too."""
    found: dict[str, Any] = get_model_state_dict(model, options=GIVEN)
    return found


class ShardedTrainer(OrderedTrainer):
    """Trains a model that `shard` has divided."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        found = whole(self.model)
        if ranks.first():
            super()._save(output_dir, found)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        found = get_optimizer_state_dict(self._divided, self._moments, options=GIVEN)
        if ranks.first():
            torch.save(found, Path(output_dir) / OPTIMIZER)
            torch.save(self._schedule.state_dict(), Path(output_dir) / SCHEDULE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        found: dict[str, Any] = {}
        if ranks.first():
            for path in sorted(Path(resume_from_checkpoint).glob("*.safetensors")):
                found |= load_file(path)
            # Tied weights are stored once.
            known = self._divided.state_dict(keep_vars=True)
            by_weight = {id(known[name]): value for name, value in found.items()}
            found = {name: by_weight[id(value)] for name, value in known.items() if id(value) in by_weight}
        set_model_state_dict(self._divided, found, options=TAKEN)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        found = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True) if ranks.first() else {}
        set_optimizer_state_dict(self._divided, self._moments, found, options=TAKEN)
        self._schedule.load_state_dict(torch.load(folder / SCHEDULE, weights_only=True))

    @property
    def _schedule(self) -> Any:
        return self.lr_scheduler

    @property
    def _divided(self) -> Any:
        return self.model

    @property
    def _moments(self) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate has wrapped it
