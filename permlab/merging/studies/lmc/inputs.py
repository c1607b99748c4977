"""Do the inputs of a layer lie along its leading singular vectors? `inputs(subject)["inputs"]`.

    permlab task=merge task.study=lmc task.analyses=[inputs]

Theorem 4.2 of arXiv 2402.04051 bounds how far the outputs of two matched layers are apart by the inner products of
inputs and right singular vectors; its figure 4 finds that inputs have most of their length along the leading ones, so
that only these need to be matched. Untrained networks are the control.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from permlab.matching.activation import as_inputs
from permlab.merging.measure.spectra import Decomposition
from permlab.merging.measure.subject import Subject
from permlab.merging.methods.grams import LayerReader, layers_of
from permlab.merging.studies.lmc.arms import Tables
from permlab.tables import Row

GAMMAS = (0.1, 0.3, 0.5)
LEADING = 0.3
"""Gamma of the numbers: the one that tells trained networks from untrained ones elsewhere."""


def input_shares(subject: Subject, found: Decomposition) -> list[Row]:
    """By layer and gamma: singular vectors kept relative to the length of an input, and the energy along them.

    `energy` is the share of the squared length of the training images' inputs, `centred` that of their deviations from
    the mean input.
    """
    layers = [each for each in layers_of(subject.model, subject.spec)[0] if each.weight in found.parts]
    reader, sums = LayerReader(subject.model, layers), {each.name: [torch.zeros(1)] * 3 for each in layers}
    for batch in subject.sets["train"]:
        for layer, calls in zip(layers, reader.run(found.state, as_inputs(batch)).values()):
            for given, output in calls:
                x = layer.rows(given, output)[0].double()
                gram, total, count = sums[layer.name]
                sums[layer.name] = [gram + x.t() @ x, total + x.sum(0), count + len(x)]
    rows: list[Row] = []
    for depth, layer in enumerate(layers, start=1):
        (gram, total, count), (_, s, vh) = sums[layer.name], found.parts[layer.weight]
        centred = gram - torch.outer(total, total) / count
        for gamma in GAMMAS:
            leading = vh[s >= gamma * s[0]]
            row: Row = {"depth": depth, "layer": layer.name, "gamma": gamma, "vectors": len(leading) / len(gram)}
            for name, matrix in (("energy", gram), ("centred", centred)):
                row[name] = float(((leading @ matrix) * leading).sum() / matrix.trace())
            rows.append(row)
    return rows


def inputs(subject: Subject) -> Tables:
    """`input_shares` of the first network, trained and untrained."""
    rows: list[Row] = []
    for kind, each in (("trained", subject), ("untrained", subject.before_training)):
        head = {"pair": subject.pair, "networks": kind}
        rows += [head | row for row in input_shares(subject, each.spectra[0])]
    return {"inputs": rows}


def input_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """At gamma 0.3 the shares of vectors and energy, means over layers and of the worst layer."""
    numbers: dict[str, float] = {}
    for kind in ("trained", "untrained"):
        own = [line for line in lines if line["networks"] == kind and line["gamma"] == LEADING]
        for key in ("vectors", "energy", "centred"):
            numbers[f"{kind}_{key}"] = sum(line[key] for line in own) / len(own)
            numbers[f"{kind}_{key}_least"] = min(line[key] for line in own)
    return numbers
