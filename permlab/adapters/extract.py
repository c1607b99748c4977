"""A LoRA out of a fine-tuned model: the best approximation of what fine-tuning changed, module by module.

permlab task=merge task.models=[TUNED] task.ancestor=BASE task.extract_rank=16

Delta W = W_tuned - W_base is cut to its leading `rank` singular directions, the best approximation of that rank in
the Frobenius norm (Eckart and Young 1936). Modules are read one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from permlab.adapters.factors import Factors, ModuleInfo
from permlab.adapters.spaces import factorise
from permlab.models.checkpoints import Checkpoint, check_tuned
from permlab.storage.tensors import FLOATS, OpenTensors


@dataclasses.dataclass(frozen=True)
class Change:
    """What fine-tuning changed in one tensor: squared Frobenius norms of the change and of the part that is kept."""

    name: str
    module: str | None
    changed: float
    kept: float


class ExtractedAdapter:
    """The adapter of a fine-tuned model; an `AdapterSource`, whose modules are decomposed when they are loaded.

    Args:
        base: the model before fine-tuning.
        tuned: the model after it, of the same shapes.
        modules: module path -> whether its weight is stored (in, out), as GPT-2's `Conv1D` has it.
        rank: of every module; less where a module is smaller.
        seed: of the decomposition of large modules.

    Raises:
        UserError: other tensors in the two.
    """

    def __init__(
        self, base: Checkpoint, tuned: Checkpoint, modules: Mapping[str, bool], rank: int, seed: int = 0
    ) -> None:
        check_tuned(base, tuned)
        self.name, self.rank, self.seed = tuned.name, rank, seed
        self._base, self._tuned = OpenTensors(base.tensors), OpenTensors(tuned.tensors)
        self._turned = {module: turned for module, turned in modules.items() if f"{module}.weight" in tuned.tensors}
        self._others = [name for name, info in tuned.tensors.items() if info.dtype in FLOATS]
        self.modules: dict[str, ModuleInfo] = {}
        for module, turned in self._turned.items():
            rows, columns = tuned.tensors[f"{module}.weight"].shape[:: -1 if turned else 1]
            self.modules[module] = ModuleInfo(min(rank, rows, columns), (columns,), rows)
        self.changes: list[Change] = []

    def load(self, module: str) -> Factors:
        """Factors of one module; what it keeps is noted in `changes`."""
        name = f"{module}.weight"
        change = self._change(name)
        dense = change.T if self._turned[module] else change
        found = factorise(dense, self.modules[module].rank, self.seed)
        # The factors are orthogonal, so that the kept part and the rest add up in squares.
        kept = float((found.a.double().square().sum(1) * found.b.double().square().sum(0)).sum())
        self.changes.append(Change(name, module, float(change.double().square().sum()), kept))
        return found

    def rest(self) -> list[Change]:
        """What no adapter of these modules holds: embeddings, norms, biases that fine-tuning changed."""
        held = {f"{module}.weight" for module in self._turned}
        found = [Change(name, None, self._moved(name), 0.0) for name in self._others if name not in held]
        return [each for each in found if each.changed]

    def _change(self, name: str) -> Tensor:
        return self._tuned[name].float() - self._base[name].float()

    def _moved(self, name: str) -> float:
        return float(self._change(name).double().square().sum())


def linear_modules(network: torch.nn.Module) -> dict[str, bool]:
    """Return the linear layers of a network but its head: path -> whether the weight is stored (in, out).

    Args:
        network: also one without weights, on the device "meta".
    """
    head = getattr(network, "get_output_embeddings", lambda: None)()
    found = {}
    for name, module in network.named_modules():
        turned = type(module).__name__ == "Conv1D"
        if (turned or isinstance(module, torch.nn.Linear)) and module is not head:
            found[name] = turned
    return found
