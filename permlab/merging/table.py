"""The ways to combine matched networks and what goes with them: one row each.

    from permlab.merging.table import COMBINES
    COMBINES["fisher"].needs, COMBINES.where(partial=True)

`COMBINES` turns networks in a common order of units into one, `RENORMS` mends the statistics of the result,
`ALLOCATIONS` say where a budget of multiply-accumulates above 1 goes, `DOMAINS` are changes of images.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.merging.combines import COMBINES as COMBINES
from permlab.merging.combines import CombineRow as CombineRow
from permlab.registry import Row, Table


@dataclass(frozen=True)
class RenormRow(Row):
    """What is done to the statistics of a merged network.

    `target` is a function (networks, state, setting, weights) -> state dict, `weights` the mixture that the state is.

    Attributes:
        pairs: takes statistics of pairs of units, which zipped units have not, BatchNorm or not.
    """

    pairs: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return bool(self.target)


RENORMS = Table(
    "renormalisation",
    [
        RenormRow("none", "the statistics stay as combining leaves them"),
        RenormRow(
            "reset",
            "BatchNorm statistics measured again; REPAIR where there are none",
            target="permlab.merging.methods.repair:renorm_reset",
            paper="2211.08403",
        ),
        RenormRow(
            "rescale",
            "every unit gets the deviation of the networks' units",
            target="permlab.merging.methods.repair:renorm_rescale",
            paper="2211.08403",
            pairs=True,
        ),
        RenormRow(
            "reshift",
            "every unit gets the mean of the networks' units",
            target="permlab.merging.methods.repair:renorm_reshift",
            paper="2211.08403",
            pairs=True,
        ),
    ],
)


@dataclass(frozen=True)
class AllocationRow(Row):
    """Where a budget of multiply-accumulates above 1 goes; `target` is a function (problem) -> `Solution`.

    `needs` has "gains" where it must know what keeping each group apart is worth.
    """


ALLOCATIONS = Table(
    "allocation",
    [
        AllocationRow(
            "uniform",
            "one share of separate units for all groups",
            target="permlab.merging.partial.budget:uniform",
            color="sky",
        ),
        AllocationRow(
            "prefix",
            "whole groups, from the last one backwards",
            target="permlab.merging.partial.budget:prefix",
            color="green",
            paper="2305.03053",
        ),
        AllocationRow(
            "greedy",
            "steps with the best gain per cost first",
            target="permlab.merging.partial.budget:greedy",
            color="purple",
            needs=("gains",),
        ),
        AllocationRow(
            "qp",
            "the quadratic programme of PLeaS, from several starts",
            target="permlab.merging.partial.budget:quadratic",
            color="blue",
            paper="2407.02447",
            needs=("gains",),
        ),
    ],
)


@dataclass(frozen=True)
class DomainRow(Row):
    """A change of images that keeps their labels; `target` is a function (images [N, C, H, W]) -> images.

    Attributes:
        square: needs images as wide as high.
    """

    square: bool = False


DOMAINS = Table(
    "domain",
    [
        DomainRow("original", "images as they are", target="permlab.merging.networks.domains:original"),
        DomainRow(
            "inverted",
            "sign turned: the images are normalised",
            target="permlab.merging.networks.domains:inverted",
        ),
        DomainRow(
            "rotated", "a quarter turn to the left", target="permlab.merging.networks.domains:rotated", square=True
        ),
        DomainRow(
            "blurred",
            "mean of 3 x 3 neighbours, edges repeated",
            target="permlab.merging.networks.domains:blurred",
        ),
    ],
)


@dataclass(frozen=True)
class OptimizerRow(Row):
    """An optimizer of networks trained to be merged; `target` is a function (parameters, rate, weight decay)."""


OPTIMIZERS = Table(
    "optimizer",
    [
        OptimizerRow("adam", "Adam; weight decay is an L2 penalty", target="permlab.merging.networks.endpoints:adam"),
        OptimizerRow("sgd", "gradient descent with momentum 0.9", target="permlab.merging.networks.endpoints:sgd"),
    ],
)


@dataclass(frozen=True)
class ScheduleRow(Row):
    """A schedule of the learning rate; `target` is a function (epoch, epochs) -> share of the rate."""


SCHEDULES = Table(
    "schedule",
    [
        ScheduleRow("constant", "one rate throughout", target="permlab.merging.networks.endpoints:constant"),
        ScheduleRow("cosine", "half a cosine down to 0", target="permlab.merging.networks.endpoints:cosine"),
    ],
)
