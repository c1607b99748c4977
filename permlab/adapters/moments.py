"""Second moments of the inputs of adapted modules, and merging in the metric that they give.

>>> moments = input_moments(model, adapter.modules, batches)          # one forward pass of a few inputs
>>> merged = merge_adapters(adapters, MergeRule("svd", rank=8), moments=moments)

On inputs x with C = E[x x^T] an update D changes a module's outputs by E|D x|^2 = |D L|_F^2, with C = L L^T. An adapter
whose A is replaced by A L therefore has the activation metric for its plain norm: any method merges there, and L is
taken out of the result again. Truncated SVD then is the best approximation of its rank in that metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from permlab.adapters.factors import AdapterSource, Factors, ModuleInfo
from permlab.errors import UserError

RIDGE = 1e-3
"""Share of the mean variance that is added to every input: directions that no input has do not count for nothing."""


@dataclass(frozen=True)
class Moments:
    """E[x x^T] of one module: `matrix` (d_in, d_in), or (d_in,) of an embedding, whose inputs are single tokens."""

    matrix: Tensor

    def root(self) -> Tensor:
        """L of C + ridge = L L^T, lower triangular, or the diagonal; float64."""
        c = self.matrix.double()
        if c.dim() == 1:
            return (c + RIDGE * c.mean()).sqrt()
        ridge = RIDGE * torch.diagonal(c).mean()
        found: Tensor = torch.linalg.cholesky(c + ridge * torch.eye(len(c), dtype=c.dtype, device=c.device))
        return found

    def into(self, update: Factors) -> Factors:
        """The update D as D L."""
        root, a = self.root().to(update.a.device), update.a.double()
        return Factors((a * root if root.dim() == 1 else a @ root).to(update.a), update.b, update.scaling)

    def out_of(self, update: Factors) -> Factors:
        """The update D L as D."""
        root, a = self.root().to(update.a.device), update.a.double()
        if root.dim() == 1:
            return Factors((a / root).to(update.a), update.b, update.scaling)
        solved = torch.linalg.solve_triangular(root, a, upper=False, left=False)
        return Factors(solved.to(update.a), update.b, update.scaling)


@dataclass(frozen=True)
class Whitened:
    """An adapter in the activation metric; modules without moments are as they were."""

    inner: AdapterSource
    moments: Mapping[str, Moments]

    @property
    def name(self) -> str:
        """Of the adapter."""
        return self.inner.name

    @property
    def modules(self) -> Mapping[str, ModuleInfo]:
        """Of the adapter."""
        return self.inner.modules

    def load(self, module: str) -> Factors:
        """Factors of one module, A L in the place of A."""
        update = self.inner.load(module)
        return self.moments[module].into(update) if module in self.moments else update


def whitened(adapters: Sequence[AdapterSource], moments: Mapping[str, Moments] | None) -> Sequence[AdapterSource]:
    """All adapters in the activation metric; without moments as they are."""
    return [Whitened(adapter, moments) for adapter in adapters] if moments else adapters


def check_moments(adapters: Sequence[AdapterSource], moments: Mapping[str, Moments]) -> None:
    """Refuse moments of another width than a module's inputs, or that are not finite."""
    for adapter in adapters:
        for module, info in adapter.modules.items():
            found = moments.get(module)
            if found is None:
                continue
            if len(found.matrix) != info.d_in:
                raise UserError(f"{module} has {info.d_in} inputs and the calibration {len(found.matrix)}")
            if not bool(torch.isfinite(found.matrix.sum())):
                raise UserError(f"the calibration inputs of {module} are not finite")


@torch.no_grad()
def input_moments(
    model: nn.Module, modules: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Moments]:
    """Run inputs through a model and collect the second moments of what its modules read.

    Args:
        model: a causal language model.
        modules: paths of linear layers and embeddings; others (convolutions) are left out.
        batches: pairs (ids, mask) of shape (rows, tokens); where mask is false nothing is counted.

    Raises:
        UserError: a module that the model lacks, or no token in any batch.
    """
    sums: dict[str, Tensor] = {}
    counted = 0
    with _reading(model, modules) as seen:
        for ids, mask in batches:
            seen.clear()
            device = next(model.parameters()).device
            model(input_ids=ids.to(device), attention_mask=mask.to(device).long(), use_cache=False)
            chosen = mask.to(device).bool()
            counted += int(chosen.sum())
            for name, (module, x) in seen.items():
                if isinstance(module, nn.Embedding):
                    added = torch.bincount(x[chosen], minlength=module.num_embeddings).double()
                else:
                    rows = x[chosen].float()
                    added = (rows.T @ rows).double()
                sums[name] = sums[name] + added if name in sums else added
    if not counted:
        raise UserError("no calibration input holds a token")
    return {name: Moments(total.cpu() / counted) for name, total in sums.items()}


@contextmanager
def _reading(model: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, tuple[nn.Module, Tensor]]]:
    """Collect module and input of every named layer at each forward pass."""
    seen: dict[str, tuple[nn.Module, Tensor]] = {}

    def hook(name: str) -> Any:
        def remember(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = (module, args[0])

        return remember

    handles = []
    try:
        for name in modules:
            try:
                module = model.get_submodule(name)
            except AttributeError:
                raise UserError(
                    f"the model has no module {name}, which the adapters adapt; is it their base?"
                ) from None
            if isinstance(module, nn.Linear | nn.Embedding) or type(module).__name__ == "Conv1D":
                handles.append(module.register_forward_pre_hook(hook(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
