"""The exact identities of LEGO, its gauge table, its norm control, and what must not depend on order."""

from __future__ import annotations

import itertools

import pytest
import torch

from permlab.adapters import (
    Factors,
    MemoryAdapter,
    MergeRule,
    merge_adapters,
    random_adapter,
    relative_difference,
)
from permlab.adapters.factors import concatenate, norm
from permlab.adapters.merge_rule import reference_rank
from permlab.adapters.methods.lego import lego_module
from permlab.adapters.units import balanced, pool_units, positive_sign, singular_form

SHAPES = {"q": (40, 56), "up": (72, 48)}
RANK = 6


def adapter(name: str, seed: int, rank: int = RANK, alpha: float | None = None) -> MemoryAdapter:
    return random_adapter(name, SHAPES, rank, seed, alpha)


def changed(source: MemoryAdapter, change: str) -> MemoryAdapter:
    """The same function with other factors: rank permutation, sign flips, rescaling, all three, or a rotation."""
    generator = torch.Generator().manual_seed(99)
    tensors = {}
    for module, update in source.tensors.items():
        a, b = update.a.clone(), update.b.clone()
        if change in ("permutation", "all"):
            order = torch.randperm(a.shape[0], generator=generator)
            a, b = a[order], b[:, order]
        if change in ("sign", "all"):
            sign = (torch.randint(0, 2, (a.shape[0],), generator=generator) * 2 - 1).float()
            a, b = a * sign[:, None], b * sign
        if change in ("scale", "all"):
            scale = torch.exp(torch.randn(a.shape[0], generator=generator))
            a, b = a * scale[:, None], b / scale
        if change == "rotation":
            q = torch.linalg.qr(torch.randn(a.shape[0], a.shape[0], generator=generator))[0]
            a, b = q @ a, b @ q.T
        tensors[module] = Factors(a, b, update.scaling)
    return MemoryAdapter(change, tensors)


def merged(adapters: list[MemoryAdapter], **keys: object) -> MemoryAdapter:
    seed = keys.pop("seed", 0)
    return merge_adapters(adapters, MergeRule(**{"gauge": "none"} | keys), seed=seed).adapter


def worst(left: MemoryAdapter, right: MemoryAdapter) -> float:
    return max(relative_difference(left.load(module), right.load(module)) for module in left.modules)


@pytest.mark.parametrize("gauge", ["none", "balanced", "svd"])
def test_one_adapter_at_its_own_rank_is_itself(gauge):
    only = adapter("a", 0, alpha=12.0)
    assert worst(merged([only], gauge=gauge), only) < 1e-5


@pytest.mark.parametrize("gauge", ["none", "balanced", "svd"])
def test_merge_with_a_rank_permuted_copy_is_the_adapter(gauge):
    first = adapter("a", 1)
    assert worst(merged([first, changed(first, "permutation")], gauge=gauge), first) < 1e-5


def test_linear_averaging_does_not_survive_a_rank_permutation():
    first = adapter("a", 1)
    average = merge_adapters([first, changed(first, "permutation")], MergeRule(method="linear")).adapter
    assert worst(average, first) > 0.3


@pytest.mark.parametrize("count", [2, 3])
def test_all_units_kept_is_the_sum_over_sqrt_n(count):
    adapters = [adapter(f"a{i}", i, alpha=3.0) for i in range(count)]
    everything = merged(adapters, rank=count * RANK)
    for module in SHAPES:
        total = concatenate([source.load(module) for source in adapters])
        wanted = Factors(total.a, total.b, count**-0.5)
        assert relative_difference(everything.load(module), wanted) < 1e-5


