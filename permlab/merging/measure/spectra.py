"""Distances and singular vectors: `l2_reduction(spec, a, b, permutation)`, `polar_cosine(spec, a, b, gamma=0.3)`.

Why does matching work? It shortens the distance little, but it turns the leading singular vectors towards each other
(arXiv 2402.04051). Untrained networks are the control: their distance shrinks too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.errors import UserError, check_choice, check_range
from permlab.matching.distance import squared_norm
from permlab.merging.networks.states import State
from permlab.symmetry import Permutation, Spec, permute_tensor


def l2_distance(spec: Spec, a: State, b: State, permutation: Permutation | None = None) -> float:
    """Euclidean distance between A and the (permuted) B over the matched tensors."""
    return float(squared_norm(spec, a, b, permutation if permutation is not None else spec.identity()) ** 0.5)


def l2_reduction(spec: Spec, a: State, b: State, permutation: Permutation) -> float:
    """Share of the distance that the permutation takes away: (|A - B| - |A - pi(B)|) / |A - B|; 0 when A equals B."""
    # The reduction rate of arXiv 2402.04051: small, though barriers fall, which is what its analysis sets out from.
    before = l2_distance(spec, a, b)
    return (before - l2_distance(spec, a, b, permutation)) / before if before else 0.0


def weight_matrices(spec: Spec, state: State) -> dict[str, Tensor]:
    """Matched weights flattened to [first axis, rest], float64; biases, norms and others of rank one are left out."""
    return {
        name: state[name].detach().double().flatten(1)
        for name in spec.matched()
        if state[name].dim() >= 2 and min(state[name].flatten(1).shape) > 1
    }


def singular_values(spec: Spec, state: State) -> dict[str, Tensor]:
    """Tensor -> its singular values, descending, float64."""
    return {name: torch.linalg.svdvals(matrix) for name, matrix in weight_matrices(spec, state).items()}


def _kept(s: Tensor, gamma: float, longest: int) -> Tensor:
    """Which singular values are at least `gamma` times the largest one, and above rounding level."""
    # Directions at rounding level are arbitrary, and would add chance agreement to R(0).
    least = max(gamma, longest * torch.finfo(s.dtype).eps) * s[0]
    return (s >= least) & (s[0] > 0)


def polar_factor(matrix: Tensor, gamma: float = 0.0) -> tuple[Tensor, int]:
    """(U V', k) of the k singular vectors whose singular value is at least `gamma` times the largest one.

    Values at rounding level have no vectors of their own and are left out also at gamma 0. The product does not depend
    on the signs of singular vectors, nor on rotations among equal singular values that are all kept.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    kept = _kept(s, gamma, max(matrix.shape))
    # U V', the polar factor: every kept direction counts alike, whatever its singular value.
    return u[:, kept] @ vh[kept], int(kept.sum())


@dataclass(frozen=True)
class Alignment:
    """`total`: R over all layers; `layers`: tensor -> R of that tensor; `kept`: tensor -> vectors kept (A, B)."""

    total: float
    layers: dict[str, float]
    kept: dict[str, tuple[int, int]]


class Decomposition:
    """The singular value decomposition of every matched weight of one network, computed once.

    A permutation moves singular vectors as it moves the weights, so one decomposition serves every permutation.

    Attributes:
        parts: tensor -> (U [O, k], S [k], V' [k, D]) float64 of the weight flattened to [O, D].

    Raises:
        UserError: a network without weight matrices.
    """

    def __init__(self, spec: Spec, state: State) -> None:
        self.spec, self.state = spec, state
        self.parts = {
            name: tuple(torch.linalg.svd(matrix, full_matrices=False))
            for name, matrix in weight_matrices(spec, state).items()
        }
        if not self.parts:
            raise UserError("the spec lists no weight matrix, so there are no singular vectors to compare")
        self._polar: dict[float, tuple[dict[str, Tensor], dict[str, int]]] = {}

    def polar(self, gamma: float) -> tuple[dict[str, Tensor], dict[str, int]]:
        """(tensor -> truncated polar factor in the tensor's shape, tensor -> singular vectors kept)."""
        if gamma not in self._polar:
            factors, counts = {}, {}
            for name, (u, s, vh) in self.parts.items():
                kept = _kept(s, gamma, max(len(u), vh.shape[1]))
                factors[name] = (u[:, kept] @ vh[kept]).reshape(self.state[name].shape)
                counts[name] = int(kept.sum())
            self._polar[gamma] = (factors, counts)
        return self._polar[gamma]

    def truncated(self, gamma: float, part: str) -> dict[str, Tensor]:
        """See `truncated`."""
        check_choice("part", part, ("leading", "rest"))
        check_range("gamma", gamma, 0, 1)
        return self.restricted(
            {name: (s >= gamma * s[0]) == (part == "leading") for name, (_, s, _) in self.parts.items()}
        )

    def restricted(self, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict with the chosen singular vectors only, tensor -> mask [k] over the values in `parts`."""
        result = dict(self.state)
        for name, (u, s, vh) in self.parts.items():
            kept, like = chosen[name], self.state[name]
            # Singular values stay, as weight matching weighs directions by them.
            result[name] = ((u[:, kept] * s[kept]) @ vh[kept]).reshape(like.shape).to(like)
        return result

    def cosine(self, other: Decomposition, gamma: float = 0.0, permutation: Permutation | None = None) -> Alignment:
        """R(gamma) to another network after permuting it; see `polar_cosine`."""
        check_range("gamma", gamma, 0, 1)
        (first, k), (second, m) = self.polar(gamma), other.polar(gamma)
        layers, kept = {}, {}
        inner = norm = 0.0
        for name in first:
            moved = permute_tensor(self.spec, name, second[name], permutation or self.spec.identity())
            # sum_ij (u_i.u'_j)(v_i.v'_j) = <U_A V_A', U_B V_B'>: R(gamma) without its loop over pairs.
            product, scale = float((first[name] * moved).sum()), (k[name] * m[name]) ** 0.5
            layers[name], kept[name] = product / scale if scale else 0.0, (k[name], m[name])
            inner, norm = inner + product, norm + scale
        return Alignment(inner / norm if norm else 0.0, layers, kept)


def polar_cosine(spec: Spec, a: State, b: State, gamma: float = 0.0) -> Alignment:
    """R(gamma): how far the leading singular vectors of two networks in a common order of units agree.

    R = sum_l sum_ij (u_i . u'_j)(v_i . v'_j) / sum_l n_l (arXiv 2402.04051). The double sum is the inner
    product of the truncated polar factors U V' of the two weights, so no loop over pairs is needed. Where the networks
    keep different numbers of vectors the denominator is sum_l sqrt(k_A k_B), which bounds R by 1; R(A, A) = 1.

    Args:
        spec: tells which weights count (`weight_matrices`).
        a, b: state dicts; permute B first (`align`).
        gamma: vectors count whose singular value is at least this share of the layer's largest, 0 to 1.

    Raises:
        UserError: gamma out of range, or a network without weight matrices.
    """
    return Decomposition(spec, a).cosine(Decomposition(spec, b), gamma)


def truncated(spec: Spec, state: State, *, gamma: float = 0.3, part: str = "leading") -> dict[str, Tensor]:
    """A state dict whose weight matrices keep only their leading singular vectors, or only the rest.

    Matching by the one or the other alone tells which of them carries the alignment.

    Args:
        gamma: leading vectors have a singular value of at least this share of the layer's largest.
        part: leading or rest.
    """
    return Decomposition(spec, state).truncated(gamma, part)


def mean_alignment(
    spec: Spec, states: Sequence[State], gammas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
) -> Mapping[float, float]:
    """gamma -> R between the two networks in `states`; the sweep that shows where the agreement sits."""
    first, second = (Decomposition(spec, state) for state in states)
    return {gamma: first.cosine(second, gamma).total for gamma in gammas}
