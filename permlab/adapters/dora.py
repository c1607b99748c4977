"""DoRA adapters folded into plain updates: `fold(weight, Factors(a, b, s), magnitude, rank).kept`.

DoRA (arXiv 2402.09353) trains a length for every output row beside A and B: W' = m (W + s B A) / |W + s B A|, the norm
taken of each row. With g = m / |W + s B A| the update of the base is

    W' - W = diag(g) s B A + (diag(g) - 1) W

whose second part has the rank of W. What is kept is its best approximation with twice the adapter's rank, and how much
of the update's energy that is. The base's own weights are needed: without them no row's norm is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from permlab.adapters.factors import Factors
from permlab.adapters.spaces import factorise
from permlab.errors import UserError
from permlab.storage.shards import read_weights
from permlab.storage.tensors import OpenTensors

TIMES = 2
"""Rank of a folded update, in ranks of the adapter: as many again for the rescaled rows of the base."""


@dataclass(frozen=True)
class Folded:
    """A plain update and the share of the exact one's squares that it keeps."""

    update: Factors
    kept: float


class BaseWeights:
    """Weights of the base model in a folder, read one at a time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        found = read_weights(self.folder, "model.safetensors") if self.folder.is_dir() else None
        if found is None:
            raise UserError(f"{folder} holds no model.safetensors; give the folder of the base model")
        self._known, self._tensors = found, OpenTensors(found, keep=False)

    def weight(self, module: str) -> Tensor:
        """The weight of a module, float32.

        Raises:
            UserError: the base lacks it.
        """
        key = f"{module}.weight"
        if key not in self._known:
            raise UserError(f"{self.folder} has no {key}, which a DoRA adapter rescales; is it the right base model?")
        return self._tensors[key].float()


def fold(weight: Tensor, update: Factors, magnitude: Tensor, rank: int) -> Folded:
    """Fold one module.

    Args:
        weight: (d_out, d_in) of the base.
        update: s B A.
        magnitude: (d_out,) or (d_out, 1), learned length of each row.
        rank: of the result.

    Raises:
        UserError: shapes that do not belong together.
    """
    delta = update.delta()
    if weight.shape != delta.shape or magnitude.numel() != len(weight):
        shapes = f"{tuple(weight.shape)} in the base, {tuple(delta.shape)} in the adapter"
        raise UserError(f"a DoRA module is {shapes}, with {magnitude.numel()} magnitudes")
    whole = weight + delta
    lengths = magnitude.float().reshape(-1) / whole.norm(dim=1).clamp_min(1e-12)
    exact = lengths[:, None] * whole - weight
    found = factorise(exact, rank, seed=0)
    energy = float(exact.double().square().sum())
    left = float((exact - found.delta()).double().square().sum())
    return Folded(found, 1.0 - left / energy if energy else 1.0)


def folded_text(name: str, kept: Mapping[str, float]) -> str:
    """One line about an adapter that was folded."""
    mean = sum(kept.values()) / len(kept)
    least = min(kept, key=lambda module: kept[module])
    return (
        f"{name} is DoRA: its magnitudes are absorbed into {TIMES} x its rank, which keeps {mean:.1%} of the update's "
        f"energy on average ({kept[least]:.1%} in {least})"
    )
