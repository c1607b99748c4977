"""Variance of units that collapses in a mean of networks, layer by layer, and REPAIR: `variance(subject)`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from permlab.matching.activation import as_inputs
from permlab.merging.arm import Arm
from permlab.merging.measure.subject import Subject
from permlab.merging.methods.grams import LayerReader, layers_of
from permlab.merging.networks.states import State
from permlab.merging.studies.lmc.arms import NAIVE, WEIGHT, Tables
from permlab.tables import Row

ARMS = tuple(Arm(arm.match, renorm=renorm) for arm in (NAIVE, WEIGHT) for renorm in ("none", "reset"))


def layer_variances(subject: Subject, state: State, layers: Sequence[str]) -> list[float]:
    """Variance over the training images of every unit's input to its nonlinearity, mean over a layer's units."""
    reader = LayerReader(
        subject.model, [each for each in layers_of(subject.model, subject.spec)[0] if each.name in layers]
    )
    sums: dict[str, list[Tensor]] = {}
    for batch in subject.sets["train"]:
        for name, calls in reader.run(state, as_inputs(batch)).items():
            for _, output in calls:
                # Positions of a convolution are samples of its channels, as REPAIR counts them.
                rows = (output.movedim(1, -1) if output.dim() > 2 else output).flatten(0, -2).double()
                held = sums.setdefault(name, [torch.zeros((), dtype=torch.float64)] * 3)
                sums[name] = [held[0] + len(rows), held[1] + rows.sum(0), held[2] + rows.square().sum(0)]
    return [float((squares / count - (total / count).square()).mean()) for count, total, squares in sums.values()]


def variance(subject: Subject) -> Tables:
    """Variance of the mean network's units relative to that of its ends, by layer (arXiv 2211.08403, section 3).

    Units that agree only in part cancel when they are averaged, and every layer passes less on to the next. REPAIR
    (`reset`, of networks without norm layers) gives each unit the statistics of its ends again. The last layer, whose
    outputs no permutation moves, is left out.
    """
    writes = {name for name, axes in subject.spec.axes.items() if 0 in axes}
    layers = [each.name for each in layers_of(subject.model, subject.spec)[0] if each.weight in writes]
    ends = [layer_variances(subject, state, layers) for state in subject.states[:2]]
    usual = [(first + second) / 2 for first, second in zip(*ends)]
    rows: list[Row] = []
    for arm in ARMS:
        merged = subject.merge(arm)
        score = subject.score(merged.states, "test")
        barrier = score.loss - subject.reference["test"].loss
        found = layer_variances(subject, merged.states[0], layers)
        for depth, (name, value, end) in enumerate(zip(layers, found, usual), start=1):
            row: Row = {"pair": subject.pair, "arm": arm.label, "depth": depth, "layer": name}
            rows.append(row | {"variance_ratio": value / end, "loss_barrier": barrier, "accuracy": score.accuracy})
    return {"variance": rows}


def variance_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Of every arm the ratio at the deepest layer, the barrier and the accuracy of the midpoint."""
    deepest = max(line["depth"] for line in lines)
    numbers: dict[str, float] = {}
    for line in lines:
        if line["depth"] == deepest:
            end = f"{line['arm']}".replace(" + reset", " repaired").replace(" ", "_")
            numbers |= {f"{end}_{key}": line[key] for key in ("variance_ratio", "loss_barrier", "accuracy")}
    return numbers
