"""The ways to combine matched networks and what goes with them: one row each.

    from permlab.merging.table import COMBINES
    COMBINES["fisher"].needs, COMBINES.where(partial=True)

`COMBINES` turns networks in a common order of units into one, `RENORMS` mends the statistics of the result,
`ALLOCATIONS` say where a budget of multiply-accumulates above 1 goes, `DOMAINS` are changes of images.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class CombineRow(Row):
    """A way to make one network of several.

    `target` is a function (networks, setting) -> state dict, with `permlab.merging.Aligned` networks and a
    `permlab.merging.Setting`; `needs` has "data" where it runs the networks, "ancestor" where it adds up changes since
    a common one.

    Attributes:
        weights: networks may have unequal weights.
        full: a weight is a factor, 1 where none is given; otherwise weights are divided by their sum.
        pairs_only: joins two networks and no more.
        partial: can keep units apart under a budget of multiply-accumulates.
        line: the result lies on the straight line between two networks.
        stream: "module:function" from (`permlab.merging.streaming.Pieces`, setting) to a rule for the same rows of all
            networks: runs nothing and holds a few pieces, so that networks of any kind and size fit.
        matches: the only ways to match that it goes with; empty is all that permute.
        reason: why only those, for the message that refuses others.
    """

    weights: bool = False
    full: bool = False
    pairs_only: bool = False
    partial: bool = False
    line: bool = False
    stream: str = ""
    matches: tuple[str, ...] = ()
    reason: str = ""

    @property
    def streams(self) -> bool:
        """Whether networks of any size can be combined, as they are on disk."""
        return bool(self.stream)


_ANCESTRAL = "adds up changes since a common ancestor, which a permutation tears apart"

COMBINES = Table(
    "way to combine",
    [
        CombineRow(
            "average",
            "the mean of all tensors",
            target="permlab.merging.methods.average:combine_average",
            paper="2209.04836",
            weights=True,
            partial=True,
            line=True,
            stream="permlab.merging.methods.average:stream_average",
        ),
        CombineRow(
            "least_squares",
            "every layer fitted to give the merged outputs of the networks from their merged inputs (PLeaS)",
            label="least squares",
            target="permlab.merging.methods.least_squares:combine_least_squares",
            paper="2407.02447",
            needs=("data",),
            color="sky",
            weights=True,
            pairs_only=True,
            partial=True,
        ),
        CombineRow(
            "regmean",
            "every layer fitted to each network's outputs on its own inputs",
            label="RegMean",
            target="permlab.merging.methods.regmean:combine_regmean",
            paper="2212.09849",
            needs=("data",),
            color="brown",
        ),
        CombineRow(
            "fisher",
            "the mean of every entry, weighted by its Fisher information in each network",
            label="Fisher",
            target="permlab.merging.methods.fisher:combine_fisher",
            paper="2111.09832",
            needs=("data",),
            color="red",
            weights=True,
        ),
        CombineRow(
            "zip",
            "units that ZipIt merged, inside a network too",
            label="ZipIt",
            target="permlab.merging.methods.average:combine_zipped",
            paper="2305.03053",
            color="purple",
            matches=("zip",),
            reason="merges units inside one network too, so match=zip and combine=zip go together",
        ),
        CombineRow(
            "task_arithmetic",
            "the ancestor plus the sum of all changes since",
            label="task arithmetic",
            target="permlab.merging.methods.ties:combine_task_arithmetic",
            paper="2212.04089",
            needs=("ancestor",),
            color="brown",
            weights=True,
            full=True,
            stream="permlab.merging.methods.ties:stream_task_arithmetic",
            matches=("identity",),
            reason=_ANCESTRAL,
        ),
        CombineRow(
            "ties",
            "the ancestor plus what is left of the changes after trimming and electing signs",
            label="TIES",
            target="permlab.merging.methods.ties:combine_ties",
            paper="2306.01708",
            needs=("ancestor",),
            color="green",
            weights=True,
            stream="permlab.merging.methods.ties:stream_ties",
            matches=("identity",),
            reason=_ANCESTRAL,
        ),
        CombineRow(
            "dare",
            "the ancestor plus all changes since, thinned out at random and scaled up",
            label="DARE",
            target="permlab.merging.methods.dare:combine_dare",
            paper="2311.03099",
            needs=("ancestor",),
            color="orange",
            weights=True,
            full=True,
            stream="permlab.merging.methods.dare:stream_dare",
            matches=("identity",),
            reason=_ANCESTRAL,
        ),
        CombineRow(
            "slerp",
            "the mean along the arc between two networks, tensor by tensor",
            label="SLERP",
            target="permlab.merging.methods.spherical:combine_slerp",
            paper="Shoemake 1985",
            color="grey",
            weights=True,
            pairs_only=True,
            stream="permlab.merging.methods.spherical:stream_slerp",
        ),
    ],
)


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
