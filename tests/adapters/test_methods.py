"""Rows of the tables of adapters: every method keeps its contract, unknown names are refused, cuts are accurate."""

from __future__ import annotations

import pytest
import torch

from permlab.adapters import MergeRule, merge_adapters, open_adapter, plan_ranks, random_adapter, spaces, write_adapter
from permlab.adapters.benchmark.lists import apply_operation
from permlab.adapters.benchmark.questions import Questions
from permlab.adapters.benchmark.settings import BenchmarkSettings, questions_of
from permlab.adapters.benchmark.table import ANSWER_METRICS, BENCHMARKS, OPERATIONS, REGIMES
from permlab.adapters.benchmark.trials import all_trials
from permlab.adapters.factors import Factors, MemoryAdapter
from permlab.adapters.merge_rule import reference_rank
from permlab.adapters.methods.signatures import Method
from permlab.adapters.table import (
    EXTRA_RULES,
    FEATURES,
    GAUGES,
    LORA_METHODS,
    PARAM_REWEIGHTS,
    REFERENCE_RANKS,
    SIGN_METHODS,
    TRIM_SPACES,
    function,
)
from permlab.adapters.training import Schedule, score
from permlab.adapters.trimming import elect_and_average
from permlab.adapters.units import pool_units
from permlab.adapters.writing import write_merge
from permlab.errors import UserError

SHAPES = {"q": (20, 14), "up": (24, 12)}


def adapters(count: int = 2, rank: int = 3):
    return [random_adapter(f"a{i}", SHAPES, rank, i, alpha=6.0) for i in range(count)]


@pytest.mark.parametrize("name", list(LORA_METHODS))
def test_every_method_keeps_the_contract_of_its_row(name):
    row = LORA_METHODS[name]
    assert row.about and row.paper and row.color and row.title
    rule = MergeRule(name)
    made, ranks = adapters(), plan_ranks(adapters(), rule)
    found = merge_adapters(made, rule, seed=3)
    assert bool(found.reports) == row.reports
    merge: Method = row.load()
    for module, update in found.adapter.tensors.items():
        assert update.scaling == 1.0 and update.rank == ranks[module] == function(row.default_rank)([3, 3], rule)
        alone = merge([adapter.load(module) for adapter in made], rule.weights_of(2), update.rank, rule, 5)
        assert alone.rank == update.rank and alone.delta().shape == SHAPES[module]
    if row.ranked:
        assert {info.rank for info in merge_adapters(made, MergeRule(name, rank=2)).adapter.modules.values()} == {2}
    else:
        with pytest.raises(UserError, match=f"method={name} has no rank to choose; drop rank or use lego, svd"):
            merge_adapters(made, MergeRule(name, rank=2))
    assert all(hasattr(rule, setting) for setting in row.reads)
    assert {trial.rule.method for trial in function(row.trials)(row, [3, 3], _settings())} == {name}


def _settings():
    from permlab.adapters.benchmark.trials import TrialSettings

    return TrialSettings([1.0], MergeRule())


@pytest.mark.parametrize(
    "table",
    [
        LORA_METHODS, GAUGES, FEATURES, PARAM_REWEIGHTS, REFERENCE_RANKS, TRIM_SPACES, SIGN_METHODS, EXTRA_RULES,
        BENCHMARKS, REGIMES, ANSWER_METRICS, OPERATIONS,
    ],
    ids=lambda table: table.what,
)  # fmt: skip
def test_every_row_loads_what_it_names(table):
    for row in table.values():
        assert not row.target or callable(row.load())


@pytest.mark.parametrize(
    "field, typo, nearest",
    [
        ("method", "leggo", "lego"),
        ("gauge", "blanced", "balanced"),
        ("features", "normalised", "normalized"),
        ("param_reweight", "per_hlf", "per_half"),
        ("trim_space", "delat", "delta"),
        ("sign_method", "totl", "total"),
        ("reference_rank", "meen", "mean"),
    ],
)
def test_a_typo_in_a_rule_is_refused_with_the_nearest_name(field, typo, nearest):
    with pytest.raises(UserError, match=rf"{field}={typo} is not .*did you mean '{nearest}'"):
        merge_adapters(adapters(), MergeRule(**{field: typo}))


def test_param_reweight_that_is_nothing_is_refused():
    with pytest.raises(UserError, match="param_reweight=wrong is not known"):
        merge_adapters(adapters(), MergeRule(param_reweight="wrong"))


def test_every_function_by_name_refuses_a_typo(tmp_path):
    updates = [adapter.load("q") for adapter in adapters()]
    write_adapter(tmp_path / "a", adapters()[0])
    questions = Questions(torch.ones(1, 2, dtype=torch.long), torch.tensor([[False, True]]))
    calls = {
        "balanced": lambda: pool_units(updates, [1.0, 1.0], "blanced"),
        "frequency": lambda: elect_and_average([torch.ones(2)], [1.0], "freqency"),
        "average": lambda: write_merge(tmp_path / "m", [open_adapter(tmp_path / "a")], MergeRule(), extra="avrage"),
        "exact": lambda: score(torch.ones(1, 3), questions, "exat"),
        "reverse": lambda: apply_operation("revers", torch.ones(1, 2), 3),
        "knowledge": lambda: questions_of(BenchmarkSettings(benchmark="knowlege"), 0),
        "mean": lambda: reference_rank([1, 2], "maen"),
    }
    for nearest, call in calls.items():
        with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
            call()
    assert not (tmp_path / "m").exists()


