from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from architectures import EXPERTS, HUGGINGFACE, VISION, build

from permlab.errors import UserError
from permlab.matching import Matching, identity_matching, random_matching, weight_matching, weight_matching_many
from permlab.matching import weight as weight_module
from permlab.matching.assign import score, solve
from permlab.matching.cost import CostBuilder
from permlab.models.vision import build_vision_model
from permlab.symmetry import HeadGroup, Spec, apply, compose, declare, equal, inverse, squared_distance


def planted(name, noise=0.1, seed=1):
    """(spec, A, B, planted permutation): B is A with noise of `noise` times each tensor's deviation, permuted."""
    model, _, spec = build(name)
    generator = torch.Generator().manual_seed(seed)
    a = {key: value.clone() for key, value in model.state_dict().items()}
    noisy = {}
    for key, value in a.items():
        if value.is_floating_point():
            scale = float(value.std()) if value.numel() > 1 and value.std() > 0 else float(value.abs().mean())
            noisy[key] = value + noise * scale * torch.randn(value.shape, generator=generator)
        else:
            noisy[key] = value
    for alias, canonical in spec.tied.items():
        noisy[alias] = noisy[canonical]
    permutation = spec.random(generator)
    return spec, a, apply(spec, noisy, permutation), permutation


def mlps(count=2, width=32, depth=3):
    states = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = build_vision_model("mlp", shape=(1, 4, 4), classes=5, width=width, depth=depth)
        states.append({name: value.detach().clone() for name, value in model.state_dict().items()})
    return declare(model), states


@pytest.mark.parametrize("sparse", [False, True])
def test_steps_are_told_one_group_at_a_time_and_only_get_closer(sparse, monkeypatch):
    monkeypatch.setattr(weight_module, "LARGE_GROUP", 32)
    spec, (a, b) = mlps(width=48)  # large enough for sparse assignments
    steps = []

    def note(group, permutation):
        steps.append((group, dict(permutation)))

    found = weight_matching(spec, a, b, start=spec.identity(), seed=3, sparse=sparse, on_step=note)
    assert steps[0][0] == "" and equal(steps[0][1], spec.identity()) and equal(steps[-1][1], found.permutation)
    for (_, before), (group, after) in pairwise(steps):
        assert [name for name in after if not torch.equal(before[name], after[name])] == [group]
        assert squared_distance(spec, a, apply(spec, b, after)) < squared_distance(spec, a, apply(spec, b, before))
    again = weight_matching(spec, a, apply(spec, b, found.permutation), start=spec.identity())
    assert again.moved() == 0


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", [*VISION, *HUGGINGFACE, *EXPERTS])
def test_a_planted_permutation_is_recovered_exactly(name, noise):
    spec, a, b, permutation = planted(name, noise)
    matching = weight_matching(spec, a, b)
    assert equal(matching.permutation, inverse(permutation))
    assert all(group.check(matching.permutation) == "" for group in spec.groups.values())


@pytest.mark.parametrize("name", ["mlp", "resnet20", "llama", "gpt2", "bert-mlm"])
def test_the_objective_is_the_distance_and_never_rises(name):
    _model, _, spec = build(name)
    a, b = (build(name, seed)[0].state_dict() for seed in (0, 1))
    matching = weight_matching(spec, a, b, start=spec.identity())
    objectives = [row["objective"] for row in matching.trace]
    assert objectives[0] == pytest.approx(squared_distance(spec, a, b), rel=1e-6)
    assert all(later <= earlier for earlier, later in pairwise(objectives))
    exact = squared_distance(spec, a, apply(spec, b, matching.permutation))
    assert matching.objective == pytest.approx(exact, rel=1e-6)
    assert objectives[-1] == pytest.approx(exact, rel=1e-5)
    assert exact < objectives[0]


def test_one_hidden_layer_is_solved_globally():
    spec, (a, b) = mlps(width=6, depth=1)
    best = min(
        squared_distance(spec, a, apply(spec, b, {"layers.0": torch.tensor(order)})) for order in permutations(range(6))
    )
    assert weight_matching(spec, a, b).objective == pytest.approx(best, rel=1e-6)


def test_identical_models_stay_as_they_are():
    spec, (a,) = mlps(1)
    matching = weight_matching(spec, a, a)
    assert equal(matching.permutation, spec.identity()) and matching.objective == 0.0 and matching.moved() == 0.0


