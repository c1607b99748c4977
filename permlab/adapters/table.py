"""What `permlab.adapters` knows by name: ways to merge LoRA adapters and their choices. Imports nothing heavy.

    from permlab.adapters.table import LORA_METHODS
    LORA_METHODS["knots"].paper, LORA_METHODS.where(ranked=True)
    merge = LORA_METHODS["svd"].load()            # merge(updates, weights, rank, rule, seed) -> Factors

A method of your own is one function and one row: with what the row says, the task's choices, the checks of ranks, the
table of all methods, its colour in figures and `permlab ls methods` follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from permlab import registry
from permlab.registry import Row, Table


@dataclass(frozen=True)
class LoraRow(Row):
    """A way to merge the updates of one module.

    `target`: `(updates, weights, rank, rule, seed) -> Factors`, see `methods.signatures.Method`; the result has scaling
    1 and exactly `rank` ranks.

    Attributes:
        ranked: the merged rank can be chosen; otherwise it is always the default one.
        default_rank: "module:function" of `(ranks, rule) -> int`: merged rank from those of the inputs.
        equal_ranks: adds A and B entry by entry, so all inputs must have one rank.
        averages: its weights are 1 / n each where none are given, instead of 1.
        reads: the settings of `MergeRule` that it looks at, besides ranks and weights.
        trials: "module:function" of `(row, ranks, settings) -> list[Trial]`: the variants of it that a comparison of
            all methods shows; one with its default settings where it is left out.
        level: drawn as a level line beside sweeps of the merged rank.
        batch: "module:function" for several modules of equal shapes at once, with a report of each
            (`methods.signatures.BatchMethod`); empty calls `target` module by module, in threads.
        reports: its batch function says how each module was clustered (`LegoReport`), which depends on the seed.
        batch_mib: factors of the inputs held at a time.
    """

    ranked: bool = True
    default_rank: str = "permlab.adapters.ranks:pooled"
    equal_ranks: bool = False
    averages: bool = False
    reads: tuple[str, ...] = ()
    trials: str = "permlab.adapters.benchmark.trials:plain_trials"
    level: bool = False
    batch: str = ""
    reports: bool = False
    batch_mib: int = 12


@dataclass(frozen=True)
class GaugeRow(Row):
    """A representative of a unit: `target` is `(update: Factors) -> Factors`, the same update with other factors."""


@dataclass(frozen=True)
class FeatureRow(Row):
    """What k-means sees of a unit: `target` is `(a, b) -> (a, b)` on the halves (n, d_in) and (n, d_out)."""


@dataclass(frozen=True)
class ClusteringRow(Row):
    """How units are grouped: `target` is `(gram, owners, k, seeds, n_init=, signed=) -> Clusters`.

    Attributes:
        apart: two units of one adapter never share a cluster, so k is at least the largest rank.
    """

    apart: bool = False


@dataclass(frozen=True)
class ReweightRow(Row):
    """A norm that a centroid takes over from its members: `target` is `(a, b) -> (n,), (n,)`, one size per half.

    Without a target the centroid stays as it is.
    """


@dataclass(frozen=True)
class ReferenceRow(Row):
    """r of sqrt(r / k): `target` is `(ranks: Sequence[int]) -> float`."""


@dataclass(frozen=True)
class SpaceRow(Row):
    """Where entries are trimmed: `target` as `spaces.in_updates`; `equal_ranks`: the factors are added, see LoraRow."""

    equal_ranks: bool = False


@dataclass(frozen=True)
class ScopeRow(Row):
    """What is trimmed at once: `target` is `(Sequence[Owned], rule) -> thresholds` by adapter; none trims by module."""


@dataclass(frozen=True)
class SignRow(Row):
    """How an entry votes for its sign: `target` is `(tensor) -> tensor`, summed over the adapters."""


@dataclass(frozen=True)
class ExtraRow(Row):
    """Tensors beside the LoRA factors: `target` is `(key, tensors, weights) -> Tensor`; none leaves them out."""


_LEGO = (
    *("gauge", "clustering", "features", "sign_invariant", "param_reweight", "output_reweight", "reference_rank"),
    "n_init",
)

LORA_METHODS = Table(
    "way to merge adapters",
    [
        LoraRow(
            "lego",
            "clusters the rank-one units of all adapters and keeps one unit per cluster",
            label="LoRA-LEGO",
            target="permlab.adapters.methods.lego:merge_lego",
            paper="2409.16167",
            trials="permlab.adapters.benchmark.trials:lego_trials",
            color="blue",
            default_rank="permlab.adapters.ranks:reference",
            reads=_LEGO,
            batch="permlab.adapters.methods.lego:merge_lego_batch",
            reports=True,
            batch_mib=48,  # clustering many modules at once is one batched product
        ),
        LoraRow(
            "linear",
            "adds all A and all B separately, as PEFT's linear",
            target="permlab.adapters.methods.sums:merge_linear",
            paper="PEFT, combination_type=linear",
            trials="permlab.adapters.benchmark.trials:linear_trials",
            color="red",
            ranked=False,
            default_rank="permlab.adapters.ranks:largest",
            equal_ranks=True,
            averages=True,
        ),
        LoraRow(
            "cat",
            "the exact sum of the updates (task arithmetic); the ranks add up",
            label="sum",
            target="permlab.adapters.methods.sums:merge_cat",
            paper="2212.04089",
            trials="permlab.adapters.benchmark.trials:sum_trials",
            level=True,
            color="sky",
            ranked=False,
        ),
        LoraRow(
            "svd",
            "the best approximation of the sum with fewer ranks",
            target="permlab.adapters.methods.sums:merge_svd",
            paper="Eckart and Young 1936",
            trials="permlab.adapters.benchmark.trials:svd_trials",
            level=True,
            color="orange",
            default_rank="permlab.adapters.ranks:largest",
        ),
        LoraRow(
            "ties",
            "keeps the largest entries, elects their signs, averages what agrees",
            label="TIES",
            target="permlab.adapters.methods.ties:merge_ties",
            paper="2306.01708",
            trials="permlab.adapters.benchmark.trials:ties_trials",
            color="green",
            reads=("density", "trim_space", "sign_method"),
        ),
        LoraRow(
            "dare",
            "drops entries at random, scales up the others and adds them",
            label="DARE",
            target="permlab.adapters.methods.dare:merge_dare",
            paper="2311.03099",
            trials="permlab.adapters.benchmark.trials:dare_trials",
            color="brown",
            reads=("density", "trim_space", "election", "sign_method"),
        ),
        LoraRow(
            "knots",
            "TIES on coordinates in one basis that all updates share",
            label="KnOTS-TIES",
            target="permlab.adapters.methods.knots:merge_knots",
            paper="2410.19735",
            trials="permlab.adapters.benchmark.trials:knots_trials",
            color="purple",
            reads=("density", "sign_method", "trim_scope"),
        ),
    ],
)

GAUGES = Table(
    "gauge",
    [
        GaugeRow("none", "units as stored, as in the paper", target="permlab.adapters.units:as_stored"),
        GaugeRow("balanced", "|a| = |b| and a fixed sign", target="permlab.adapters.units:balanced_form"),
        GaugeRow("svd", "singular basis of each adapter", target="permlab.adapters.units:balanced_singular_form"),
    ],
)

CLUSTERINGS = Table(
    "way to group units",
    [
        ClusteringRow(
            "kmeans",
            "k-means over the units of all adapters, as in the paper",
            target="permlab.adapters.multiway:cluster_by_kmeans",
            paper="2409.16167",
            color="blue",
        ),
        ClusteringRow(
            "matching",
            "at most one unit of each adapter in a group, by repeated assignment to centroids",
            target="permlab.adapters.multiway:match_units",
            apart=True,
            color="green",
        ),
        ClusteringRow(
            "spectral",
            "spectral clustering of the cosines between units",
            target="permlab.adapters.multiway:cluster_spectrally",
            color="orange",
        ),
        ClusteringRow(
            "random",
            "one unit of each adapter in a group, drawn at random: the control",
            target="permlab.adapters.multiway:draw_units",
            apart=True,
            color="grey",
        ),
    ],
)

FEATURES = Table(
    "kind of features",
    [
        FeatureRow("raw", "units as they are", target="permlab.adapters.methods.lego:raw_features"),
        FeatureRow(
            "normalized", "both halves of a unit to length 1", target="permlab.adapters.methods.lego:unit_features"
        ),
    ],
)

PARAM_REWEIGHTS = Table(
    "parameter reweighting",
    [
        ReweightRow("l2", "Euclidean norm of the unit", target="permlab.adapters.methods.lego:euclidean_size"),
        ReweightRow("max", "largest entry of the unit", target="permlab.adapters.methods.lego:largest_entry"),
        ReweightRow("per_half", "each half by its own norm", target="permlab.adapters.methods.lego:size_per_half"),
        ReweightRow("none", "the centroid stays as it is"),
    ],
)

REFERENCE_RANKS = Table(
    "reference rank",
    [
        ReferenceRow("mean", "mean of the adapters' ranks", target="statistics:fmean"),
        ReferenceRow("max", "largest of the adapters' ranks", target="builtins:max"),
        ReferenceRow("min", "smallest of the adapters' ranks", target="builtins:min"),
    ],
)

TRIM_SPACES = Table(
    "space to trim in",
    [
        SpaceRow("delta", "entries of the update B A", target="permlab.adapters.spaces:in_updates"),
        SpaceRow(
            "factor",
            "entries of A and of B, as PEFT's ties and dare types",
            target="permlab.adapters.spaces:in_factors",
            equal_ranks=True,
        ),
    ],
)

TRIM_SCOPES = Table(
    "scope of trimming",
    [
        ScopeRow("module", "the largest entries of every module"),
        ScopeRow(
            "model",
            "the largest entries of all modules together, as in the authors' code",
            target="permlab.adapters.methods.knots:limits_of_model",
        ),
    ],
)

SIGN_METHODS = Table(
    "way to elect signs",
    [
        SignRow("total", "by the sum of the entries", target="permlab.adapters.trimming:magnitude_vote"),
        SignRow("frequency", "by the number of entries of each sign", target="permlab.adapters.trimming:head_vote"),
    ],
)

EXTRA_RULES = Table(
    "rule for tensors beside the factors",
    [
        ExtraRow("same", "must be equal in all adapters", target="permlab.adapters.extras:same"),
        ExtraRow("average", "weighted mean", target="permlab.adapters.extras:average"),
        ExtraRow("first", "those of the first adapter that has them", target="permlab.adapters.extras:first"),
        ExtraRow("drop", "left out"),
    ],
)

CHOICES: Mapping[str, Table[Any]] = {
    "method": LORA_METHODS,
    "gauge": GAUGES,
    "clustering": CLUSTERINGS,
    "features": FEATURES,
    "param_reweight": PARAM_REWEIGHTS,
    "trim_space": TRIM_SPACES,
    "trim_scope": TRIM_SCOPES,
    "sign_method": SIGN_METHODS,
}
"""Fields of `MergeRule` that hold a name, and its table; `reference_rank` may also be a number."""


def function(target: str) -> Any:
    """Import what a row names beside its target (`default_rank`, `batch`)."""
    return registry.load(target)
