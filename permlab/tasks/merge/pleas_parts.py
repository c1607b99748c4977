"""Arms and budgets of `task.study=pleas` for one pair of networks: `table_rows(case)`, `budget_rows(case)`.

A `Case` holds two trained networks with different labels (their heads are kept, one per task) or with the same labels
in two domains (the heads are merged too).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from permlab.matching import Matching, activation_matching, identity_matching, random_matching, weight_matching
from permlab.merging import (
    BUDGETS,
    Layout,
    MacCounter,
    align,
    allocate,
    features,
    labels_of,
    least_squares,
    linear_probe,
    logits_of,
    measured_gains,
    noise_batches,
    not_separable,
    pair_scores,
    regmean,
    repair,
    reset_batchnorm,
    score_tasks,
    trunk_spec,
)
from permlab.merging.renormalise import batchnorms
from permlab.symmetry import Spec

BUDGET_GRID = (1.2, 1.5, 1.8)
Row = dict[str, Any]
State = dict[str, Tensor]


@dataclass
class Case:
    """Two networks to be merged, what they are scored on, and what merging them may read.

    Attributes:
        states, untrained: the two networks, and the first one before its training.
        head: name of the classifier module; `heads`: its tensors where they are kept per task, else empty.
        labels: per task its class numbers, or None where both networks know all classes.
        train, test: per task its batches of (images, labels).
        data: training batches of both tasks together, for activations, Gram matrices and statistics.
    """

    pair: int
    spec: Spec
    model: nn.Module
    states: list[State]
    untrained: State
    head: str
    heads: tuple[str, ...]
    labels: list[list[int]] | None
    train: list[list[Any]]
    test: list[list[Any]]
    data: list[Any]
    similarity: str = "inner"
    ridge: float | None = None
    seed: int = 0
    probes: bool = True
    matchings: dict[str, Matching] = field(default_factory=dict)

    @cached_property
    def counter(self) -> MacCounter:
        """Exact multiply-accumulates of every layout, heads left out."""
        return MacCounter(self.spec, self.model, (self.data[0][0][:2],), heads=self.heads, fixed=list(self.fixed))

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Groups that cannot keep units apart -> why."""
        return not_separable(self.spec, self.model, (self.data[0][0][:2],))

    @cached_property
    def free(self) -> list[str]:
        """Groups that can, in network order."""
        return [name for name in self.spec.groups if name not in self.fixed]

    def match(self, name: str) -> Matching:
        """How the second network is matched; where labels differ the heads say nothing and are left out."""
        if name not in self.matchings:
            self.matchings[name] = {
                "no permutation": lambda: identity_matching(self.spec),
                "random permutation": lambda: random_matching(self.spec, seed=self.seed),
                "weight matching": lambda: weight_matching(
                    trunk_spec(self.spec, self.heads), *self.states, seed=self.seed
                ),
                "activation matching": lambda: activation_matching(
                    self.spec, self.model, self.states, self.data, similarity=self.similarity, seed=self.seed
                ),
            }[name]()
        return self.matchings[name]

    def layout(self, match: str, ratios: Mapping[str, float]) -> tuple[Layout, list[State]]:
        """Which units are merged, and both networks in the first one's order of units."""
        matching = self.match(match)
        scores = pair_scores(trunk_spec(self.spec, self.heads), *self.states, matching) if ratios else None
        layout = Layout(self.spec, self.model, scores=scores, ratios=ratios, heads=self.heads)
        return layout, align(self.spec, self.states, matching)

    def combine(self, match: str, how: str, ratios: Mapping[str, float] | None = None) -> tuple[State, list[State]]:
        """(merged trunk, one full state dict per task) of one arm."""
        layout, states = self.layout(match, ratios or {})
        options = {} if self.ridge is None else {"ridge": self.ridge}
        if how == "least squares":
            trunk = least_squares(layout, self.model, states, self.data, seed=self.seed, **options).state
        elif how == "least squares on noise":
            shape = self.data[0][0].shape[1:]
            noise = [batch.to(self.data[0][0]) for batch in noise_batches(shape, seed=self.seed)]
            trunk = least_squares(layout, self.model, states, noise, seed=self.seed, **options).state
        elif how == "REPAIR":
            trunk = repair(layout, self.model, states, layout.merge(states), self.data)
        elif how == "RegMean":
            trunk = regmean(self.spec, self.model, states, self.train, heads=self.heads, seed=self.seed)
        else:
            trunk = layout.merge(states)
        return trunk, self.per_task(layout, trunk, states)

    def per_task(self, layout: Layout, trunk: State, states: Sequence[State]) -> list[State]:
        """The merged trunk under each task's own head, or twice the merged network."""
        return [layout.task_state(trunk, state, k) if self.heads else trunk for k, state in enumerate(states)]

    def scores(self, states: Sequence[State], split: str = "test") -> Row:
        """own: each task on its own images with its own head; joint: one decision among the labels of both."""
        sets = self.test if split == "test" else self.train
        if self.labels is None:
            own = [_accuracy(logits_of(self.model, state, each), each) for state, each in zip(states, sets)]
            return {"own": sum(own) / 2, "own_1": own[0], "own_2": own[1]}
        together = [batch for each in sets for batch in each]
        logits = [logits_of(self.model, state, together) for state in states]
        found = score_tasks(logits, self.labels, labels_of(together))
        return {"own": found.own, "joint": found.joint, "own_1": found.tasks[0], "own_2": found.tasks[1]}

    def probe(self, states: Sequence[State]) -> float:
        """Mean over tasks of a linear probe on what the head reads, trained on the task's training images."""
        found = []
        for state, train, test in zip(states, self.train, self.test):
            x, y = (features(self.model, state, each, self.head) for each in (train, test))
            found.append(linear_probe(x, labels_of(train), y, labels_of(test)))
        return sum(found) / len(found)