def test_the_end_cannot_be_improved_by_any_single_group(monkeypatch):
    monkeypatch.setattr(weight_module, "LARGE_GROUP", 32)
    spec, (a, b) = mlps(width=160)  # wide enough for the sparse steps
    matching = weight_matching(spec, a, b)
    builder = CostBuilder(spec, a, b)
    for name, group in spec.groups.items():
        costs = builder.costs(name, matching.permutation)
        best = score(group, costs, solve(group, costs).permutation)
        assert score(group, costs, matching.permutation) >= best - 1e-4 * abs(best)


def test_restarts_never_make_it_worse_and_the_seed_decides():
    spec, (a, b) = mlps()
    one, four = weight_matching(spec, a, b, seed=3), weight_matching(spec, a, b, seed=3, restarts=4)
    assert four.objective <= one.objective
    assert {row["restart"] for row in four.trace} == {0.0, 1.0, 2.0, 3.0}
    assert equal(one.permutation, weight_matching(spec, a, b, seed=3).permutation)


def test_costs_are_in_the_second_models_own_frame():
    spec, (a, b) = mlps()
    matching = weight_matching(spec, a, b)
    name = "layers.1"
    others = {part: index for part, index in matching.permutation.items() if part != name}
    moved = apply(spec, b, others)
    expected = (
        a["layers.1.weight"] @ moved["layers.1.weight"].t()
        + torch.outer(a["layers.1.bias"], moved["layers.1.bias"])
        + a["layers.2.weight"].t() @ moved["layers.2.weight"]
    )
    assert torch.allclose(matching.costs[1][name], expected, atol=1e-5)
    chosen = expected[torch.arange(32), matching.permutation[name]]
    assert torch.allclose(matching.scores[1][name], chosen, atol=1e-5)
    slim = weight_matching(spec, a, b, keep_costs=False)
    assert slim.costs[1] == {} and torch.allclose(slim.scores[1][name], chosen, atol=1e-5)


def test_products_between_layers_are_kept_apart_and_those_that_nothing_moved_are_not_taken_again(monkeypatch):
    spec, (a, b) = mlps(width=64)
    builder, permutation, taken = CostBuilder(spec, a, b), spec.identity(), []
    multiply = CostBuilder._multiply
    monkeypatch.setattr(
        CostBuilder, "_multiply", lambda self, *given: taken.append(given[1][0].tensor) or multiply(self, *given)
    )
    builder.costs("layers.1", permutation)
    assert taken == ["layers.1.weight", "layers.2.weight"]  # the bias goes with one of them
    taken.clear()
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    permutation = {**permutation, "layers.0": shuffled}
    found = builder.costs("layers.1", permutation)["unit"]
    assert taken == ["layers.1.weight"]
    assert torch.allclose(found, CostBuilder(spec, a, b).costs("layers.1", permutation)["unit"], atol=1e-5)


def test_a_group_that_was_solved_from_all_its_neighbours_is_not_solved_again():
    spec, (a, b) = mlps(width=16, depth=1)
    assert weight_matching(spec, a, b).solves == 1


def test_kept_cost_matrices_are_updated_exactly():
    spec, (a, b) = mlps(width=64)
    builder, permutation = CostBuilder(spec, a, b), spec.identity()
    builder.costs("layers.1", permutation)
    few = torch.arange(64)
    few[[3, 9, 20]] = torch.tensor([9, 20, 3])
    permutation = {**permutation, "layers.0": few}
    updated = builder.costs("layers.1", permutation)["unit"]
    assert torch.allclose(updated, CostBuilder(spec, a, b).costs("layers.1", permutation)["unit"], atol=1e-5)


@pytest.mark.parametrize("queries, rotary", [(1, False), (2, True), (3, False)])
def test_two_level_head_assignment_equals_brute_force(queries, rotary):
    group = HeadGroup("h", kv_heads=2, queries=queries, key_dim=2, value_dim=2, rotary=rotary)
    generator = torch.Generator().manual_seed(5)
    costs = {space: torch.randn(size, size, generator=generator) for space, size in group.spaces().items()}
    found = solve(group, costs).permutation
    orders = [torch.tensor(order) for order in permutations(range(queries))]
    dims = [torch.tensor(order) for order in permutations(range(2))]
    keys = dims[:1] if rotary else dims
    best = max(
        score(group, costs, group.assemble(kv, torch.stack([q1, q2]), torch.stack([k1, k2]), torch.stack([v1, v2])))
        for kv in dims
        for q1 in orders
        for q2 in orders
        for k1 in keys
        for k2 in keys
        for v1 in dims
        for v2 in dims
    )
    assert group.check(found) == ""
    assert score(group, costs, found) == pytest.approx(best, rel=1e-5)


