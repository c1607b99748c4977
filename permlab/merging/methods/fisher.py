"""Fisher averaging: `fisher_average(states, [diagonal_fisher(model, state, batches) for state in states])`.

Every entry of the merged network is the mean of the networks' entries, each weighted by how much its network depends
on it: the diagonal of the Fisher information matrix (Matena and Raffel, arXiv 2111.09832). It maximises the sum of the
networks' posteriors, each approximated by a Gaussian around its weights. Networks must be in a common order of units:
a permutation moves an entry of the Fisher matrix with the weight that it belongs to.

No labels are read: the expectation over them is taken under the network's own distribution, exactly over all classes
up to `EXACT_CLASSES` of them and over labels drawn from it above. Gradients are per sample (`torch.func`), as a
gradient of a batch would square the mean instead of averaging the squares.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from permlab.errors import UserError, check_range
from permlab.matching.activation import added, as_inputs
from permlab.merging.measure.evaluate import eval_mode, labels_of, logits_in
from permlab.merging.methods.average import average
from permlab.merging.networks.states import State
from permlab.merging.setting import Setting, mixture_weights
from permlab.merging.streaming import stream
from permlab.symmetry.functional import call, without_duplicates

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned

EXACT_CLASSES = 16
"""The expectation over labels is exact up to this many classes."""
SAMPLES = 1024
"""Samples that `combine_fisher` takes per network: each costs one gradient per class."""


def diagonal_fisher(
    model: nn.Module,
    state: State,
    batches: Iterable[Any],
    *,
    outputs: Sequence[int] | None = None,
    limit: int | None = None,
    draws: int = 1,
    chunk: int = 32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information of a classifier: E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta)^2.

    Args:
        model: a module of the architecture, run in eval mode.
        state: its tensors.
        batches: inputs: tensors, (inputs, labels) or mappings; labels are not used.
        outputs: outputs of the head that are classes of this network; default all.
        limit: samples read, from the first on; default all.
        draws: labels drawn per sample where there are more than `EXACT_CLASSES`.
        chunk: samples whose gradients are held at once, each as large as the network.
        seed: of these draws.

    Returns:
        Parameter name -> tensor of its shape in float64, nothing negative. Buffers have no Fisher information.

    Raises:
        UserError: no samples.
    """
    check_range("draws", draws, 1)
    check_range("chunk", chunk, 1)
    whole = without_duplicates(model, state)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    parameters = {name: value.detach() for name, value in whole.items() if name in names}
    others = {name: value for name, value in whole.items() if name not in names}
    generator = torch.Generator().manual_seed(seed)

    def log_probabilities(tensors: Mapping[str, Tensor], inputs: Any) -> Tensor:
        logits = logits_in(call(model, {**tensors, **others}, _map(lambda each: each[None], inputs)))[0]
        # Normalised over the network's own classes: those that it never saw would only add noise.
        return (logits if outputs is None else logits[list(outputs)]).log_softmax(-1)

    def log_probability(tensors: Mapping[str, Tensor], inputs: Any, label: Tensor) -> Tensor:
        return log_probabilities(tensors, inputs).gather(0, label[None])[0]

    # One gradient per sample, for a label of its own.
    gradients = torch.func.vmap(torch.func.grad(log_probability), in_dims=(None, 0, 0))
    totals = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}
    count = 0
    # Fused attention has no rule for a gradient per sample; the plain formula has.
    with eval_mode(model), sdpa_kernel(SDPBackend.MATH):
        for inputs in _chunks(batches, chunk, limit):
            with torch.no_grad():
                # Labels come from the model's own p(y|x): true labels would give the empirical Fisher matrix instead.
                logs = torch.func.vmap(log_probabilities, in_dims=(None, 0))(parameters, inputs)
            for labels, shares in _expected(logs.exp(), draws, generator):
                for name, value in gradients(parameters, inputs, labels).items():
                    # E_x E_y (d log p / d theta)^2, each sample squared before the mean (arXiv 2111.09832).
                    totals[name] += torch.einsum("n,n...->...", shares.double(), value.double().square())
            count += len(logs)
    if not count:
        raise UserError("Fisher information needs data: give at least one batch of inputs")
    return {name: total / count for name, total in totals.items()}


