"""What LEGO does exactly and what it cannot: identities, gauges, norms, seeds, on random adapters without training.

>>> [row["as it should"] for row in identity_rows(seed=0)]
[True, True, True, True, True, True]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.adapters.factors import Factors, MemoryAdapter, concatenate, random_adapter, relative_difference
from permlab.adapters.merge import merge_adapters
from permlab.adapters.merge_rule import MergeRule
from permlab.seeding import derived_seed
from permlab.tables import Row

SHAPES = {"attention": (96, 96), "mlp_up": (256, 96), "mlp_down": (96, 256)}
RANK = 8
TOLERANCE = 1e-4
"""Relative error of the update up to which an identity holds in float32."""
BALANCED = "lego, balanced"
"""The row of `gauge_rows` that is blind to permutation, sign and scale."""

Halves = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rewriting:
    """Other factors of the same update: `change(a (r, d_in), b (d_out, r), generator) -> (a, b)`.

    `unseen`: the balanced gauge does not see it (a rotation mixes units, which only the singular basis undoes).
    """

    label: str
    change: Callable[[Tensor, Tensor, torch.Generator], Halves]
    unseen: bool = True


def permuted(a: Tensor, b: Tensor, generator: torch.Generator) -> Halves:
    """Ranks in another order."""
    order = torch.randperm(len(a), generator=generator)
    return a[order], b[:, order]


def flipped(a: Tensor, b: Tensor, generator: torch.Generator) -> Halves:
    """Random signs, the same on both halves of a unit."""
    sign = torch.randint(0, 2, (len(a),), generator=generator).float() * 2 - 1
    return a * sign[:, None], b * sign


def rescaled(a: Tensor, b: Tensor, generator: torch.Generator) -> Halves:
    """Units (c a, b / c) with random c > 0."""
    scale = torch.exp(0.7 * torch.randn(len(a), generator=generator))
    return a * scale[:, None], b / scale


def all_three(a: Tensor, b: Tensor, generator: torch.Generator) -> Halves:
    """Permuted, flipped and rescaled."""
    for change in (permuted, flipped, rescaled):
        a, b = change(a, b, generator)
    return a, b


def rotated(a: Tensor, b: Tensor, generator: torch.Generator) -> Halves:
    """(Q A, B Q^T) with a random rotation: the whole gauge group of a LoRA."""
    turn = torch.linalg.qr(torch.randn(len(a), len(a), generator=generator))[0]
    return turn @ a, b @ turn.T


PERMUTATION = Rewriting("permutation", permuted)
REWRITINGS = (
    PERMUTATION,
    Rewriting("sign", flipped),
    Rewriting("scale", rescaled),
    Rewriting("all three", all_three),
    Rewriting("rotation", rotated, unseen=False),
)


def adapters_of(seed: int, count: int) -> list[MemoryAdapter]:
    """Unrelated random adapters."""
    return [random_adapter(f"a{i}", SHAPES, RANK, derived_seed(seed, "adapter", i)) for i in range(count)]


def paper_rule(rank: int | None = None, **settings: object) -> MergeRule:
    """LEGO as in the paper: units as stored, both reweightings."""
    return MergeRule("lego", rank=rank, **{"gauge": "none", **settings})  # type: ignore[arg-type]  # the rule's own


def identity_rows(seed: int) -> list[Row]:
    """The five identities of the method, and linear averaging failing the second one."""
    first, second, third = (
        random_adapter(f"a{i}", SHAPES, RANK, derived_seed(seed, "scaled", i), alpha=16.0) for i in range(3)
    )
    small = random_adapter("small", SHAPES, 3, derived_seed(seed, "small"), alpha=5.0)
    copy = rewrite(first, PERMUTATION, seed)
    trio = [first, second, third]
    found = [
        # Each unit is its own centroid and sqrt(r / k) = 1: neither reweighting may do anything.
        ("one adapter, k = r, is that adapter", True, worst(_lego([first]), first)),
        # LoRA-LEGO's misalignment example: the order of ranks is arbitrary, and equal units meet wherever they stand.
        ("adapter + rank-permuted copy, k = r, is the adapter", True, worst(_lego([first, copy]), first)),
        # Nothing is averaged, so output reweighting alone is left: sqrt(r / (n r)).
        ("k = all units is the sum / sqrt(n)", True, worst(_lego(trio, 3 * RANK), total(trio, 3**-0.5))),
        (
            "concatenation is the sum, mixed ranks",
            True,
            worst(merge_adapters([first, small], MergeRule("cat")).adapter, total([first, small], 1.0)),
        ),
        # k between r and the pool: here k-means really decides, and only the canonical order makes it blind.
        ("order of adapters is irrelevant", True, worst(_lego([third, first, second], 12), _lego(trio, 12))),
        (
            # What LEGO is for: factors averaged by position pair row i of one adapter with column i of another.
            "linear average of adapter + rank-permuted copy is not",
            False,
            worst(merge_adapters([first, copy], MergeRule("linear")).adapter, first),
        ),
    ]
    return [
        {
            "statement": said,
            "error": error,
            "should be": f"below {TOLERANCE:g}" if expected else f"above {TOLERANCE:g}",
            "as it should": (error < TOLERANCE) == expected,
        }
        for said, expected, error in found
    ]


def gauge_rows(seed: int) -> list[Row]:
    """Merge with a copy of the same function, k = r: which rewritings of an update a merge does not see."""
    first = random_adapter("a", SHAPES, RANK, derived_seed(seed, "gauge"))
    rules = {
        # PEFT gives sqrt(weight) to each factor, so 1/4 is what halves both A and B.
        "linear: average of A and of B": MergeRule("linear", weights=[0.25, 0.25]),
        "lego, gauge none": MergeRule("lego", gauge="none"),
        "lego, gauge none, up to sign": MergeRule("lego", gauge="none", sign_invariant=True),
        BALANCED: MergeRule("lego", gauge="balanced"),
        "lego, gauge svd": MergeRule("lego", gauge="svd"),
        "svd of the sum / 2": MergeRule("svd", rank=RANK, weights=[0.5, 0.5]),
    }
    rows = []
    for said, rule in rules.items():
        row: Row = {"merge": said}
        for rewriting in REWRITINGS:
            row[rewriting.label] = worst(merge_adapters([first, rewrite(first, rewriting, seed)], rule).adapter, first)
        rows.append(row)
    return rows


def norm_rows(seed: int) -> list[Row]:
    """Norm of the merge relative to its inputs, with each reweighting on and off."""
    switches = {
        # Parameter reweighting acts against norm decay, output reweighting against variance: each must be seen alone.
        "both": paper_rule(),
        "parameter_only": paper_rule(output_reweight=False),
        "output_only": paper_rule(param_reweight="none"),
        "none": paper_rule(param_reweight="none", output_reweight=False),
    }
    rows = []
    for count in (2, 4, 6):
        adapters = adapters_of(seed, count)
        for k in sorted({4, 8, 16, count * RANK}):
            row: Row = {"adapters": count, "k": k}
            for name, rule in switches.items():
                rule.rank = k
                reports = merge_adapters(adapters, rule).reports.values()
                row[name] = statistics.fmean(report.norm_ratio for report in reports)
            rows.append(row)
    return rows


def seed_rows(seed: int) -> list[Row]:
    """Four unrelated adapters, k = r: how much the merge depends on the seed of k-means."""
    adapters = adapters_of(seed, 4)
    rows: list[Row] = []
    for n_init in (1, 10, 50):
        rule = paper_rule(RANK, n_init=n_init)
        merges = [merge_adapters(adapters, rule, seed=number) for number in range(5)]
        gaps = [worst(other.adapter, merges[0].adapter, statistics.fmean) for other in merges[1:]]
        inertia = [statistics.fmean(report.inertia_share for report in merge.reports.values()) for merge in merges]
        rows.append(
            {"n_init": n_init, "difference": statistics.fmean(gaps), "inertia_share": statistics.fmean(inertia)}
        )
    return rows


def headline(
    exact: Sequence[Row], gauges: Sequence[Row], norms: Sequence[Row], spread: Sequence[Row]
) -> dict[str, float]:
    """Flat numbers for a result, from the rows of the four tables; `identities_held` counts what holds."""
    balanced = next(row for row in gauges if row["merge"] == BALANCED)
    both = [row["both"] for row in norms]
    return {
        "identities_held": sum(row["as it should"] for row in exact),
        "identities": len(exact),
        "worst_identity_error": max(row["error"] for row in exact if row["should be"].startswith("below")),
        "balanced_gauge_error": max(balanced[each.label] for each in REWRITINGS if each.unseen),
        "norm_ratio_lowest": min(both),
        "norm_ratio_highest": max(both),
        "seed_spread_unrelated": statistics.fmean(row["difference"] for row in spread if row["n_init"] == 10),
    }


def total(adapters: Sequence[MemoryAdapter], factor: float) -> MemoryAdapter:
    """The sum of the updates times `factor`."""
    tensors = {}
    for module in SHAPES:
        part = concatenate([adapter.load(module) for adapter in adapters])
        tensors[module] = Factors(part.a, part.b, factor)
    return MemoryAdapter("sum", tensors)


def worst(left: MemoryAdapter, right: MemoryAdapter, over: Callable[[Iterable[float]], float] = max) -> float:
    """Largest (or mean) relative difference over the modules."""
    return float(over(relative_difference(left.load(module), right.load(module)) for module in SHAPES))


def rewrite(source: MemoryAdapter, rewriting: Rewriting, seed: int) -> MemoryAdapter:
    """The same updates with other factors."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "rewriting"))
    tensors = {}
    for module, part in source.tensors.items():
        a, b = rewriting.change(part.a, part.b, generator)
        tensors[module] = Factors(a, b, part.scaling)
    return MemoryAdapter(rewriting.label, tensors)


def _lego(adapters: Sequence[MemoryAdapter], rank: int | None = None) -> MemoryAdapter:
    return merge_adapters(adapters, paper_rule(rank)).adapter
