"""Layer-wise least squares after matching: `least_squares(layout, model, align(spec, [a, b], matching), batches)`.

Every Linear and convolution layer is fitted on its own so that, from the merged inputs of the two original networks, it
gives their merged outputs (PLeaS, arXiv 2407.02447, second step). One streaming pass accumulates Gram matrices for all
layers; the solution is closed-form in float64, with blocks between units of different models held at 0 and a ridge
towards the averaged weights. No labels are needed, and any inputs will do: `noise_batches` for none at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range
from permlab.matching.activation import as_inputs
from permlab.matching.weight import Progress
from permlab.merging.methods.grams import (
    Layer,
    LayerReader,
    Rows,
    choose_rows,
    layers_of,
    solve_ridge,
    warn_of_singular,
)
from permlab.merging.networks.states import State
from permlab.merging.partial.layout import MERGED, ONLY_A, ONLY_B, Layout

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned
    from permlab.merging.setting import Setting


@dataclass
class Fitted:
    """Merged weights and how well they fit.

    Attributes:
        state: the merged state dict.
        before, after: layer -> squared error on the training rows relative to the squared targets, of the averaged and
            of the fitted weights; `after` is never larger.
        notes: layer -> why it was averaged instead.
    """

    state: dict[str, Tensor]
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@dataclass
class _Gram:
    """Streamed products of one layer: inputs with inputs [D, D], with targets [D, O], squared targets (float64)."""

    inputs: Tensor
    cross: Tensor
    squared: float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        self.inputs += (x.t() @ x).to(self.inputs.device)
        self.cross += (x.t() @ y).to(self.cross.device)
        self.squared += float(y.square().sum())

    def error(self, weight: Tensor) -> float:
        """|X W' - Y|^2 relative to |Y|^2 for W [O, D]."""
        # |X W' - Y|^2 = |Y|^2 - 2 <W, Y'X> + <W G, W>: the streamed products suffice, no rows are kept.
        wrong = (
            self.squared - 2 * float((weight * self.cross.t()).sum()) + float(((weight @ self.inputs) * weight).sum())
        )
        return max(0.0, wrong) / max(self.squared, 1e-300)


RIDGE = 1e-3
"""Where `Setting.ridge` leaves it open."""