def test_concatenation_is_the_sum_with_mixed_ranks_and_weights():
    adapters = [adapter("a", 0, rank=3, alpha=5.0), adapter("b", 1, rank=7, alpha=2.0)]
    joined = merge_adapters(adapters, MergeRule(method="cat", weights=[0.5, -2.0])).adapter
    for module in SHAPES:
        wanted = 0.5 * adapters[0].load(module).delta() - 2.0 * adapters[1].load(module).delta()
        torch.testing.assert_close(joined.load(module).delta(), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("gauge", ["none", "balanced", "svd"])
@pytest.mark.parametrize("k", [4, 9])
def test_order_of_adapters_is_irrelevant(gauge, k):
    adapters = [adapter(f"a{i}", i) for i in range(3)]
    first = merged(adapters, gauge=gauge, rank=k)
    for order in itertools.permutations(adapters):
        again = merged(list(order), gauge=gauge, rank=k)
        for module in SHAPES:
            assert torch.equal(again.load(module).a, first.load(module).a)
            assert torch.equal(again.load(module).b, first.load(module).b)


# Part d.5 of the reference: relative error after merging an adapter with a copy of the same function, k = r.
# True: exactly invariant; False: not.
GAUGE_TABLE = {
    ("none", False): {"permutation": True, "sign": False, "scale": False, "all": False, "rotation": False},
    ("none", True): {"permutation": True, "sign": True, "scale": False, "all": False, "rotation": False},
    ("balanced", False): {"permutation": True, "sign": True, "scale": True, "all": True, "rotation": False},
    ("svd", False): {"permutation": True, "sign": True, "scale": True, "all": True, "rotation": True},
}


@pytest.mark.parametrize("gauge, signed, change", [(g, s, c) for (g, s), row in GAUGE_TABLE.items() for c in row])
def test_gauge_table(gauge, signed, change):
    first = adapter("a", 5)
    error = worst(merged([first, changed(first, change)], gauge=gauge, sign_invariant=signed), first)
    if GAUGE_TABLE[gauge, signed][change]:
        assert error < 2e-5
    else:
        assert error > 0.05


@pytest.mark.parametrize("change", ["permutation", "sign", "scale", "all"])
def test_balanced_gauge_gives_the_same_merge_for_other_factors_of_the_same_function(change):
    adapters = [adapter(f"a{i}", i) for i in range(3)]
    rewritten = [adapters[0], changed(adapters[1], change), changed(adapters[2], change)]
    assert worst(merged(rewritten, gauge="balanced", rank=5), merged(adapters, gauge="balanced", rank=5)) < 2e-5


@pytest.mark.parametrize("count, k", [(2, 4), (4, 8), (6, 16), (4, 24)])
def test_dual_reweighting_keeps_the_norm_and_none_does_not(count, k):
    adapters = [adapter(f"a{i}", i) for i in range(count)]
    for module in SHAPES:
        updates = [source.load(module) for source in adapters]
        _, both = lego_module(updates, [1.0] * count, k, MergeRule(gauge="none"), 0)
        assert 0.8 < both.norm_ratio < 1.25
    rule = MergeRule(gauge="none", param_reweight="none", output_reweight=False)
    ratios = []
    for size in (2, count * RANK):
        updates = [source.load("q") for source in adapters]
        ratios.append(lego_module(updates, [1.0] * count, size, rule, 0)[1].norm_ratio)
    assert min(ratios) < 0.8 and max(ratios) > 1.25


@pytest.mark.parametrize("kind", ["l2", "max", "per_half"])
def test_parameter_reweighting_gives_the_mean_norm_of_the_members(kind):
    updates = [adapter("a", 0).load("q"), adapter("b", 1).load("q")]
    rule = MergeRule(gauge="none", param_reweight=kind, output_reweight=False)
    one, _ = lego_module(updates, [1.0, 1.0], 1, rule, 0)
    pool = pool_units(updates, [1.0, 1.0])

    def size(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if kind == "max":
            return torch.cat([a, b], dim=1).abs().amax(dim=1)
        return torch.cat([a, b], dim=1).norm(dim=1)

    if kind == "per_half":
        torch.testing.assert_close(one.a.norm(), pool.a.norm(dim=1).mean())
        torch.testing.assert_close(one.b.norm(), pool.b.norm(dim=1).mean())
    else:
        torch.testing.assert_close(size(one.a, one.b.T)[0], size(pool.a, pool.b).mean())


def test_reference_rank_of_mixed_ranks_scales_the_output():
    mixed = [adapter("a", 0, rank=2), adapter("b", 1, rank=6)]
    assert [reference_rank((2, 6), rule) for rule in ("mean", "max", "min", "5")] == [4, 6, 2, 5]
    sizes = {rule: norm(merged(mixed, reference_rank=rule, rank=3).load("q")) for rule in ("max", "min")}
    assert sizes["max"] / sizes["min"] == pytest.approx((6 / 2) ** 0.5, rel=1e-5)


def test_report_counts_clusters_that_mix_adapters():
    first = adapter("a", 3)
    reports = merge_adapters([first, changed(first, "permutation")], MergeRule()).reports
    assert {report.mixed_share for report in reports.values()} == {1.0}
    assert {(report.smallest, report.largest, report.singletons) for report in reports.values()} == {(2, 2, 0)}
    alone = merge_adapters([first, adapter("b", 4)], MergeRule(rank=2 * RANK)).reports["q"]
    assert (alone.mixed_share, alone.inertia, alone.singletons) == (0.0, 0.0, 2 * RANK)


def test_another_seed_changes_unrelated_units_but_not_copies():
    unrelated = [adapter(f"a{i}", i) for i in range(4)]
    once = [merged(unrelated, rank=RANK, seed=seed, n_init=1) for seed in (0, 1)]
    assert worst(*once) > 0.05
    copies = [unrelated[0], changed(unrelated[0], "permutation")]
    assert worst(merged(copies, seed=0), merged(copies, seed=1)) < 1e-5


def test_negative_weight_subtracts_an_adapter():
    first, second = adapter("a", 0), adapter("b", 1)
    gone = merged([first, second], weights=[1.0, -1.0], rank=2 * RANK, output_reweight=False)
    torch.testing.assert_close(gone.load("q").delta(), first.load("q").delta() - second.load("q").delta())


def test_pruning_keeps_the_norm_and_ends_at_the_adapter():
    only = adapter("a", 7)
    errors = []
    for k in (1, 3, RANK):
        result = merge_adapters([only], MergeRule(rank=k, gauge="svd"))
        assert 0.7 < result.reports["q"].norm_ratio < 1.4
        errors.append(worst(result.adapter, only))
    assert errors[-1] < 1e-5 < errors[1]


def test_gauge_fixing_keeps_every_rank_one_product():
    update = adapter("a", 0).load("q")
    a, b = positive_sign(*balanced(update.a, update.b.T))
    for i in range(RANK):
        torch.testing.assert_close(torch.outer(b[i], a[i]), torch.outer(update.b[:, i], update.a[i]))
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=1))
    dead = balanced(torch.ones(1, 3), torch.zeros(1, 2))
    assert float(dead[0].abs().sum() + dead[1].abs().sum()) == 0.0
    torch.testing.assert_close(singular_form(update).delta(), update.delta())


def test_seed_spread_and_norm_ratio_of_a_merge():
    from permlab.adapters import norm_ratio, seed_spread

    unrelated = [adapter(f"a{i}", i) for i in range(4)]
    assert seed_spread(unrelated, MergeRule(n_init=1), [1, 2]) > 0.05
    assert seed_spread([unrelated[0]], MergeRule(), [1, 2]) < 1e-6
    doubled = merge_adapters([unrelated[0]], MergeRule("cat", weights=[2.0])).adapter
    assert norm_ratio(doubled, [unrelated[0]]) == pytest.approx(2.0)