def _expected(probabilities: Tensor, draws: int, generator: torch.Generator) -> Iterable[tuple[Tensor, Tensor]]:
    """(a label per sample, its share in the expectation), exact over few classes [N, C] and drawn over many."""
    classes = probabilities.shape[1]
    if classes <= EXACT_CLASSES:
        # With few classes the expectation over labels is a short sum, free of the noise of draws.
        for label in range(classes):
            yield torch.full_like(probabilities[:, 0], label, dtype=torch.long), probabilities[:, label]
        return
    for _ in range(draws):
        labels = torch.multinomial(probabilities.cpu(), 1, generator=generator)[:, 0].to(probabilities.device)
        yield labels, torch.full_like(probabilities[:, 0], 1 / draws)


def _chunks(batches: Iterable[Any], size: int, limit: int | None) -> Iterable[Any]:
    """Inputs of `size` samples at a time, `limit` in all."""
    left = limit
    for batch in batches:
        inputs = as_inputs(batch)
        length = len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs[0])
        length = length if left is None else min(length, left)
        for at in range(0, length, size):
            yield _map(operator.itemgetter(slice(at, min(at + size, length))), inputs)
        left = None if left is None else left - length


def _map(change: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: change(value) for name, value in inputs.items()}
    return tuple(change(value) for value in inputs)


def fisher_average(
    states: Sequence[State],
    fishers: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    *,
    floor: float = 1e-6,
    tied: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """theta_j = sum_i w_i F_ij theta_ij / sum_i w_i F_ij (the closed form of Fisher merging, arXiv 2111.09832).

    Args:
        states: K state dicts in a common order of units.
        fishers: per network, name -> Fisher information of every entry; tensors left out are averaged.
        weights: one number per network, scaled to sum to 1 (default: equal).
        floor: added to every Fisher entry, relative to the mean over all entries and networks: where no network has
            any information, the plain average is left.
        tied: as in `average`.

    Raises:
        UserError: networks that differ, not one Fisher per network, or weights that do not fit.
    """
    check_range("floor", floor, 0, open_interval=True)
    if len(fishers) != len(states):
        raise UserError(f"{len(states)} networks but {len(fishers)} Fisher diagonals: give one per network")
    shares = mixture_weights(len(states), weights)
    # Buffers have no gradient, hence no Fisher information: they keep the plain mean.
    result = average(states, weights, tied=tied)
    common = [name for name in result if all(name in each for each in fishers)]
    entries = sum(fishers[0][name].numel() for name in common) * len(fishers)
    # A floor relative to the information itself: its scale depends on data and loss, so no constant would fit.
    mean = sum(float(each[name].sum()) for each in fishers for name in common) / max(1, entries)
    smallest = floor * mean or 1.0  # no information anywhere: any constant gives the average
    for name in common:
        # w_i F_ij, with the floor that leaves the average where nobody knows anything
        information = [share * (each[name].double() + smallest) for share, each in zip(shares, fishers)]
        total = added(part * state[name].double() for part, state in zip(information, states))
        result[name] = (total / added(information)).to(result[name])
    for alias, canonical in (tied or {}).items():
        if alias in result and canonical in result:
            result[alias] = result[canonical]
    return result


def combine_fisher(networks: Aligned, setting: Setting) -> State:
    """`fisher_average` as a row of `COMBINES`: each network's information on its own data, in the common order."""
    if setting.fisher:
        from permlab.merging.methods.fisher_files import stream_fisher

        return dict(stream(stream_fisher, networks, setting, ancestral=False))
    fishers = []
    for state, batches in zip(networks.states, setting.data_of(len(networks.states))):
        # Networks with heads of their own know their own classes only; the other outputs were never trained.
        outputs = sorted(labels_of(batches).unique().tolist()) if networks.heads else None
        if outputs is not None and _width(networks, state) == len(outputs):
            outputs = None
        fishers.append(
            diagonal_fisher(networks.module, state, batches, outputs=outputs, limit=SAMPLES, seed=setting.seed)
        )
    return fisher_average(networks.trunks(), fishers, setting.weights or None, tied=networks.spec.tied)


def _width(networks: Aligned, state: State) -> int:
    """Outputs of a network with a head of its own: rows of the head's tensors."""
    return min(len(state[name]) for name in networks.heads)