def _accuracy(logits: Tensor, batches: Sequence[Any]) -> float:
    return float((logits.argmax(1) == labels_of(batches)).double().mean())


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


def table_rows(case: Case, progress: Callable[[int], None] | None = None) -> list[Row]:
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
            states = case.per_task(layout, _reset(case, trunk, states), aligned)
            rows.append(_row(case, f"{arm} + reset", states, ratios, seconds))
        if progress is not None:
            progress(done + 1)
    return rows


def _reset(case: Case, trunk: State, states: Sequence[State]) -> State:
    """The trunk with BatchNorm statistics measured again; the head that runs along does not matter."""
    full = reset_batchnorm(case.model, states[0], case.data)
    return {name: full[name] for name in trunk}


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
        own = [_accuracy(sum(each) / 2, batches) for each, batches in zip(logits, case.test)]
        rows.append({**ensemble, "arm": "ensemble", "own": sum(own) / 2, "own_1": own[0], "own_2": own[1]})
        for name, state in zip("AB", case.states):
            rows.append({**empty, "arm": f"network {name} alone", **case.scores([state, state])})
    if batchnorms(case.model):
        reset = [reset_batchnorm(case.model, state, case.data) for state in case.states]
        rows.append({**ensemble, "arm": "ensemble + reset", **case.scores(reset)})
    if case.probes:
        rows.append({**empty, "arm": "untrained trunk", "probe": case.probe([case.untrained] * 2)})
    return rows


def budget_rows(case: Case, progress: Callable[[int], None] | None = None) -> list[Row]:
    """Least squares at equal exact budgets by allocator, and without a permutation; gains come from training images."""
    if not case.free:
        return []
    memory: dict[tuple[float, ...], float] = {}

    def measure(ratios: Mapping[str, float]) -> float:
        key = tuple(ratios.get(name, 0.0) for name in case.free)
        if key not in memory:
            _, states = _merged(case, "activation matching", ratios)
            found = case.scores(states, "train")
            memory[key] = found.get("joint", found["own"])
        return memory[key]

    rows: list[Row] = []
    for budget in BUDGET_GRID:
        gains = measured_gains(case.free, budget, measure)
        for match, methods in (("activation matching", BUDGETS), ("no permutation", ("uniform", "prefix"))):
            for method in methods:
                plan = allocate(method, case.counter, budget, gains=gains, fixed=case.fixed, seed=case.seed % 2**32)
                _, states = _merged(case, match, plan.ratios)
                rows.append(
                    {
                        "pair": case.pair, "matching": match, "allocator": method, "budget": budget,
                        "macs": plan.macs, "dense_macs": case.counter.count(plan.ratios).dense / case.counter.base,
                        **case.scores(states), "solver": plan.solver, "note": plan.notes.get("budget", ""),
                        "ratios": " ".join(f"{name}={ratio:.3f}" for name, ratio in plan.ratios.items()),
                    }
                )  # fmt: skip
                if progress is not None:
                    progress(len(rows))
    return rows


def _merged(case: Case, match: str, ratios: Mapping[str, float]) -> tuple[State, list[State]]:
    """Least squares, with BatchNorm statistics measured again where there are any."""
    trunk, states = case.combine(match, "least squares", ratios)
    if batchnorms(case.model):
        layout, aligned = case.layout(match, ratios)
        trunk = _reset(case, trunk, states)
        states = case.per_task(layout, trunk, aligned)
    return trunk, states
