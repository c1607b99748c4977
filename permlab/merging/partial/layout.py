"""Partial merging: which units of two models become one and which stay apart, and the tensors that follow from it.

    layout = Layout(spec, model, scores=pair_scores(spec, a, b, matching), ratios={"layers.2": 0.5})
    state = layout.merge(align(spec, [a, b], matching))      # larger tensors, same module: call(model, state, (x,))

With ratio r of a group of n units, the best-matched (1 - r) n pairs are merged and r n units of each model stay; the
new order is [merged | A only | B only], its length n (1 + r). Entries that read units of the other model only are
exactly 0 (PLeaS, arXiv 2407.02447, partial matching). Layers whose function mixes all units (LayerNorm) cannot grow:
`separable` finds out by experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range
from permlab.matching import Matching
from permlab.matching.cost import CostBuilder
from permlab.matching.weight import finish
from permlab.matching.zip import writing_axes
from permlab.merging.networks.states import State
from permlab.merging.setting import mixture_weights
from permlab.symmetry import Block, ChannelGroup, Spec

MERGED, ONLY_A, ONLY_B = 0, 1, 2


@dataclass(frozen=True)
class Places:
    """Where the entries of one axis go: `index[k]` [old length] into the new axis; `kind` [new length]."""

    index: tuple[Tensor, Tensor]
    kind: Tensor

    @property
    def merged(self) -> int:
        """Entries that both models share."""
        return int((self.kind == MERGED).sum())

    def repeat(self, inner: int) -> Places:
        """The same with every entry replaced by `inner` neighbouring ones (kernel positions of a convolution)."""
        steps = torch.arange(inner)
        first, second = ((each[:, None] * inner + steps).flatten() for each in self.index)
        return Places((first, second), self.kind.repeat_interleave(inner))


def pair_scores(spec: Spec, a: State, b: State, matching: Matching) -> dict[str, Tensor]:
    """How well every slot is matched, group -> [n], larger is better.

    From the matching itself; for one without costs (identity, random) from the weights, entry for entry.
    """
    # Scores come with B's original frame: PLeaS ranks pairs by the very costs that matched them.
    if len(matching.scores) == 2 and matching.scores[1].keys() >= spec.groups.keys():
        return matching.scores[1]
    held = Matching(matching.method, list(matching.permutations))
    full = {**spec.identity(), **matching.permutation}
    finish(held, CostBuilder(spec, a, b), full, keep_costs=False)
    return {**{name: torch.zeros(group.units) for name, group in spec.groups.items()}, **held.scores[1]}


class Layout:
    """The units of a partly merged network.

    Args:
        spec: the symmetry of one model.
        model: a module of the architecture; only its module types are looked at.
        scores: group -> [n] as from `pair_scores`; the best pairs are merged first. Groups may be left out when they
            are merged or separate as a whole.
        ratios: group -> share of units kept separate, 0 to 1; groups left out are merged. Head groups: 0 or 1.
        heads: tensors of task heads: kept per model, see `task_state`.
        weights: share of each model in what is merged (default 0.5 each).

    Raises:
        UserError: an unknown group, a ratio out of range, or attention heads that are to be split.
    """

    def __init__(
        self,
        spec: Spec,
        model: nn.Module,
        *,
        scores: Mapping[str, Tensor] | None = None,
        ratios: Mapping[str, float] | None = None,
        heads: Sequence[str] = (),
        weights: Sequence[float] | None = None,
    ) -> None:
        self.spec, self.heads = spec, tuple(heads)
        self.weights = mixture_weights(2, weights)
        self.writes = writing_axes(spec, model)
        self._places: dict[tuple[str, int, int], Places] = {}
        self.separate: dict[str, Tensor] = {}
        for name, ratio in (ratios or {}).items():
            if name not in spec.groups:
                raise UserError(f"there is no group {name} (groups: {', '.join(spec.groups)})")
            check_range(f"ratio of {name}", ratio, 0, 1)
            self.separate[name] = self._choose(name, ratio, (scores or {}).get(name))

    def _choose(self, name: str, ratio: float, scores: Tensor | None) -> Tensor:
        """Slots of a group that stay separate, ascending: those with the lowest scores."""
        group = self.spec.groups[name]
        count = round(ratio * group.units)
        if count in (0, group.units):
            return torch.arange(count)
        if not isinstance(group, ChannelGroup):
            raise UserError(f"attention heads are merged or kept as a whole: the ratio of {name} must be 0 or 1")
        if scores is None:
            raise UserError(f"group {name} is to be merged in part, which needs the scores of its pairs (pair_scores)")
        # PLeaS, partial matching: the best-scored pairs are merged; stable, so that equal scores give one layout.
        return torch.argsort(scores.double(), stable=True)[:count].sort().values

    def size(self, group: str) -> int:
        """Number of units of a group after merging."""
        return self.spec.groups[group].units + len(self.separate.get(group, ()))

    @property
    def ratios(self) -> dict[str, float]:
        """The ratios that whole units allow, for every group."""
        return {name: len(self.separate.get(name, ())) / group.units for name, group in self.spec.groups.items()}

    def _units(self, block: Block) -> Places:
        group = self.spec.groups[block.group]
        n = group.spaces()[block.space]
        chosen = self.separate.get(block.group, torch.arange(0))
        # Heads are counted in wholes but indexed by dims: kept apart, all their entries are.
        if len(chosen) == group.units:
            chosen = torch.arange(n)
        apart = torch.zeros(n, dtype=torch.bool)
        apart[chosen] = True
        count = len(chosen)
        index = torch.empty(n, dtype=torch.long)
        index[~apart] = torch.arange(n - count)
        index[apart] = n - count + torch.arange(count)
        # The new order is [merged | A only | B only]: B's own units stand one block behind A's.
        other = index + count * apart
        kind = torch.tensor([MERGED] * (n - count) + [ONLY_A] * count + [ONLY_B] * count, dtype=torch.long)
        return Places((index, other), kind)

    def places(self, tensor: str, axis: int, length: int) -> Places:
        """Where the entries of one axis of one tensor go; stretches that no group owns are merged."""
        key = (tensor, axis, length)
        if key not in self._places:
            self._places[key] = self._find_places(tensor, axis, length)
        return self._places[key]

    def _find_places(self, tensor: str, axis: int, length: int) -> Places:
        parts: list[Places] = []
        at = 0
        for block in sorted(self.spec.axes.get(tensor, {}).get(axis, ()), key=lambda each: each.offset):
            parts += [_plain(block.offset - at)] if block.offset > at else []
            places = self._units(block).repeat(block.inner)
            parts += [places] * block.outer
            at = block.offset + block.outer * len(places.index[0])
        parts += [_plain(length - at)] if length > at else []
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part.kind))
        first, second = (torch.cat([part.index[k] + at for part, at in zip(parts, starts)]) for k in (0, 1))
        return Places((first, second), torch.cat([part.kind for part in parts]))

    def all_places(self, name: str, tensor: Tensor) -> list[Places]:
        """`places` of every axis."""
        return [self.places(name, axis, length) for axis, length in enumerate(tensor.shape)]

    def spread(self, name: str, tensor: Tensor, model: int) -> Tensor:
        """One model's tensor in the new order, 0 where only the other model has entries."""
        for axis in self.spec.axes.get(name, {}):
            places = self.places(name, axis, tensor.shape[axis])
            shape = [*tensor.shape[:axis], len(places.kind), *tensor.shape[axis + 1 :]]
            # What the other model's units would feed in stays 0: r = 1 everywhere is the exact ensemble.
            tensor = tensor.new_zeros(shape).index_copy_(axis, places.index[model].to(tensor.device), tensor)
        return tensor

    def shares(self, name: str, shape: Sequence[int], model: int) -> Tensor | float:
        """Factor on one model's entries: its weight where the written unit is merged, 1 where it has it alone."""
        shared: Tensor | None = None
        # Merged rows average whatever they read; rows of one model keep full weight even on merged columns (PLeaS).
        for axis in self.writes.get(name, ()):
            merged = self.places(name, axis, shape[axis]).kind == MERGED
            merged = merged.view([-1 if at == axis else 1 for at in range(len(shape))])
            shared = merged if shared is None else shared & merged
        weight = self.weights[model]
        return weight if shared is None else torch.where(shared, weight, 1.0)

    def mask(self, name: str, tensor: Tensor) -> Tensor:
        """True where an entry of the merged tensor may differ from 0; `tensor` is one model's."""
        ones = torch.ones(tensor.shape)
        return (self.spread(name, ones, 0) + self.spread(name, ones, 1)) > 0

    def merge(self, states: Sequence[State]) -> dict[str, Tensor]:
        """The merged network's state dict; tensors are larger where units stay separate.

        Args:
            states: two state dicts, both in A's order of units (see `align`). Task heads may differ in shape: they
                are left out of the result, as `task_state` supplies them.
        """
        result: dict[str, Tensor] = {}
        for name, first in states[0].items():
            canonical = self.spec.tied.get(name, name)
            if name in self.heads or (canonical != name and canonical in states[0]):
                continue
            if not first.is_floating_point():
                result[name] = first.clone()
                continue
            wide = torch.promote_types(first.dtype, torch.float32)
            parts = []
            for k, state in enumerate(states):
                share = self.shares(name, first.shape, k)
                share = share.to(first.device, wide) if isinstance(share, Tensor) else share
                parts.append(self.spread(name, state[name].detach().to(first.device, wide), k) * share)
            result[name] = (parts[0] + parts[1]).to(first.dtype)
        for alias, canonical in self.spec.tied.items():
            if alias in states[0] and canonical in result:
                result[alias] = result[canonical]
        return result

    def task_state(self, trunk: State, state: State, model: int) -> dict[str, Tensor]:
        """The merged trunk under one model's own head: the head reads the merged units and the model's own.

        Args:
            trunk: from `merge` (or after least squares).
            state: that model's state dict, in A's order of units.
            model: 0 or 1.
        """
        # Different labels: a head reads the merged units in its model's place and nothing of the other's own.
        own = {name: self.spread(name, state[name].detach(), model) for name in self.heads if name in state}
        return {**trunk, **own}


def _plain(length: int) -> Places:
    index = torch.arange(length)
    return Places((index, index), torch.zeros(length, dtype=torch.long))
