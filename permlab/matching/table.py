"""The ways to match units, and the similarities of activations: one row each.

from permlab.matching.table import MATCHES
MATCHES["activation"].needs, MATCHES.where(zips=False)
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class MatchRow(Row):
    """A way to find out which units correspond.

    `target` is a function (spec, model, states, setting) -> Matching, with a `permlab.matching.MatchSetting`; `needs`
    has "data" where it calls the network on batches.

    Attributes:
        control: nothing is matched: what a method is compared with.
        zips: units are merged inside a network too, so that there is no permutation to apply.
        streams: works on state dicts of which one tensor at a time is read, and on networks of any kind.
        labelled: its batches need labels, the same classes for all networks.
        combine: how networks are combined after it where nothing is said.
    """

    control: bool = False
    zips: bool = False
    streams: bool = False
    labelled: bool = False
    combine: str = "average"


MATCHES = Table(
    "way to match",
    [
        MatchRow(
            "identity",
            "units stay where they are: the naive control",
            label="no permutation",
            target="permlab.matching.simple:match_identity",
            color="grey",
            control=True,
            streams=True,
        ),
        MatchRow(
            "random",
            "units are shuffled: the control that no structure survives",
            label="random permutation",
            target="permlab.matching.simple:match_random",
            color="red",
            control=True,
            streams=True,
        ),
        MatchRow(
            "weight",
            "least distance of the weights, by coordinate descent; needs no data",
            label="weight matching",
            target="permlab.matching.many:match_weight",
            paper="2209.04836",
            color="blue",
            streams=True,
        ),
        MatchRow(
            "activation",
            "units that do the same on data",
            label="activation matching",
            target="permlab.matching.activation:match_activation",
            paper="2209.04836",
            needs=("data",),
            color="orange",
            streams=True,
        ),
        MatchRow(
            "straight_through",
            "least loss of the midpoint, gradients passed through the assignment",
            label="straight-through",
            target="permlab.matching.straightthrough:match_straight_through",
            paper="2209.04836",
            needs=("data",),
            color="green",
            labelled=True,
        ),
        MatchRow(
            "zip",
            "most correlated units, also inside one network, become one",
            label="ZipIt",
            target="permlab.matching.zip:match_zip",
            paper="2305.03053",
            needs=("data",),
            color="purple",
            zips=True,
            combine="zip",
        ),
    ],
)


@dataclass(frozen=True)
class SimilarityRow(Row):
    """How alike two units are: `target` is a function (moments, first, second) -> [n, n], larger is better."""


SIMILARITIES = Table(
    "similarity",
    [
        SimilarityRow(
            "inner",
            "mean product of activations: the least-squares match",
            label="product",
            target="permlab.matching.activation:inner",
        ),
        SimilarityRow(
            "pearson",
            "correlation of activations",
            label="correlation",
            target="permlab.matching.activation:pearson",
        ),
        SimilarityRow(
            "distance", "minus the Euclidean distance of activations", target="permlab.matching.activation:distance"
        ),
    ],
)
