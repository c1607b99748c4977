from __future__ import annotations

import numpy as np
import pytest
import torch
from architectures import build

from permlab.errors import UserError
from permlab.matching import zip_matching, zip_states, zip_units
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare, equal, inverse
from permlab.symmetry.functional import call

IMAGES = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def straightforward(similarity, models, alpha, beta):
    """The greedy merging as a plain loop over the whole matrix, as an oracle."""
    table = similarity.astype(float).copy()
    np.fill_diagonal(table, -np.inf)
    total = len(table)
    size = total // models
    members = [[unit] for unit in range(total)]
    owner = [unit // size for unit in range(total)]
    budget = [int((total - size) // models * beta + 1e-4)] * models
    closed = set()
    while len(members) > size:
        row, column = sorted(np.unravel_index(table.argmax(), table.shape))
        merged = np.minimum(table[row], table[column]) * alpha
        merged[row] = -np.inf
        table[row], table[:, row] = merged, merged
        members[row] += members[column]
        same = owner[row] == owner[column]
        for values in (members, owner):
            values.pop(column)
        table = np.delete(np.delete(table, column, 0), column, 1)
        if same:
            budget[owner[row]] -= 1
            if budget[owner[row]] <= 0 and owner[row] not in closed:
                closed.add(owner[row])
        for model in closed:
            mine = np.array(owner) == model
            table[np.ix_(mine, mine)] = -np.inf
    return {frozenset(cluster) for cluster in members}


@pytest.mark.parametrize("models, size", [(2, 12), (3, 7)])
@pytest.mark.parametrize("alpha, beta", [(0.3, 0.5), (1.0, 0.5), (0.3, 1.0), (0.3, 0.0)])
def test_greedy_merging_equals_the_plain_loop(models, size, alpha, beta):
    rng = np.random.default_rng(0)
    for _ in range(10):
        similarity = np.corrcoef(rng.standard_normal((models * size, 30)))
        found = zip_units(similarity, models, alpha, beta)
        clusters = {frozenset(np.flatnonzero(found == label)) for label in range(size)}
        assert clusters == straightforward(similarity, models, alpha, beta)


def test_without_a_second_merge_every_cluster_is_a_pair():
    similarity = np.corrcoef(np.random.default_rng(1).standard_normal((20, 30)))
    labels = zip_units(similarity, 2, alpha=0.0, beta=1.0)
    assert np.bincount(labels).tolist() == [2] * 10


def test_the_budget_bounds_merges_inside_a_model():
    similarity = np.full((20, 20), 0.1) + np.kron(np.eye(2), np.full((10, 10), 0.8))  # alike inside, not across
    labels = zip_units(similarity, 2, alpha=1.0, beta=0.4).reshape(2, 10)
    inside = [10 - len(np.unique(row)) for row in labels]
    assert max(inside) <= int(5 * 0.4)


def test_without_a_budget_at_most_one_merge_is_inside_a_model():
    similarity = np.full((20, 20), 0.1) + np.kron(np.eye(2), np.full((10, 10), 0.8))
    labels = zip_units(similarity, 2, alpha=1.0, beta=0.0).reshape(2, 10)
    # As in the authors' code, which looks at the budget after a merge.
    assert [10 - len(np.unique(row)) for row in labels] == [1, 1]


def mlp():
    torch.manual_seed(0)
    model = build_vision_model("mlp", shape=(1, 4, 4), classes=5, width=16)
    for layer in model.layers:
        torch.nn.init.constant_(layer.bias, 0.5)
        torch.nn.init.normal_(layer.weight, std=0.3)
    return model, declare(model), {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("models", [2, 3])
def test_zipping_permuted_copies_gives_the_same_function(models):
    model, spec, a = mlp()
    states = [a] + [apply(spec, a, spec.random(torch.Generator().manual_seed(k))) for k in range(1, models)]
    matching = zip_matching(spec, model, states, [IMAGES], alpha=1.0, where="pre")  # before ReLU no unit is dead
    merged = zip_states(spec, model, states, matching)
    assert torch.allclose(call(model, merged, (IMAGES,)), call(model, a, (IMAGES,)), atol=1e-4)
    assert all(set(torch.bincount(c.flatten()).tolist()) == {models} for c in matching.clusters.values())


def test_doubled_units_inside_a_model_are_merged():
    model, spec, a = mlp()
    a["layers.0.weight"][1], a["layers.0.bias"][1] = a["layers.0.weight"][0], a["layers.0.bias"][0]
    torch.manual_seed(7)
    b = {name: torch.randn_like(value) * 0.3 for name, value in a.items()}
    clusters = zip_matching(spec, model, [a, b], [IMAGES]).clusters["layers.0"]
    assert clusters[0, 0] == clusters[0, 1]


def test_transformers_zip_their_channels_and_assign_their_heads():
    model, inputs, spec = build("llama-tied")
    a = {name: value.clone() for name, value in model.state_dict().items()}
    permutation = spec.random(torch.Generator().manual_seed(1))
    batch = {"input_ids": torch.randint(3, 101, (16, 12))}
    matching = zip_matching(spec, model, [a, apply(spec, a, permutation)], [batch])
    assert set(matching.clusters) == {"layers.0.mlp", "layers.1.mlp"}
    assert "tied" in matching.notes["residual"] and "wholes" in matching.notes["layers.0.attention"]
    heads = {part: index for part, index in matching.permutations[1].items() if "mlp" not in part}
    assert equal(heads, {part: index for part, index in inverse(permutation).items() if "mlp" not in part})
    merged = zip_states(spec, model, [a, apply(spec, a, permutation)], matching)
    assert merged["lm_head.weight"] is merged["model.embed_tokens.weight"]
    assert torch.allclose(call(model, merged, inputs).logits, call(model, a, inputs).logits, atol=1e-4)


def test_transposed_layers_know_their_outputs():
    model, inputs, spec = build("gpt2")
    a = {name: value.clone() for name, value in model.state_dict().items()}
    b = apply(spec, a, spec.random(torch.Generator().manual_seed(1)))
    matching = zip_matching(spec, model, [a, b], [{"input_ids": torch.randint(3, 101, (16, 12))}])
    merged = zip_states(spec, model, [a, b], matching)
    assert torch.allclose(call(model, merged, inputs).logits, call(model, a, inputs).logits, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_what_stays_apart_from_the_first_group_on_is_the_ensemble(name):
    # Nothing is merged, so every layer holds both networks side by side, and the head takes their mean.
    model, inputs, spec = build(name)
    a = {key: value.clone() for key, value in model.state_dict().items()}
    b = {key: value.clone() for key, value in build(name, seed=1)[0].state_dict().items()}
    matching = zip_matching(spec, model, [a, b], [torch.cat([inputs[0]] * 8)], stop=next(iter(spec.groups)))
    assert matching.apart == list(spec.groups)
    merged = zip_states(spec, model, [a, b], matching)
    mean = (call(model, a, inputs) + call(model, b, inputs)) / 2
    assert torch.allclose(call(model, merged, inputs), mean, atol=1e-5)


def test_partial_zip_shares_the_front_and_nothing_behind_it():
    model, spec, a = mlp()
    torch.manual_seed(5)
    b = {name: torch.randn_like(value) * 0.3 for name, value in a.items()}
    whole = zip_matching(spec, model, [a, b], [IMAGES])
    names = list(spec.groups)
    part = zip_matching(spec, model, [a, b], [IMAGES], stop=names[-1])
    assert part.apart == names[-1:] and not whole.apart
    assert all(torch.equal(part.clusters[name], whole.clusters[name]) for name in names[:-1])
    merged, full = (zip_states(spec, model, [a, b], each) for each in (part, whole))
    assert all(torch.equal(merged[key], full[key]) for key in merged if key.startswith("layers.0"))
    head = list(model.state_dict())[-2]
    # The head reads the units of both networks, each through its own weights.
    assert torch.allclose(merged[head], torch.cat([a[head], b[head]], dim=1) / 2)
    with pytest.raises(UserError, match=r"no group of units.*did you mean 'layers\.1'"):
        zip_matching(spec, model, [a, b], [IMAGES], stop="layer.1")


def test_groups_that_cannot_be_zipped_are_refused():
    model, _, spec = build("llama-tied")
    state = model.state_dict()
    with pytest.raises(UserError, match="residual cannot be zipped"):
        zip_matching(spec, model, [state, state], [{"input_ids": torch.ones(1, 4).long()}], groups=["residual"])