def least_squares(
    layout: Layout,
    model: nn.Module,
    states: Sequence[State],
    batches: Iterable[Any],
    *,
    ridge: float = RIDGE,
    max_rows: int = 4096,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fitted:
    """Fit all layers of the merged network.

    Args:
        layout: which units are merged.
        model: a module of the architecture, run in eval mode with the two original networks.
        states: two state dicts in A's order of units (`align`).
        batches: tensors, (inputs, labels), or mappings; labels are not used.
        ridge: pull towards the averaged weights, relative to the mean squared input; 0 or more.
        max_rows: rows (samples times positions) used per batch and layer; more are drawn at random.
        seed: of that draw.
        progress: called with (batches done, batches) when `batches` has a length.

    Returns:
        The fitted network; norms, embeddings and layers in `notes` are averaged. BatchNorm statistics belong to the
        averaged network: reset them (`reset_batchnorm`).

    Raises:
        UserError: no data, or a negative ridge.
    """
    check_range("ridge", ridge, 0)
    check_range("max_rows", max_rows, 1)
    layers, notes = layers_of(model, layout.spec)
    layers = [layer for layer in layers if layer.weight not in layout.heads and layer.weight in states[0]]
    # PLeaS, first step: the partly merged average that the fit starts from.
    merged = layout.merge(states)
    mixers = {layer.name: _Mixer(layout, layer, states[0][layer.weight]) for layer in layers}
    reader, grams = LayerReader(model, layers), {}
    generator = torch.Generator().manual_seed(seed)
    total = len(batches) if isinstance(batches, Sized) else 0
    for number, batch in enumerate(batches):
        # PLeaS: features of the original networks, so layers are independent and errors do not travel on.
        seen = [reader.run(state, as_inputs(batch)) for state in states]
        for layer in layers:
            for calls in zip(*(each.get(layer.name, []) for each in seen)):
                x, y = mixers[layer.name].mix([layer.rows(*call) for call in calls], max_rows, generator)
                if layer.name not in grams:
                    zeros = torch.zeros(x.shape[1], x.shape[1] + y.shape[1], dtype=torch.float64)
                    grams[layer.name] = _Gram(*(each.clone() for each in zeros.split([x.shape[1], y.shape[1]], dim=1)))
                # G = X'X and X'Y of every layer in one pass: a closed form in place of the published gradient steps.
                grams[layer.name].add(x, y)
        if progress is not None and total:
            progress(number + 1, total)
    if not grams:
        raise UserError("least squares got no data: give at least one batch of inputs")
    result = Fitted(dict(merged), notes=notes)
    for layer in layers:
        if layer.name in grams:
            _fit(result, layer, mixers[layer.name], grams[layer.name], ridge)
        else:
            result.notes[layer.name] = "no data passed through it"
    warn_of_singular("least squares", {name: gram.inputs for name, gram in grams.items()})
    return result


class _Mixer:
    """Turns rows of the two networks into rows of the merged one, for one layer."""

    def __init__(self, layout: Layout, layer: Layer, weight: Tensor) -> None:
        self.columns = layout.places(layer.weight, layer.in_axis, weight.shape[layer.in_axis]).repeat(layer.kernel)
        self.outputs = layout.places(layer.weight, layer.out_axis, weight.shape[layer.out_axis])
        self.weights, self.bias = layout.weights, layer.bias is not None

    def mix(self, rows: Sequence[Rows], limit: int, generator: torch.Generator) -> Rows:
        """(X, Y) float64: merged columns are weighted means, the others belong to one model; X ends with ones."""
        # The same rows of both networks: a merged target is the mean of two outputs for one input.
        chosen = choose_rows(rows[0], limit, generator)
        mixed = []
        for side, places in enumerate((self.columns, self.outputs)):
            values = [pair[side] if chosen is None else pair[side][chosen] for pair in rows]
            total = torch.zeros(len(values[0]), len(places.kind), dtype=torch.float64, device=values[0].device)
            for k, value in enumerate(values):
                index = places.index[k].to(value.device)
                # PLeaS's mixed features: the (weighted) mean on merged units, the model's own value on the others.
                share = torch.where(places.kind == MERGED, self.weights[k], 1.0).double().to(value.device)[index]
                total.index_add_(1, index, value.double() * share)
            mixed.append(total)
        x, y = mixed
        return (torch.cat([x, x.new_ones(len(x), 1)], dim=1) if self.bias else x), y


def _fit(result: Fitted, layer: Layer, mixer: _Mixer, gram: _Gram, ridge: float) -> None:
    """Solve one layer, rows of merged units from all columns, rows of one model's units from what it can read."""
    weight = result.state[layer.weight]
    start = layer.matrix(weight).cpu()
    if layer.bias:
        start = torch.cat([start, result.state[layer.bias].detach().double().cpu()[:, None]], dim=1)
    columns = mixer.columns.kind
    if layer.bias:
        # Every unit has a bias, whichever model it came from: the column of ones counts as shared.
        columns = torch.cat([columns, torch.tensor([MERGED])])
    # Blocks between units of different models are 0 in the average and stay exactly 0.
    solved = start.clone()
    # One system per kind of unit: the zero pattern holds by construction instead of by masked gradients.
    for kind, unread in ((MERGED, None), (ONLY_A, ONLY_B), (ONLY_B, ONLY_A)):
        rows = (mixer.outputs.kind == kind).nonzero().flatten()
        if not len(rows):
            continue
        read = (columns != (-1 if unread is None else unread)).nonzero().flatten()
        # min_W |W X - Y|^2 + ridge |W - average|^2 over the columns that these rows may read (PLeaS, second step)
        found = solve_ridge(gram.inputs[read][:, read], gram.cross[read][:, rows], start[rows][:, read], ridge)
        solved[rows[:, None], read] = found
    if layer.bias:
        bias = result.state[layer.bias]
        result.state[layer.bias] = solved[:, -1].to(bias)
    result.state[layer.weight] = layer.tensor(solved[:, :-1] if layer.bias else solved, weight).contiguous()
    result.before[layer.name], result.after[layer.name] = gram.error(start), gram.error(solved)


def combine_least_squares(networks: Aligned, setting: Setting) -> State:
    """`least_squares` as a row of `COMBINES`."""
    fitted = least_squares(
        networks.layout(setting.weights),
        networks.module,
        networks.states,
        setting.batches,
        seed=setting.seed,
        ridge=RIDGE if setting.ridge is None else setting.ridge,
    )
    networks.notes |= fitted.notes
    return fitted.state