def test_many_queries_per_head_are_solved_in_turns():
    group = HeadGroup("h", kv_heads=2, queries=6, key_dim=3, value_dim=4, rotary=True)
    generator = torch.Generator().manual_seed(2)
    target = group.random(generator)
    costs = {}
    for space, size in group.spaces().items():
        costs[space] = 0.3 * torch.randn(size, size, generator=generator)
        costs[space][torch.arange(size), group.index(target, space)] += 2.0
    assert equal(solve(group, costs).permutation, target)


def test_quadratic_groups_are_pinned_on_request_and_noted_otherwise():
    spec, a, b, _permutation = planted("bert-mlm")
    pinned = weight_matching(spec, a, b, quadratic="pin")
    assert "two axes" in pinned.pinned["residual"]
    assert torch.equal(pinned.permutation["residual"], torch.arange(32))
    free = weight_matching(spec, a, b)
    assert "linearised" in free.notes["residual"] and not free.pinned
    assert free.objective < pinned.objective


def test_three_models_meet_at_their_mean():
    spec, (a, b, c) = mlps(3)
    matching = weight_matching_many(spec, [a, b, c])
    objectives = [row["objective"] for row in matching.trace]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(objectives))
    moved = [apply(spec, state, permutation) for state, permutation in zip((a, b, c), matching.permutations)]
    mean = {name: sum(state[name] for state in moved) / 3 for name in a}
    assert matching.objective == pytest.approx(sum(squared_distance(spec, mean, state) for state in moved), rel=1e-5)
    assert equal(matching.permutations[0], spec.identity())
    assert len(matching.scores) == 3 and set(matching.scores[2]) == set(spec.groups)


def test_three_planted_models_are_aligned():
    spec, a, b, first = planted("llama")
    second = spec.random(torch.Generator().manual_seed(9))
    matching = weight_matching_many(spec, [a, b, apply(spec, a, second)])
    assert equal(matching.permutations[1], inverse(first))
    assert equal(matching.permutations[2], inverse(second))


def test_controls():
    spec, (_a, _) = mlps()
    assert equal(identity_matching(spec).permutation, spec.identity())
    random = random_matching(spec, 3, seed=1)
    assert len(random.permutations) == 3 and equal(random.permutations[0], spec.identity())
    assert random.moved(1) > 0.5
    with pytest.raises(ValueError, match="3 models"):
        _ = random.permutation


def test_a_matching_survives_the_disk(tmp_path):
    spec, (a, b) = mlps()
    matching = weight_matching(spec, a, b)
    loaded = Matching.load(matching.save(tmp_path / "match.safetensors"))
    assert equal(loaded.permutation, matching.permutation)
    assert torch.equal(loaded.costs[1]["layers.0"], matching.costs[1]["layers.0"])
    assert (loaded.objective, loaded.trace, loaded.method) == (matching.objective, matching.trace, "weight")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a safetensors file"):
        Matching.load(tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match="no matching"):
        Matching.load(tmp_path / "missing.safetensors")


def test_bad_input_is_refused():
    spec, (a, b) = mlps()
    with pytest.raises(UserError, match="NaN"):
        weight_matching(spec, a, {**b, "head.weight": b["head.weight"] * float("nan")})
    with pytest.raises(UserError, match="different architectures"):
        weight_matching(spec, a, {**b, "head.weight": b["head.weight"][:2]})
    with pytest.raises(UserError, match="restarts=0"):
        weight_matching(spec, a, b, restarts=0)
    with pytest.raises(UserError, match="two or more"):
        weight_matching_many(spec, [a])


def test_stopping_early_keeps_a_valid_permutation():
    spec, (a, b) = mlps()
    matching = weight_matching(spec, a, b, should_stop=lambda: True)
    assert spec.groups["layers.0"].check(matching.permutation) == ""
    calls = []
    weight_matching(spec, a, b, progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (1, 100)


def test_a_spec_without_freedom_gives_the_identity():
    _, (a, b) = mlps()
    matching = weight_matching(Spec(source="empty"), a, b)
    assert matching.permutation == {} and matching.objective == 0.0
    assert compose({}, {}) == {}
