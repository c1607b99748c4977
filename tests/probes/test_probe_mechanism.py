"""Readings of attention are checked by taking the attention away."""

from __future__ import annotations

import math

import pytest
import torch

from permlab.probes.construction import construction_weights
from permlab.probes.layout import Layout
from permlab.probes.measure import mechanism_rows, mechanism_verdict
from permlab.probes.mechanism import edges_of, judged, mechanisms, routes, strengths
from permlab.probes.problem import heldout_batch, squared_error
from permlab.probes.table import ROUTES
from permlab.probes.transformer import Transformer


def hand_written(route: str, variant: str, n: int = 5, others: bool = False) -> tuple[Transformer, torch.Tensor]:
    """Layer 1 moves a fixed number of rows, or to all of the block but that one; layer 2 looks for coordinate j."""
    layout = Layout.variant(variant, n=n)
    model = Transformer(layout)
    flat = torch.zeros(1, model.size)
    first, second, w = (part[0] for part in model.unpack(flat))
    at = {layer: dict(model.blocks(layer)) for layer in (0, 1, 2)}
    row, out = at[1]["I"].start, layout.output_rows.start
    asks, holds = (n, 0) if route == "fetch" else (0, n)
    start = at[0]["I"].start
    for i in range(n):
        if others:
            first[start + asks + i, 0, start + holds : start + holds + n] = 40.0
        first[start + asks + i, 0, start + holds + i] = 0.0 if others else 40.0
        # What others carry is (1 - own) / (n - 1): the own column is the smallest, by 1 / (n - 1).
        second[row + out + i, 0, at[1]["A1 X" if route == "fetch" else "X"].start + i] = -40.0 * n if others else 40.0
        second[row + out + i, 0, row + asks : row + asks + n] = 80.0
    w[at[2]["A2 X" if route == "fetch" else "A2 A1 X"]] = torch.eye(n)
    return model, flat


@pytest.mark.parametrize(
    ("route", "variant", "others"),
    [("fetch", "scratch", False), ("carry", "no_mask", False), ("fetch", "scratch", True)],
)
def test_hand_written_routes_are_exact_and_named(route, variant, others):
    model, flat = hand_written(route, variant, others=others)
    x, y = heldout_batch(model.layout, 64, 3)
    assert float(squared_error(model.forward(model.unpack(flat), x[None])[0], y)) < 1e-8
    name = f"{route}_others" if others else route
    found = routes(model, flat)
    assert found[name][0] > 0.999
    assert all(found[other][0] < 0.5 for other in found if other != name)
    (one,) = mechanisms(model, flat)
    assert (one.name, one.read, one.row_accuracy) == (name, name, 1.0)
    assert one.without[route] < 0.5 and all(one.without[other] == 1.0 for other in ROUTES if other != route)


def test_the_construction_goes_by_lookup():
    layout = Layout.variant("scratch", n=5)
    model, weights = Transformer(layout), construction_weights(layout, 30.0, torch.float32)
    found = routes(model, weights)
    assert found["lookup"][0] > 0.999
    assert found["fetch"][0] < 0.5 and found["carry"][0] == 0
    (one,) = mechanisms(model, weights)
    assert one.name == one.read == "lookup" and one.without["lookup"] < 0.5


@pytest.mark.parametrize("variant", ["scratch", "scratch_both", "no_mask", "causal/string"])
def test_flattening_moves_attention_inside_the_block_only(variant):
    layout = Layout.parse(variant, 4)
    x, _ = heldout_batch(layout, 8, 0)
    visible = torch.randn(2, 8, 1, layout.length, layout.length).masked_fill(~layout.visible(), float("-inf"))
    attention = visible.softmax(-1)
    for edges in edges_of(x, layout).values():
        flat = edges.flattened(attention)
        torch.testing.assert_close(flat.sum(-1), attention.sum(-1))
        outside = ~edges.block.expand_as(attention)
        assert torch.equal(flat[outside], attention[outside])
        own, others = edges.shares(flat)
        torch.testing.assert_close(own, others / (layout.n - 1))


def test_strengths_of_the_three_pure_patterns():
    layout = Layout.variant("scratch", n=4)
    x, _ = heldout_batch(layout, 4, 0)
    edges = edges_of(x, layout)["fetch"]
    own = edges.own[:, None].float()
    block = edges.block.float()
    for pattern, expected in ((own, (1, 0)), ((block - own) / 3, (0, 1)), (block.expand_as(own) / 4, (0.25, 0))):
        found = strengths(pattern[None], edges)
        assert [float(part[0]) for part in found] == pytest.approx(expected)


SHOWN = {"lookup": 0.5, "lookup_others": 0, "fetch": 0, "fetch_others": 0.97, "carry": 0, "carry_others": 0}


def ablated(whole, lookup, fetch, both, carry=1.0, all_three=None):
    """Row accuracies without every set of routes."""
    last = both if all_three is None else all_three
    return {
        (): whole, ("lookup",): lookup, ("fetch",): fetch, ("carry",): carry, ("lookup", "fetch"): both,
        ("lookup", "carry"): lookup, ("fetch", "carry"): fetch, ("lookup", "fetch", "carry"): last,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("left", "name", "without_it", "without_others"),
    [
        (ablated(1.0, 0.4, 0.9, 0.1), "lookup", 0.4, 0.9),
        (ablated(1.0, 0.4, 0.3, 0.1), "lookup+fetch_others", 0.3, 1.0),
        (ablated(1.0, 0.9, 0.8, 0.1, carry=0.95), "lookup|fetch_others", 0.1, 0.95),
        (ablated(1.0, 1.0, 0.9, 0.8), "unclear", math.nan, 0.9),
        (ablated(0.4, 0.1, 0.1, 0.1, carry=0.4), "none", math.nan, 0.4),
    ],
)
def test_ablation_decides_and_attention_only_signs(left, name, without_it, without_others):
    one = judged(left, SHOWN, works=0.5)
    assert (one.name, one.read) == (name, "fetch_others")
    assert one.without_it == pytest.approx(without_it, nan_ok=True)
    assert one.without_others == without_others


def test_shares_of_seeds_per_mechanism():
    seed = {"arm": "a", "row_accuracy": 1.0, "without_it": 0.2, "without_others": 0.9}
    rows = [seed | {"mechanism": "lookup", "read": "lookup"}, seed | {"mechanism": "lookup", "read": "fetch"}]
    rows += [seed | {"mechanism": "none", "read": "fetch", "row_accuracy": 0.1}]
    rows += [seed | {"mechanism": "unclear", "read": "fetch"}]
    rows += [seed | {"mechanism": "lookup|fetch", "read": "fetch", "without_it": 0.1}]
    table = {row["mechanism"]: row for row in mechanism_rows(rows)}
    lookup = table["lookup"]
    assert (lookup["seeds"], lookup["share"], lookup["read"]) == (2, 0.4, 0.5)
    assert (lookup["without_it"], lookup["without_others"]) == (0.2, 0.9)
    assert table["lookup|fetch"]["read"] == 1.0
    found = mechanism_verdict(list(table.values()))
    assert found["mechanism_unclear"] == 1 and found["mechanism_named"] == 3
    assert found["mechanism_without_it"] == pytest.approx(0.2)
    assert found["mechanism_read_share"] == pytest.approx(2 / 4)
