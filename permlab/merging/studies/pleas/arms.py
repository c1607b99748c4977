"""Every arm of merging in part on one pair of networks, controls included: `arm_rows(case)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from permlab.merging import logits_of, reset_batchnorm
from permlab.merging.methods.repair import batchnorms
from permlab.merging.studies.pleas.case import Case, State, accuracy
from permlab.tables import Row

REFERENCE = "activation matching, least squares"
"""PLeaS at the price of one network, which every other arm is compared with."""


def with_reset(arm: str, arms: Sequence[str]) -> str:
    """An arm as it counts: with BatchNorm statistics measured again where the network has any."""
    return f"{arm} + reset" if f"{arm} + reset" in arms else arm


def plans(case: Case) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """(arm, matching, how to combine, ratios) of the table; controls first, each beside what it controls."""
    half, quarter = dict.fromkeys(case.free, 0.5), dict.fromkeys(case.free, 0.25)
    last = {case.free[-1]: 1.0} if case.free else {}
    for match, ways in (
        ("no permutation", ("average", "REPAIR", "RegMean", "least squares")),
        ("random permutation", ("average", "least squares")),
        ("weight matching", ("average", "least squares")),
        ("activation matching", ("average", "REPAIR", "RegMean", "least squares", "least squares on noise")),
    ):
        for how in ways:
            yield f"{match}, {how}", match, how, {}
    if case.free:
        yield "activation matching, r = 0.25, least squares", "activation matching", "least squares", quarter
        yield "activation matching, r = 0.5, least squares", "activation matching", "least squares", half
        yield "no permutation, r = 0.5, least squares", "no permutation", "least squares", half
        yield "activation matching, last group separate, average", "activation matching", "average", last
        yield "activation matching, last group separate, least squares", "activation matching", "least squares", last
        yield "no permutation, last group separate, least squares", "no permutation", "least squares", last


def arm_rows(case: Case, progress: Callable[[int], None] | None = None) -> list[Row]:
    """One row per arm: scores, probe, multiply-accumulates relative to one network (`dense` counts zero blocks too)."""
    rows = references(case)
    norms = bool(batchnorms(case.model))
    for done, (arm, match, how, ratios) in enumerate(plans(case)):
        begin = time.perf_counter()
        trunk, states = case.combine(match, how, ratios)
        seconds = time.perf_counter() - begin
        rows.append(_row(case, arm, states, ratios, seconds))
        if norms and how != "REPAIR":
            layout, aligned = case.layout(match, ratios)
            states = case.per_task(layout, case.reset(trunk, states), aligned)
            rows.append(_row(case, f"{arm} + reset", states, ratios, seconds))
        if progress is not None:
            progress(done + 1)
    return rows


def _row(case: Case, arm: str, states: Sequence[State], ratios: Mapping[str, float], seconds: float) -> Row:
    macs = case.counter.count(ratios)
    return {
        "pair": case.pair, "arm": arm, **case.scores(states), "probe": case.probe(states) if case.probes else None,
        "macs": macs.ratio, "dense_macs": macs.dense / macs.base, "seconds": seconds,
    }  # fmt: skip


def references(case: Case) -> list[Row]:
    """The ensemble (one network per task, and the mean of both where labels are shared), single and untrained ones."""
    empty = {"pair": case.pair, "probe": None, "macs": 1.0, "dense_macs": 1.0, "seconds": 0.0}
    ensemble = {**empty, "macs": 2.0, "dense_macs": 2.0}
    probe = case.probe(case.states) if case.probes else None
    rows = [{**ensemble, "arm": "ensemble", **case.scores(case.states), "probe": probe}]
    if case.labels is None:
        rows[0]["arm"] = "own network of each domain"
        logits = [[logits_of(case.model, state, each) for state in case.states] for each in case.test]
        own = [accuracy(sum(each) / 2, batches) for each, batches in zip(logits, case.test)]
        rows.append({**ensemble, "arm": "ensemble", "own": sum(own) / 2, "own_1": own[0], "own_2": own[1]})
        for name, state in zip("AB", case.states):
            rows.append({**empty, "arm": f"network {name} alone", **case.scores([state, state])})
    if batchnorms(case.model):
        reset = [reset_batchnorm(case.model, state, case.data) for state in case.states]
        rows.append({**ensemble, "arm": "ensemble + reset", **case.scores(reset)})
    if case.probes:
        rows.append({**empty, "arm": "untrained trunk", "probe": case.probe([case.untrained] * 2)})
    return rows
