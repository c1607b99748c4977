"""Merges in pieces: the same numbers as in memory, whatever the size of the pieces, and shards that outlive a stop."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from checkpoints_made import network, save_pair
from safetensors.torch import load_file

from permlab.errors import UserError
from permlab.matching import many, match_networks, weight_matching, weight_matching_many
from permlab.matching.cost import CostBuilder
from permlab.matching.distance import squared_norm
from permlab.matching.memory import Memory
from permlab.matching.setting import MatchSetting
from permlab.merging import average, load_networks, save_network, task_arithmetic, ties
from permlab.merging.arm import Arm
from permlab.merging.merge import combine_stored
from permlab.merging.methods.dare import dare
from permlab.merging.methods.spherical import slerp
from permlab.merging.methods.thinning import at_least
from permlab.merging.methods.ties import elect
from permlab.merging.setting import Setting
from permlab.symmetry import apply, declare_huggingface, inverse, permuted_pieces

WEIGHTS = [1.0, 0.25]


def three(kind=torch.float32):
    models = [network("llama-tied", seed) for seed in range(3)]
    spec = declare_huggingface(models[0].config, models[0].state_dict())
    states = [
        {name: value.to(kind) for name, value in model.state_dict().items() if name not in spec.tied}
        for model in models
    ]
    return spec, states[0], states[1:]


def whole(combine, base, states):
    """The same in memory."""
    if combine == "average":
        return average(states, WEIGHTS)
    if combine == "task_arithmetic":
        return task_arithmetic(base, states, WEIGHTS)
    if combine == "ties":
        return ties(base, states, keep=0.3, weights=WEIGHTS)
    if combine == "dare":
        return dare(base, states, keep=0.3, weights=WEIGHTS, seed=4)
    wide = [{name: value.float() for name, value in state.items()} for state in states]
    return {name: slerp(wide[0][name], wide[1][name], 0.2).to(value.dtype) for name, value in states[0].items()}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("combine", ["average", "task_arithmetic", "ties", "dare", "slerp"])
def test_pieces_give_what_whole_tensors_give(combine, kind, monkeypatch):
    spec, base, states = three(kind)
    matching = match_networks("identity", spec, None, states, MatchSetting())
    setting = Setting(weights=WEIGHTS, ancestor=base, density=0.3, seed=4)
    wanted = whole(combine, base, states)
    for entries in (1 << 22, 100):
        monkeypatch.setattr("permlab.merging.streaming.PIECE", entries)
        merged = combine_stored(Arm("identity", combine), spec, states, matching, setting)
        assert list(merged) == list(states[0])
        for name, value in wanted.items():
            assert merged[name].dtype == kind
            assert torch.allclose(
                merged[name].float(), value.float(), atol=1e-6, rtol=0 if kind == torch.float32 else 8e-3
            )
        biggest = max(len(list(merged.pieces(name))) for name in merged)
        assert biggest == 1 if entries > 1000 else biggest > 20


def test_half_of_the_changes_scaled_up_by_two_are_what_dare_adds():
    base = {"w": torch.zeros(1000), "n": torch.tensor(3)}
    states = [{"w": torch.full((1000,), float(k)), "n": torch.tensor(k)} for k in (1, 10)]
    merged = dare(base, states, keep=0.5, seed=1)
    assert set(merged["w"].tolist()) == {0.0, 2.0, 20.0, 22.0} and merged["n"] == 3
    assert abs(float(merged["w"].mean()) - 11) < 1.5
    assert not torch.equal(merged["w"], dare(base, states, keep=0.5, seed=2)["w"])
    assert torch.equal(dare(base, states, keep=1.0)["w"], torch.full((1000,), 11.0))


def test_the_arc_keeps_the_norm_where_the_straight_line_loses_it():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    assert torch.allclose(slerp(a, b, 0.5).norm(), torch.tensor(3.0))
    assert torch.allclose(slerp(a, b, 1 / 3), 3 * torch.tensor([3**0.5 / 2, 0.5]))
    assert torch.equal(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, 2 * a, 0.25), 1.25 * a)
    assert torch.allclose(slerp(a, torch.zeros(2), 0.5), a / 2)


def test_angles_of_large_tensors_are_summed_in_doubles_a_little_at_a_time(monkeypatch):
    held, double = [], torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda self: held.append(self.numel()) or double(self))
    a, b = torch.randn(2, 3, 200_000, generator=torch.Generator().manual_seed(0))
    found = slerp(a, b, 0.5)
    assert sum(held) == 2 * a.numel() and max(held) <= 1 << 18
    cosine = float(torch.nn.functional.cosine_similarity(double(a).flatten(), double(b).flatten(), dim=0))
    assert torch.allclose(found, (a + b) / (2 * (1 + cosine)) ** 0.5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_costs_are_the_same_in_pieces(kind):
    spec, a, (b, _) = three(kind)
    permutation = spec.random(torch.Generator().manual_seed(1))
    # Products that are taken elsewhere come back; here that is the CPU as well.
    small = CostBuilder(spec, a, b, Memory(piece=97, device=torch.device("cpu")))
    large = CostBuilder(spec, a, b)
    for name in small.groups:
        wanted = large.costs(name, permutation)
        for space, cost in small.costs(name, permutation).items():
            assert torch.allclose(cost, wanted[space], atol=1e-4)
    moved = apply(spec, b, permutation)
    pieces = {n: torch.cat([p for *_, p in permuted_pieces(spec, n, b[n], permutation, 50)]) for n in spec.matched()}
    assert all(torch.equal(pieces[name], moved[name]) for name in pieces)
    wide = sum(float((a[n].double() - moved[n].double()).square().sum()) for n in spec.matched())
    assert squared_norm(spec, a, b, permutation) == pytest.approx(wide, rel=1e-6)


def test_a_planted_permutation_is_found_within_a_cap_in_half_precision():
    spec, a, _ = three(torch.bfloat16)
    planted = spec.random(torch.Generator().manual_seed(2))
    memory = Memory(most=2**20, piece=1000)
    found = weight_matching(spec, a, apply(spec, a, planted), keep_costs=False, keep_scores=False, memory=memory)
    assert found.objective == 0 and not found.scores
    undone = inverse(planted)
    assert all(torch.equal(found.permutation[part], index) for part, index in undone.items())


def test_three_planted_networks_meet_within_a_cap_in_half_precision():
    spec, a, _ = three(torch.bfloat16)
    planted = [spec.random(torch.Generator().manual_seed(seed)) for seed in (2, 3)]
    states = [a, *(apply(spec, a, each) for each in planted)]
    found = weight_matching_many(spec, states, keep_scores=False, memory=Memory(most=2**20, piece=1000))
    assert found.objective == pytest.approx(0, abs=1e-6) and not found.scores
    for permutation, each in zip(found.permutations[1:], planted):
        undone = inverse(each)
        assert all(torch.equal(permutation[part], index) for part, index in undone.items())


def test_the_sum_of_three_networks_lies_in_a_file_where_memory_is_bounded(monkeypatch, tmp_path):
    spec, a, others = three()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sums, plain = [], many.Descent

    def watched(builder, *arguments):
        sums.append({builder.a[name].untyped_storage().filename for name in spec.matched()})
        return plain(builder, *arguments)

    monkeypatch.setattr(many, "Descent", watched)
    free = weight_matching_many(spec, [a, *others])
    assert all(files == {None} for files in sums)
    sums.clear()
    setting = MatchSetting(keep_scores=False, memory=Memory(most=2**20, piece=1000))
    capped = match_networks("weight", spec, None, [a, *others], setting)
    assert sums and all(len(files) == len(spec.matched()) and None not in files for files in sums)
    assert not list(tmp_path.iterdir())
    for one, other in zip(free.permutations, capped.permutations):
        assert all(torch.equal(index, other[part]) for part, index in one.items())
    assert free.scores and not capped.scores
    with pytest.raises(UserError, match=r"memory_gb=.* is too little"):
        weight_matching_many(spec, [a, *others], memory=Memory(most=2**12, piece=10))


def test_groups_above_the_cap_are_refused_with_what_they_take():
    spec, a, (b, _) = three()
    with pytest.raises(UserError, match=r"memory_gb=.* is too little for .*, whose \d+ units take .* GiB to match"):
        weight_matching(spec, a, b, memory=Memory(most=2**12, piece=10))


def test_shards_of_an_interrupted_merge_are_taken_over(tmp_path, monkeypatch):
    from permlab.merging.networks import saving

    loaded = load_networks(save_pair(tmp_path))
    matching = match_networks("random", loaded.spec, None, loaded.stored, MatchSetting(seed=1))
    merged = combine_stored(Arm("random"), loaded.spec, loaded.stored, matching, Setting())
    computed, original = [], saving.pieces_of

    def stopping(state, name):
        if len(computed) == 9:
            raise KeyboardInterrupt
        computed.append(name)
        return original(state, name)

    monkeypatch.setattr(saving, "pieces_of", stopping)
    where, kept = tmp_path / "m", tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        save_network(where, merged, loaded, {"seed": 1}, shard_size="20KB", kept=kept)
    ready = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.safetensors")}
    done = {name for file in ready for name in load_file(kept / file)}
    assert ready and done < set(computed) and not where.exists()
    computed.clear()
    monkeypatch.setattr(saving, "pieces_of", lambda state, name: computed.append(name) or original(state, name))
    save_network(where, merged, loaded, {"seed": 1}, shard_size="20KB", kept=kept)
    assert not done & set(computed) and not kept.exists()
    assert all((where / file).stat().st_mtime_ns == time for file, time in ready.items())
    index = json.loads((where / "model.safetensors.index.json").read_text())["weight_map"]
    for name in merged:
        assert torch.equal(load_file(where / index[name])[name], merged[name])
    # Shards of another merge are none of this one.
    kept.mkdir()
    Path(kept, "made_of.json").write_text("another")
    Path(kept, "model-00001-of-00002.safetensors").write_bytes(b"torn")
    save_network(where, merged, loaded, {"seed": 1}, shard_size="20KB", kept=kept)
    assert load_networks([str(where), str(tmp_path / "a")])


def test_a_merge_without_a_permutation_gathers_nothing(monkeypatch):
    spec, _, states = three(torch.bfloat16)
    matching = match_networks("identity", spec, None, states, MatchSetting())
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *_: pytest.fail("rows that stay are gathered"))
    merged = combine_stored(Arm("identity", "average"), spec, states, matching, Setting())
    assert all(merged[name].equal(value) for name, value in average(states).items())
    moved = {**spec.identity(), **spec.random(torch.Generator().manual_seed(0))}
    name = "model.embed_tokens.weight"
    with pytest.raises(pytest.fail.Exception):
        next(permuted_pieces(spec, name, states[0][name], moved))


def test_entries_at_the_threshold_stay_and_the_next_smaller_ones_go():
    limit = torch.tensor(0.1)
    below = torch.nextafter(limit, torch.tensor(0.0))
    change = torch.stack([limit, -limit, below, -below, torch.tensor(0.0)])
    assert at_least(change, limit).tolist() == [float(limit), -float(limit), 0, 0, 0]
    assert at_least(change, torch.tensor(0.0)).equal(change)


def test_signs_are_elected_by_weight_and_entries_without_one_count_for_nothing():
    vectors = [torch.tensor([3.0, -1, 0, 2, 1]), torch.tensor([1.0, 3, 0, -2, 0]), torch.tensor([-1.0, 0, 0, 0, 2])]
    assert elect(vectors).tolist() == [2, 3, 0, 0, 1.5]
    assert elect(vectors, mean=False).tolist() == [4, 3, 0, 0, 3]
    assert torch.allclose(elect(vectors, [1.0, 3.0, 2.0]), torch.tensor([1.5, 3, 0, -2, 5 / 3]))