def test_factors_can_only_be_added_at_equal_ranks_and_keep_theirs():
    rule = MergeRule("ties", trim_space="factor")
    assert set(plan_ranks(adapters(), rule).values()) == {3}
    with pytest.raises(UserError, match="method=ties with trim_space=factor has no rank to choose"):
        plan_ranks(adapters(), MergeRule("ties", trim_space="factor", rank=2))
    with pytest.raises(UserError, match=r"needs equal ranks, found \[3, 2\]; .* or trim_space=delta"):
        plan_ranks([*adapters(1), *adapters(1, rank=2)], rule)


def test_every_method_is_tried_and_names_its_metrics_once():
    trials = all_trials([0.5, 1.0], [4, 4], MergeRule())
    assert {trial.rule.method for trial in trials} == set(LORA_METHODS)
    labels = [trial.label for trial in trials]
    names = [name for trial in trials for name in (trial.tuned, trial.plain) if name]
    assert len(set(labels)) == len(labels) and len(set(names)) == len(names)
    assert {"sum", "average", "linear", "svd", "ties", "dare", "knots", "lego", "lego_no_reweighting"} <= set(names)
    assert {"knots_model", "knots_untrimmed"} <= set(names)


def dense_knots(made, density, whole):
    """KnOTS-TIES on dense updates, by the definition: one SVD of all side by side, TIES on S V_i, back by U."""
    parts = {}
    for module in SHAPES:
        # Products in float64: those of float32 have more ranks than the factors, at the size of rounding.
        found = [each.load(module) for each in made]
        deltas = [each.scaling * each.b.double() @ each.a.double() for each in found]
        u, s, vt = torch.linalg.svd(torch.cat(deltas, dim=1), full_matrices=False)
        keep = s > 1e-5
        parts[module] = u[:, keep], list((s[keep, None] * vt[keep]).split([d.shape[1] for d in deltas], dim=1))
    limits = {}
    for k in range(len(made)):
        flat = {module: coordinates[k].flatten() for module, (_, coordinates) in parts.items()}
        pools = {module: torch.cat(list(flat.values())) if whole else own for module, own in flat.items()}
        for module, pool in pools.items():
            limits[module, k] = pool.abs().sort(descending=True).values[int(density * len(pool)) - 1] * (1 - 1e-6)
    merged = {}
    for module, (u, coordinates) in parts.items():
        kept = torch.stack([c * (c.abs() >= limits[module, k]) for k, c in enumerate(coordinates)])
        sign = torch.where(kept.sum(0) >= 0, 1.0, -1.0)
        agrees = kept.sign() == sign
        merged[module] = u @ ((kept * agrees).sum(0) / agrees.sum(0).clamp_min(1))
    return merged


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_knots_trims_over_the_model_or_by_module(density):
    # One module is ten times as large: a share of the whole model leaves next to nothing of the other.
    generator = torch.Generator().manual_seed(4)
    made, found = [], {}
    for k in range(3):
        parts = {}
        for module, (rows, columns) in SHAPES.items():
            halves = torch.randn(3, columns, generator=generator), torch.randn(rows, 3, generator=generator)
            parts[module] = Factors(*halves, scaling=20.0 if module == "up" else 2.0)
        made.append(MemoryAdapter(f"a{k}", parts))
    for scope in ("module", "model"):
        rule = MergeRule("knots", rank=9, density=density, trim_scope=scope)
        merged = merge_adapters(made, rule).adapter
        found[scope] = {module: merged.tensors[module].delta() for module in SHAPES}
        wanted = dense_knots(made, density, whole=scope == "model")
        for module, delta in found[scope].items():
            assert torch.allclose(delta.double(), wanted[module], atol=1e-4 * float(wanted[module].abs().max()))
    alike = [torch.allclose(found["module"][name], found["model"][name], atol=1e-5) for name in SHAPES]
    assert all(alike) == (density == 1.0)


def test_subspace_svd_is_as_good_as_the_exact_one_and_leaves_the_generator_alone(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    # A slowly decaying spectrum, as entrywise merges have.
    left, right = (torch.linalg.qr(torch.randn(n, 90, generator=generator))[0] for n in (120, 90))
    dense = left * (1.0 / torch.arange(1, 91) ** 0.5) @ right.T
    exact = spaces.factorise(dense, 12, seed=0).delta()
    monkeypatch.setattr(spaces, "_EXACT_SVD_SIDE", 16)
    state = torch.get_rng_state()
    found = [spaces.factorise(dense, 12, seed=seed).delta() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    best = float((dense - exact).norm())
    for each in found:
        assert float((dense - each).norm()) < 1.001 * best
    # torch.svd_lowrank is the same algorithm; ours is not worse. It draws from the global generator.
    u, s, v = torch.svd_lowrank(dense, 12 + 16, niter=4)
    theirs = u[:, :12] * s[:12] @ v[:, :12].T
    assert float((dense - found[0]).norm()) < 1.001 * float((dense - theirs).norm())
    assert not torch.equal(torch.get_rng_state(), state)


def test_the_schedule_warms_up_and_ends_at_a_twentieth():
    schedule = Schedule(steps=100, batch=1, warmup=10)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == pytest.approx(factors[9], rel=0.01)
    assert factors[50] == pytest.approx(0.5) and factors[-1] == 0.05
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=3e-3)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    used = []
    for _ in range(100):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rate.step()
    assert used == pytest.approx([3e-3 * factor for factor in factors])
