"""The ways to combine matched networks: one row each.

from permlab.merging.table import COMBINES
COMBINES["fisher"].needs, COMBINES.where(partial=True)
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
        files: the key with files that it reads instead of data.
        matches: the only ways to match that it goes with; empty is all that permute.
        reason: why only those, for the message that refuses others.
    """

    weights: bool = False
    full: bool = False
    pairs_only: bool = False
    partial: bool = False
    line: bool = False
    stream: str = ""
    files: str = ""
    matches: tuple[str, ...] = ()
    reason: str = ""

    @property
    def streams(self) -> bool:
        """Whether networks of any size can be combined, as they are on disk."""
        return bool(self.stream)


_ANCESTRAL = "adds up changes since a common ancestor, which a permutation tears apart"
_CHANGES = "permlab.merging.methods.changes"


def _changes(name: str, about: str, label: str, paper: str, color: str = "", *, full: bool = True) -> CombineRow:
    """A way to join what networks changed since their ancestor."""
    return CombineRow(
        name,
        about,
        label=label,
        target=f"{_CHANGES}:combine_{name}",
        paper=paper,
        needs=("ancestor",),
        color=color,
        weights=True,
        full=full,
        stream=f"{_CHANGES}:stream_{name}",
        matches=("identity",),
        reason=_ANCESTRAL,
    )


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
            stream="permlab.merging.methods.fisher_files:stream_fisher",
            files="fisher",
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
        _changes(
            "task_arithmetic",
            "the ancestor plus the sum of all changes since",
            "task arithmetic",
            "2212.04089",
            "brown",
        ),
        _changes(
            "ties",
            "the ancestor plus what is left of the changes after trimming and electing signs",
            "TIES",
            "2306.01708",
            "green",
            full=False,
        ),
        _changes(
            "dare",
            "the ancestor plus all changes since, thinned out at random and scaled up",
            "DARE",
            "2311.03099",
            "orange",
        ),
        _changes("dare_ties", "as dare, with signs elected as ties does", "DARE, TIES", "2311.03099"),
        _changes(
            "della",
            "changes thinned out at random, small entries more often, and signs elected",
            "DELLA",
            "2406.11617",
            full=False,
        ),
        _changes("della_linear", "as della, added up without an election", "DELLA, sum", "2406.11617"),
        _changes(
            "breadcrumbs", "changes without their largest and smallest entries, added up", "Breadcrumbs", "2312.06795"
        ),
        _changes("breadcrumbs_ties", "as breadcrumbs, with signs elected", "Breadcrumbs, TIES", "2312.06795"),
        CombineRow(
            "adamerging",
            "the ancestor plus changes with factors that make outputs least uncertain, learnt without labels",
            label="AdaMerging",
            target="permlab.merging.methods.adamerging:combine_adamerging",
            paper="2310.02575",
            needs=("data", "ancestor"),
            color="purple",
            matches=("identity",),
            reason=_ANCESTRAL,
        ),
        CombineRow(
            "model_stock",
            "between the ancestor and the mean, as far as the angle between the changes says",
            label="Model Stock",
            target="permlab.merging.methods.spherical:combine_model_stock",
            paper="2403.19522",
            needs=("ancestor",),
            stream="permlab.merging.methods.spherical:stream_model_stock",
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
        CombineRow(
            "multi_slerp",
            "the mean direction of any number of networks at their mean norm, tensor by tensor",
            label="multi-SLERP",
            target="permlab.merging.methods.spherical:combine_multi_slerp",
            weights=True,
            stream="permlab.merging.methods.spherical:stream_multi_slerp",
        ),
    ],
)
