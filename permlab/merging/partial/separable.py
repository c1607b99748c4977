"""Which groups may keep units apart: `reasons = not_separable(spec, model, (images,))`.

Nothing is listed by layer type. A network merged with itself must compute what it did before, whatever is merged and
whatever is kept twice; a layer that mixes all units of a group (LayerNorm, a softmax over units) or that fixes its
size breaks this, and the group is merged as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError
from permlab.merging.partial.layout import Layout
from permlab.symmetry import ChannelGroup, Spec
from permlab.symmetry.functional import KeepDouble, call
from permlab.symmetry.verification import TOLERANCE, double_inputs, outputs, shaken_copy


def not_separable(
    spec: Spec,
    model: nn.Module,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> dict[str, str]:
    """Group -> why its units cannot be kept apart; groups that can are left out.

    Runs in float64 on a copy of the network, one forward call per group and one for all that passed.

    Args:
        spec: the verified symmetry.
        model: the network; left untouched.
        inputs: of one forward call, as in `permlab.symmetry.verification`.
        seed: of the shaking that keeps freshly initialised norms from hiding a dependence.
        tolerance: largest accepted change relative to the largest output.

    Raises:
        UserError: groups that pass alone change the function together.
    """
    twin = _Twin(spec, model, inputs, seed)
    found: dict[str, str] = {}
    for name in spec.groups:
        reason = twin.refusal({name: _ratio(spec, name)}, tolerance)
        if reason:
            found[name] = reason
    # Groups share layers, so what passes one by one is tried together as well.
    free = {name: _ratio(spec, name) for name in spec.groups if name not in found}
    reason = twin.refusal(free, tolerance) if free else ""
    if reason:
        raise UserError(f"keeping units of {', '.join(free)} apart works one by one but not together: {reason}")
    return found


def _ratio(spec: Spec, name: str) -> float:
    """Half of the units where a group can be split, all of them where it cannot."""
    group = spec.groups[name]
    # Half merged, half apart has all blocks at once; heads have no halves.
    return 0.5 if isinstance(group, ChannelGroup) and group.size > 1 else 1.0


class _Twin:
    """A network to be merged with itself."""

    def __init__(self, spec: Spec, model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any], seed: int) -> None:
        self.spec = spec
        self.model = shaken_copy(model, torch.Generator().manual_seed(seed))
        self.state = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.inputs = double_inputs(inputs)
        self.reference = self._run(self.state)

    @torch.no_grad()
    def _run(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        with KeepDouble():
            return outputs(call(self.model, state, self.inputs))

    def refusal(self, ratios: Mapping[str, float], tolerance: float) -> str:
        """Empty when merging with itself at these ratios changes nothing, else a sentence that says what it does."""
        # Which pairs stay apart is irrelevant here: a network merged with itself pairs every unit with itself.
        scores = {name: torch.arange(float(group.units)) for name, group in self.spec.groups.items()}
        layout = Layout(self.spec, self.model, scores=scores, ratios=ratios)
        try:
            got = self._run(layout.merge([self.state, self.state]))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            line = (str(error).splitlines() or [""])[0][:120]
            return f"a layer does not accept another number of units ({type(error).__name__}: {line})"
        if [value.shape for value in got] != [value.shape for value in self.reference]:
            return "the outputs change their shape"
        scale = max(float(value.abs().max()) for value in self.reference) or 1.0
        change = max(float((x - y).abs().max()) for x, y in zip(self.reference, got)) / scale
        if change <= tolerance:
            return ""
        return f"a layer mixes all units, so that keeping some twice changes the outputs by {change:.1e} of their size"
