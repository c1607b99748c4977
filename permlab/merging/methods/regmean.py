"""RegMean: `regmean(spec, model, align(spec, [a, b], matching), [batches_a, batches_b])` (arXiv 2212.09849).

Each layer of the merged network should give, on every model's own inputs, what that model's layer gives: the closed
form is the mean of the weights, weighted by the Gram matrices of their inputs. K models, no new units. It sees each
model's own data: unlike plain least squares on pooled inputs it is told which sample belongs to which task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range
from permlab.matching.activation import as_inputs
from permlab.merging.methods.average import average
from permlab.merging.methods.grams import (
    Layer,
    LayerReader,
    choose_rows,
    layers_of,
    solve_ridge,
    warn_of_singular,
)
from permlab.merging.networks.states import State
from permlab.symmetry import Spec

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned
    from permlab.merging.setting import Setting


RIDGE = 1e-6
"""Where `Setting.ridge` leaves it open."""


def regmean(
    spec: Spec,
    model: nn.Module,
    states: Sequence[State],
    batches: Sequence[Iterable[Any]],
    *,
    shrink: float = 0.9,
    ridge: float = RIDGE,
    heads: Sequence[str] = (),
    max_rows: int = 4096,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Merge K networks layer by layer from the second moments of their inputs.

    Args:
        spec: the symmetry; its tied tensors are averaged.
        model: a module of the architecture, run in eval mode.
        states: K state dicts in a common order of units.
        batches: per model, its own data (tensors, (inputs, labels) or mappings; labels are not used).
        shrink: factor on the off-diagonal entries of the Gram matrices, 0 to 1 (the paper's alpha; 0.9).
        ridge: pull towards the plain average, relative to the mean squared input.
        heads: tensors of task heads, left out of the result.
        max_rows, seed: rows used per batch and layer, and the seed of their draw.

    Returns:
        The merged state dict. Biases are solved with the weights; everything that is no Linear or convolution weight
        is averaged.

    Raises:
        UserError: not one data set per model, one without batches, or a value out of range.
    """
    check_range("shrink", shrink, 0, 1)
    check_range("ridge", ridge, 0)
    if len(batches) != len(states):
        raise UserError(f"{len(states)} models but {len(batches)} data sets: RegMean needs one per model")
    shared = [{name: value for name, value in state.items() if name not in heads} for state in states]
    result = average(shared, tied=spec.tied)
    layers = [layer for layer in layers_of(model, spec)[0] if layer.weight in result]
    reader, generator = LayerReader(model, layers), torch.Generator().manual_seed(seed)
    grams: dict[str, Tensor] = {}
    cross: dict[str, Tensor] = {}
    for state, data in zip(states, batches):
        # G_k = X_k'X_k / n on the model's own data: its task's inputs weigh its weights.
        own = _grams(reader, state, data, max_rows, generator)
        if not own:
            raise UserError("RegMean got no data for one of the models: give at least one batch to each")
        for layer in (layer for layer in layers if layer.name in own):
            gram = own[layer.name]
            # arXiv 2212.09849: off-diagonal entries shrunk by alpha
            gram = shrink * gram + (1 - shrink) * torch.diag(gram.diagonal())
            # With its own layer as target X_k'Y_k = G_k W_k: no outputs need to be read.
            target = gram @ _matrix(layer, state).t()
            grams[layer.name] = grams.get(layer.name, 0) + gram
            cross[layer.name] = cross.get(layer.name, 0) + target
    # W = (sum_k G_k)^-1 sum_k G_k W_k: the closed form of arXiv 2212.09849
    for layer in (layer for layer in layers if layer.name in grams):
        _put(result, layer, solve_ridge(grams[layer.name], cross[layer.name], _matrix(layer, result), ridge))
    warn_of_singular("RegMean", grams)
    return result


def _put(result: dict[str, Tensor], layer: Layer, solved: Tensor) -> None:
    """Store [O, D] or, with a bias, [O, D + 1]."""
    if layer.bias:
        result[layer.bias] = solved[:, -1].to(result[layer.bias])
        solved = solved[:, :-1]
    result[layer.weight] = layer.tensor(solved, result[layer.weight]).contiguous()


def _matrix(layer: Layer, state: State) -> Tensor:
    """[O, D] or, with a bias, [O, D + 1], float64 on the CPU."""
    weight = layer.matrix(state[layer.weight]).cpu()
    return torch.cat([weight, state[layer.bias].detach().double().cpu()[:, None]], dim=1) if layer.bias else weight


def _grams(
    reader: LayerReader, state: State, batches: Iterable[Any], limit: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Layer -> mean of x x' over the rows, with a last column of ones where the layer has a bias."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        seen = reader.run(state, as_inputs(batch))
        for layer in reader.layers:
            for call in seen.get(layer.name, []):
                rows = layer.rows(*call)
                chosen = choose_rows(rows, limit, generator)
                x = (rows[0] if chosen is None else rows[0][chosen]).double()
                # A column of ones lets biases be solved for with the weights instead of averaged.
                x = torch.cat([x, x.new_ones(len(x), 1)], dim=1) if layer.bias else x
                sums[layer.name] = sums.get(layer.name, 0) + (x.t() @ x).cpu()
                counts[layer.name] = counts.get(layer.name, 0) + len(x)
    # Means instead of sums: a task with more data does not count more.
    return {name: total / counts[name] for name, total in sums.items()}


def combine_regmean(networks: Aligned, setting: Setting) -> State:
    """`regmean` as a row of `COMBINES`."""
    return regmean(
        networks.spec,
        networks.module,
        networks.states,
        setting.data_of(len(networks.states)),
        heads=networks.heads,
        seed=setting.seed,
        ridge=RIDGE if setting.ridge is None else setting.ridge,
    )
