from __future__ import annotations

import pytest
import torch

from permlab.errors import UserError
from permlab.symmetry import (
    Block,
    ChannelGroup,
    HeadGroup,
    Spec,
    apply,
    axis_index,
    check_same,
    check_state,
    compose,
    equal,
    inverse,
    squared_distance,
)

HEADS = HeadGroup("attention", kv_heads=3, queries=2, key_dim=4, value_dim=5)
ROTARY = HeadGroup("attention", kv_heads=3, queries=2, key_dim=4, value_dim=5, rotary=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("group", [ChannelGroup("a", 7), HEADS, ROTARY], ids=["channel", "heads", "rotary"])
def test_random_elements_form_a_group(group):
    one, two = group.random(generator(1)), group.random(generator(2))
    for element in (one, two, compose(one, two), inverse(one)):
        assert group.check(element) == ""
    assert equal(compose(one, inverse(one)), group.identity())
    for space, size in group.spaces().items():
        assert torch.equal(group.index(one, space).sort().values, torch.arange(size))
        # applying one and then two is applying their composition
        assert torch.equal(group.index(one, space)[group.index(two, space)], group.index(compose(one, two), space)), (
            space
        )


def test_head_index_follows_query_key_and_value_heads_together():
    element = HEADS.random(generator(3))
    query, key = HEADS.index(element, "query").view(6, 4), HEADS.index(element, "key").view(3, 4)
    output, value = HEADS.index(element, "output").view(6, 5), HEADS.index(element, "value").view(3, 5)
    for slot in range(6):
        kv = slot // 2
        assert (query[slot] // 4 // 2 == key[kv] // 4).all()
        assert torch.equal(query[slot] % 4, key[kv] % 4)
        assert torch.equal(output[slot] % 5, value[kv] % 5)
        assert (output[slot] // 5 == query[slot, 0] // 4).all()


def test_check_says_what_is_wrong():
    torn = HEADS.identity()
    torn["attention.value"] = torch.randperm(15, generator=generator(1))
    assert "tears" in HEADS.check(torn)
    assert "rotary" in ROTARY.check(HEADS.random(generator(4)))
    assert "not a permutation" in ChannelGroup("a", 3).check({"a": torch.tensor([0, 0, 1])})


def test_blocks_address_flattened_and_packed_axes():
    spec = Spec()
    spec.channel("c", 3)
    spec.channel("d", 2)
    perm = {"c": torch.tensor([2, 0, 1]), "d": torch.tensor([1, 0])}
    inner = axis_index(spec, perm, (Block("c", inner=2),), 6)
    assert inner.tolist() == [4, 5, 0, 1, 2, 3]
    outer = axis_index(spec, perm, (Block("c", outer=2),), 6)
    assert outer.tolist() == [2, 0, 1, 5, 3, 4]
    packed = axis_index(spec, perm, (Block("c"), Block("d", offset=4)), 6)
    assert packed.tolist() == [2, 0, 1, 3, 5, 4]


def two_layers():
    spec = Spec(source="test")
    spec.channel("hidden", 4)
    spec.use("a.weight", 0, "hidden")
    spec.use("b.weight", 1, "hidden")
    state = {"a.weight": torch.randn(4, 3), "b.weight": torch.randn(2, 4), "other": torch.ones(2)}
    return spec, state


def test_apply_shares_what_does_not_move_and_keeps_ties():
    spec, state = two_layers()
    spec.tied["alias"] = "a.weight"
    state["alias"] = state["a.weight"]
    perm = spec.random(generator(1))
    moved = apply(spec, state, perm)
    assert moved["other"] is state["other"]
    assert moved["alias"] is moved["a.weight"]
    assert torch.equal(moved["a.weight"], state["a.weight"][perm["hidden"]])
    back = apply(spec, moved, inverse(perm))
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert squared_distance(spec, state, back) == 0.0


def test_quadratic_use_is_found_and_pinning_removes_it():
    spec, _ = two_layers()
    spec.use("b.weight", 0, "hidden")
    assert "quadratic" in spec.quadratic()["hidden"]
    spec.pin("hidden", "because")
    assert not spec.groups and not spec.axes and not spec.quadratic()
    assert spec.pinned == {"hidden": "because"}
    assert "because" in spec.describe()


def test_misfitting_states_are_refused_in_one_line():
    spec, state = two_layers()
    with pytest.raises(UserError, match=r"no tensor b\.weight"):
        check_state(spec, {"a.weight": state["a.weight"]})
    with pytest.raises(UserError, match="another width"):
        check_state(spec, {**state, "a.weight": torch.ones(3, 3)})
    with pytest.raises(UserError, match="NaN"):
        check_state(spec, {**state, "a.weight": torch.full((4, 3), float("nan"))})
    with pytest.raises(UserError, match=r"a.weight: \(4, 3\) in A, \(5, 3\) in B"):
        check_same(state, {**state, "a.weight": torch.ones(5, 3)})
