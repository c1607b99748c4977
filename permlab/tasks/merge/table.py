"""Names of `permlab task=merge`: the studies and the analyses of `task.study=lmc`, one row each.

An analysis is a function from a subject to tables with one row per pair (permlab.merging.studies.lmc), a row here, and
whatever of these its tables have: columns that name a row (means over pairs are taken by them), columns to print,
numbers for result.json, a figure. task.analyses, the run, its figures and the report read these rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from permlab.registry import Row, Table

ROOM = "permlab.merging.studies.lmc"
FIGURES = "permlab.tasks.merge.figures.lmc"
LESS_MEMORY = (
    "a smaller model.width or model",
    "dataset=none (a merge that is not scored)",
    "a smaller task.memory_gb",
)
"""Keys that help where memory is not enough."""


@dataclass(frozen=True)
class Measured:
    """A table that an analysis writes.

    Attributes:
        name: of the CSV file.
        title: of its means, for people.
        keys: columns that name a row; `<name>_mean.csv` has the means over pairs by them. Empty: no means.
        shown: columns of the means that are printed; empty prints nothing.
        pivot: (file name, column, value): the means once more, with a column for every value of the column.
        metrics: "module:function" from the means to numbers of result.json.
        figure: "module:function" from all tables to a figure, named as the table; `caption` says what it shows.
    """

    name: str
    title: str = ""
    keys: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    pivot: tuple[str, str, str] | None = None
    metrics: str = ""
    figure: str = ""
    caption: str = ""


@dataclass(frozen=True)
class AnalysisRow(Row):
    """An analysis: `target` is a function from a Subject to {table: rows}; `networks` is how many it needs."""

    tables: tuple[Measured, ...] = ()
    networks: int = 2


@dataclass(frozen=True)
class StudyRow(Row):
    """A study: `target` is a function of (configuration, run).

    Attributes:
        one_task: its networks solve the same task.
        arms: judges the arm of task.match, task.combine and task.renorm.
        compares: judges the arms of task.compare beside its own.
        widths: has pairs of every width of task.widths.
        alone: "module", whose `validate` and `plan` take the place of those of pairs.
    """

    one_task: bool = False
    arms: bool = False
    compares: bool = False
    widths: bool = False
    alone: str = ""


STUDIES = Table(
    "study",
    [
        StudyRow(
            "merge",
            "arms and barrier curves, every control beside them",
            target="permlab.tasks.merge.vision:run_pairs",
            paper="2209.04836",
            arms=True,
            compares=True,
        ),
        StudyRow(
            "lmc",
            "why does matching work? distances, singular vectors, three networks",
            target="permlab.tasks.merge.lmc:run_lmc",
            paper="2402.04051",
            one_task=True,
        ),
        StudyRow(
            "pleas",
            "merging in part, with every control at the same price",
            target="permlab.tasks.merge.pleas:run_pleas",
            paper="2407.02447",
            compares=True,
        ),
        StudyRow(
            "width",
            "does width replace permutations? calibrated averages against weight matching",
            target="permlab.tasks.merge.width:run_width",
            widths=True,
            paper="2510.08023",
        ),
        StudyRow(
            "experts",
            "a mixture of experts with fewer of them, grouped by routing, aligned and merged (M-SMoE)",
            target="permlab.tasks.merge.experts:run_experts",
            alone="permlab.tasks.merge.experts",
            paper="2310.01334",
        ),
    ],
)

_MANY = Measured(
    "many",
    "Means of several networks on the test images",
    keys=("count", "arm"),
    shown=("count", "arm", "loss", "accuracy", "calibration_error", "calibrated_loss"),
    metrics=f"{ROOM}.many:many_metrics",
    figure=f"{FIGURES}:draw_many",
    caption="Loss and calibration error of the mean of several networks",
)
_SPLIT = replace(_MANY, name="split", title="The mean of two networks on the test images", figure="", caption="")

ANALYSES = Table(
    "analysis",
    [
        AnalysisRow(
            "distances",
            "distance, barriers, disagreement and temperature of every arm, trained and untrained",
            target=f"{ROOM}.distances:distances",
            tables=(
                Measured(
                    "distances",
                    "Distances and alignment by matching",
                    keys=("networks", "arm"),
                    shown=("networks", "arm", "l2_reduction", "r_0", "r_0.3", "loss_barrier", "disagreement"),
                    metrics=f"{ROOM}.distances:distance_metrics",
                ),
            ),
        ),
        AnalysisRow(
            "spectra",
            "R(gamma), the alignment of leading singular vectors, and the singular values",
            target=f"{ROOM}.spectra:spectra",
            tables=(
                Measured(
                    "spectra",
                    keys=("networks", "arm", "gamma"),
                    pivot=("r_by_gamma", "gamma", "r"),
                    figure=f"{FIGURES}:draw_alignment",
                    caption="R(gamma): alignment of leading singular vectors against gamma",
                ),
                Measured("singular_value_gaps", keys=("networks", "layer")),
                Measured(
                    "singular_values",
                    figure=f"{FIGURES}:draw_singular_values",
                    caption="Singular values of the layers, trained and untrained",
                ),
            ),
        ),
        AnalysisRow(
            "trace",
            "barrier, distance and alignment along the steps of weight matching",
            target=f"{ROOM}.trace:trace",
            tables=(
                Measured(
                    "trace",
                    figure=f"{FIGURES}:draw_trace",
                    caption="Barrier along the steps of weight matching, against alignment and distance",
                ),
            ),
        ),
        AnalysisRow(
            "taylor",
            "second-order estimate of the barrier against the true one",
            target=f"{ROOM}.taylor:taylor",
            tables=(
                Measured(
                    "taylor",
                    "Taylor estimate of the barrier",
                    keys=("arm",),
                    shown=("arm", "first", "second", "estimate", "barrier"),
                    metrics=f"{ROOM}.taylor:taylor_metrics",
                    figure=f"{FIGURES}:draw_taylor",
                    caption="Taylor estimate against the measured barrier",
                ),
            ),
        ),
        AnalysisRow(
            "variance",
            "variance of the mean network's units by layer, with and without REPAIR",
            target=f"{ROOM}.variance:variance",
            paper="2211.08403",
            tables=(
                Measured(
                    "variance",
                    "Variance of the mean network's units, relative to the ends'",
                    keys=("arm", "depth"),
                    shown=("arm", "depth", "variance_ratio", "loss_barrier", "accuracy"),
                    metrics=f"{ROOM}.variance:variance_metrics",
                    figure=f"{FIGURES}:draw_variance",
                    caption="Variance of the mean network's units by layer, relative to the ends'",
                ),
            ),
        ),
        AnalysisRow(
            "causal",
            "permutations from part of the singular vectors",
            target=f"{ROOM}.causal:causal",
            tables=(
                Measured(
                    "causal",
                    "Matching with a part of the singular vectors",
                    keys=("part", "gamma"),
                    shown=("part", "gamma", "vectors", "energy", "l2_reduction", "r_0", "r_0.3", "loss_barrier"),
                    metrics=f"{ROOM}.causal:causal_metrics",
                    figure=f"{FIGURES}:draw_causal",
                    caption="Matching that sees a part of the singular vectors",
                ),
            ),
        ),
        AnalysisRow(
            "three",
            "three networks, two of them matched to the first",
            target=f"{ROOM}.three:three",
            networks=3,
            tables=(
                Measured(
                    "three",
                    "Three networks",
                    keys=("method", "arm", "pair_of"),
                    shown=("method", "arm", "pair_of", "loss_barrier", "accuracy_barrier", "loss", "accuracy"),
                    metrics=f"{ROOM}.three:three_metrics",
                    figure=f"{FIGURES}:draw_three",
                    caption="Three networks: barriers of every pair",
                ),
            ),
        ),
        AnalysisRow(
            "start",
            "straight-through matching started at A or at random weights",
            target=f"{ROOM}.start:start",
            tables=(
                Measured(
                    "start",
                    "Where straight-through matching starts",
                    keys=("start", "rate"),
                    shown=("start", "rate", "l2_reduction", "r_0", "r_0.3", "loss_barrier", "train_loss_barrier"),
                    metrics=f"{ROOM}.start:start_metrics",
                ),
            ),
        ),
        AnalysisRow(
            "inputs",
            "inputs of every layer along its leading singular vectors",
            target=f"{ROOM}.inputs:inputs",
            tables=(
                Measured(
                    "inputs",
                    "Energy of inputs along the leading singular vectors",
                    keys=("networks", "depth", "gamma"),
                    shown=("networks", "depth", "gamma", "vectors", "energy", "centred"),
                    metrics=f"{ROOM}.inputs:input_metrics",
                ),
            ),
        ),
        AnalysisRow(
            "split",
            "two networks and their mean, with calibration errors",
            target=f"{ROOM}.many:split",
            tables=(_SPLIT,),
        ),
        AnalysisRow(
            "many",
            "means of 2, 4, 8, 16 and 32 networks",
            target=f"{ROOM}.many:many",
            networks=32,
            tables=(_MANY,),
        ),
    ],
)


USUAL = [name for name, row in ANALYSES.items() if row.networks <= 3]
"""Analyses that are done where none are named: without those that train dozens of networks."""


def measured(analyses: Iterable[str]) -> list[Measured]:
    """The tables that analyses write, each once."""
    return list(dict.fromkeys(table for name in analyses for table in ANALYSES[name].tables))
