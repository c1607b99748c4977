"""The analyses of `task.study=lmc`, one function each: rows of tables for one pair (or triple) of networks.

rows = distances(subject)["distances"]; their columns are explained in `permlab.tasks.merge.lmc`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from permlab.matching import (
    Matching,
    activation_matching,
    identity_matching,
    random_matching,
    straight_through,
    weight_matching,
    weight_matching_many,
)
from permlab.matching.cost import CostBuilder
from permlab.matching.weight import Descent, squared_norm
from permlab.merging import (
    Decomposition,
    average,
    barrier_curves,
    disagreement,
    evaluate,
    l2_distance,
    labels_of,
    logits_of,
    reset_batchnorm,
    score_logits,
    taylor_estimate,
    temperature,
    three_models,
)
from permlab.seeding import derived_seed
from permlab.symmetry import Permutation, Spec, apply

GAMMAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
CAUSAL_GAMMAS = (0.1, 0.2, 0.3, 0.5)
STARTS = (("warm", 0.01), ("cold", 0.01), ("cold", 0.1), ("cold", 1.0))
"""Starts of straight-through matching and their learning rates: at the usual rate a cold start does not move."""

Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass
class Subject:
    """Networks in the original order of units, and all that is measured on them again and again.

    Attributes:
        states: two trained networks, or three.
        untrained: the weights that the first two started from.
        sets: "train" and "test" -> batches; `small`: small training batches for gradient steps.
        reset: batches that BatchNorm statistics of merged networks are measured on, or None.
        steps: of straight-through matching.
    """

    pair: int
    spec: Spec
    model: nn.Module
    states: list[dict[str, Tensor]]
    untrained: list[dict[str, Tensor]]
    sets: dict[str, list[Any]]
    small: list[Any]
    points: int = 3
    steps: int = 200
    similarity: str = "inner"
    seed: int = 0
    reset: list[Any] | None = None
    matchings: dict[str, Matching] = field(default_factory=dict)

    @cached_property
    def spectra(self) -> list[Decomposition]:
        """Singular vectors of the first two networks."""
        return [Decomposition(self.spec, state) for state in self.states[:2]]

    @cached_property
    def ends(self) -> dict[str, Any]:
        """Scores of the first two networks on both sets."""
        return {
            name: tuple(evaluate(self.model, state, batches) for state in self.states[:2])
            for name, batches in self.sets.items()
        }

    @cached_property
    def before_training(self) -> Subject:
        """The same pair with the weights that its training started from."""
        return replace(self, states=self.untrained, matchings={})

    def match(self, arm: str) -> Matching:
        """The matching of the second network to the first by the method that an arm is named after."""
        if arm not in self.matchings:
            first_two = self.states[:2]
            self.matchings[arm] = {
                "no permutation": lambda: identity_matching(self.spec),
                "random permutation": lambda: random_matching(self.spec, seed=self.seed),
                "weight matching": lambda: weight_matching(self.spec, *first_two, seed=self.seed, keep_costs=False),
                "activation matching": lambda: activation_matching(
                    self.spec, self.model, first_two, self.sets["train"], similarity=self.similarity
                ),
            }[arm]()
        return self.matchings[arm]

    def merged(self, permutation: Permutation) -> dict[str, Tensor]:
        """The average of the first network and the permuted second, BatchNorm statistics measured again if asked."""
        mean = average([self.states[0], apply(self.spec, self.states[1], permutation)], tied=self.spec.tied)
        return mean if self.reset is None else reset_batchnorm(self.model, mean, self.reset)

    def barriers(self, permutation: Permutation, points: int = 3) -> Row:
        """Barriers between the first network and the permuted second on both sets; test without a prefix."""
        moved = apply(self.spec, self.states[1], permutation)
        options = {"points": points, "reset": self.reset, "ends": self.ends}
        curves = barrier_curves(self.model, self.states[0], moved, self.sets, **options)
        test, train = curves["test"], curves["train"]
        return {
            "loss_barrier": test.loss_barrier, "accuracy_barrier": test.accuracy_barrier,
            "midpoint_loss": test.midpoint_loss, "midpoint_accuracy": test.midpoint_accuracy,
            "train_loss_barrier": train.loss_barrier, "train_accuracy_barrier": train.accuracy_barrier,
        }  # fmt: skip

    def alignment(self, permutation: Permutation) -> Row:
        """L2 reduction, R(0) and R(0.3) of a permutation of the second network."""
        before = l2_distance(self.spec, *self.states[:2])
        after = l2_distance(self.spec, *self.states[:2], permutation)
        first, second = self.spectra
        return {
            "l2_before": before, "l2_after": after, "l2_reduction": (before - after) / before if before else 0.0,
            **{f"r_{gamma:g}": first.cosine(second, gamma, permutation).total for gamma in (0.0, 0.3)},
        }  # fmt: skip


ARMS = ("no permutation", "random permutation", "weight matching", "activation matching")


def distances(subject: Subject) -> Tables:
    """How far the networks are apart, before and after matching, trained and untrained, and what the merge is like."""
    test = subject.sets["test"]
    labels = labels_of(test)
    own = [logits_of(subject.model, state, test) for state in subject.states[:2]]
    rows: list[Row] = []
    for arm in ARMS:
        permutation = subject.match(arm).permutation
        logits = logits_of(subject.model, subject.merged(permutation), test)
        heat = temperature(logits[::2], labels[::2])
        rows.append(
            {
                "pair": subject.pair, "networks": "trained", "arm": arm, **subject.alignment(permutation),
                **subject.barriers(permutation, subject.points),
                "disagreement": (disagreement(logits, own[0]) + disagreement(logits, own[1])) / 2,
                "endpoint_disagreement": disagreement(*own), "temperature": heat,
                "uncalibrated_loss": score_logits(logits[1::2], labels[1::2]).loss,
                "calibrated_loss": score_logits(logits[1::2] / heat, labels[1::2]).loss,
            }
        )  # fmt: skip
    control = subject.before_training
    for arm in ("no permutation", "weight matching"):
        measured = control.alignment(control.match(arm).permutation)
        rows.append({"pair": subject.pair, "networks": "untrained", "arm": arm, **measured})
    return {"distances": rows}


def spectra(subject: Subject) -> Tables:
    """R against gamma for every arm, and the singular values of both networks layer by layer."""
    alignment: list[Row] = []
    values: list[Row] = []
    gaps: list[Row] = []
    for kind, each in (("trained", subject), ("untrained", subject.before_training)):
        first, second = each.spectra
        arms = ARMS if kind == "trained" else ("no permutation", "weight matching")
        for gamma in GAMMAS:
            head = {"pair": subject.pair, "networks": kind, "gamma": gamma}
            alignment.append({**head, "arm": "with itself", "r": first.cosine(first, gamma).total})
            for arm in arms:
                found = first.cosine(second, gamma, each.match(arm).permutation)
                alignment.append({**head, "arm": arm, "r": found.total})
        for layer, (_, s, _) in first.parts.items():
            other = second.parts[layer][1]
            gap = float((s - other).norm() / s.norm())
            above = float((s >= 0.3 * s[0]).double().mean())
            head = {"pair": subject.pair, "networks": kind, "layer": layer}
            gaps.append({**head, "gap": gap, "largest": float(s[0]), "above_0.3": above})
            if subject.pair == 0:
                for name, column in (("A", s), ("B", other)):
                    values += [
                        {"networks": kind, "network": name, "layer": layer, "index": index, "value": value}
                        for index, value in enumerate(column.tolist())
                    ]
    return {"spectra": alignment, "singular_value_gaps": gaps, "singular_values": values}


def descent_steps(spec: Spec, a: Any, b: Any, seed: int, max_sweeps: int = 50) -> Iterator[tuple[str, Permutation]]:
    """(group just solved, permutation so far) of weight matching from the identity, step by step."""
    generator = torch.Generator().manual_seed(seed)
    descent = Descent(CostBuilder(spec, a, b), generator, 1e-9, time.perf_counter())
    permutation = spec.identity()
    objective = squared_norm(spec, a, b, permutation)
    yield "", dict(permutation)
    groups = list(descent.builder.groups)
    for _ in range(max_sweeps):
        moved = False
        for name in (groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()):
            gained = descent.step(name, permutation, objective)
            if gained:
                objective, moved = objective - 2 * gained, True
                yield name, dict(permutation)
        if not moved:
            return


def trace(subject: Subject) -> Tables:
    """Barrier, L2 reduction and R along weight matching as published: from the identity, one group a step."""
    rows = []
    for step, (group, permutation) in enumerate(descent_steps(subject.spec, *subject.states[:2], subject.seed)):
        measured = {**subject.alignment(permutation), **subject.barriers(permutation)}
        rows.append({"pair": subject.pair, "step": step, "group": group, **measured})
    return {"trace": rows}


def taylor(subject: Subject) -> Tables:
    """Second-order estimate of the midpoint barrier against the true one, on the training images."""
    rows = []
    for arm in ("no permutation", "weight matching"):
        moved = apply(subject.spec, subject.states[1], subject.match(arm).permutation)
        found = taylor_estimate(subject.model, subject.states[0], moved, subject.sets["train"])
        rows.append(
            {
                "pair": subject.pair, "arm": arm, "first": found.first, "second": found.second,
                "estimate": found.estimate, "barrier": found.barrier,
                "relative_error": abs(found.estimate - found.barrier) / max(abs(found.barrier), 1e-12),
            }
        )  # fmt: skip
    return {"taylor": rows}


def matrices_only(spec: Spec, names: Sequence[str]) -> Spec:
    """The spec without the tensors that have no singular vectors, so that only the named ones are matched."""
    result = copy.deepcopy(spec)
    for name in list(result.axes):
        if name not in names:
            del result.axes[name]
    return result


def random_ranks(spectra: Decomposition, gamma: float, seed: int) -> dict[str, Tensor]:
    """As much of every weight as its vectors below `gamma` hold, in squared norm, but from ranks drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for name, (_, s, _) in spectra.parts.items():
        order = torch.randperm(len(s), generator=generator).to(s.device)
        wanted = float(s[s < gamma * s[0]].square().sum())
        chosen[name] = torch.zeros(len(s), dtype=torch.bool, device=s.device)
        chosen[name][order[s[order].square().cumsum(0) <= wanted]] = True
    return chosen


def causal(subject: Subject) -> Tables:
    """Permutations found from the leading singular vectors only, from all the others only, or from random ones.

    If the leading vectors carry the effect, their permutation must do as well as weight matching, and that of the rest
    must not, whatever distance it saves. Random ranks with no more energy than the rest tell whether energy is what the
    rest lacks. Biases and norms have no singular vectors and are left out of these matchings.
    """
    first, second = subject.spectra
    spec = matrices_only(subject.spec, list(first.parts))
    everything = {name: torch.ones_like(s, dtype=torch.bool) for name, (_, s, _) in first.parts.items()}
    rows: list[Row] = []

    def add(part: str, gamma: float, own: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        states = [first.restricted(own), second.restricted(other)]
        permutation = weight_matching(spec, *states, seed=subject.seed, keep_costs=False).permutation
        kept = sum(float(first.parts[name][1][mask].square().sum()) for name, mask in own.items())
        rows.append(
            {
                "pair": subject.pair, "part": part, "gamma": gamma,
                "vectors": float(torch.cat(list(own.values())).double().mean()),
                "energy": kept / sum(float(s.square().sum()) for _, s, _ in first.parts.values()),
                **subject.alignment(permutation), **subject.barriers(permutation),
            }
        )  # fmt: skip

    add("all", 0.0, everything, everything)
    for gamma in CAUSAL_GAMMAS:
        leading = [{name: s >= gamma * s[0] for name, (_, s, _) in each.parts.items()} for each in (first, second)]
        add("leading", gamma, *leading)
        add("rest", gamma, *({name: ~mask for name, mask in each.items()} for each in leading))
        ranks = random_ranks(first, gamma, derived_seed(subject.seed, "ranks", gamma))
        add("random ranks", gamma, ranks, ranks)
    return {"causal": rows}


def three(subject: Subject) -> Tables:
    """Three networks: are B and C connected when both are matched to A, and what does their mean do?"""

    def by_weight(spec: Spec, a: Any, b: Any) -> Matching:
        return weight_matching(spec, a, b, seed=subject.seed, keep_costs=False)

    def by_loss(spec: Spec, *states: Any) -> Matching:
        return straight_through(spec, subject.model, states, subject.small, steps=subject.steps, seed=subject.seed)

    methods = {
        "weight matching": (by_weight, lambda spec, states: weight_matching_many(spec, states, seed=subject.seed)),
        "straight-through": (by_loss, lambda spec, states: by_loss(spec, *states)),
    }
    rows: list[Row] = []
    for method, (match, match_all) in methods.items():
        found = three_models(
            subject.spec,
            subject.model,
            subject.states,
            subject.sets["test"],
            match,
            match_all=match_all,
            reset=subject.reset,
        )
        for row in found:
            if row["arm"] == "naive" and method != next(iter(methods)):
                continue  # no permutation is the same for every method
            name = "none" if row["arm"] == "naive" else method
            rows.append({**row, "pair": subject.pair, "pair_of": row["pair"], "method": name})
        rows.sort(key=lambda row: row["method"] != "none")
    return {"three": rows}


def start(subject: Subject) -> Tables:
    """Straight-through matching started at A (as published by Git Re-Basin) or at random weights."""
    rows = []
    weight = subject.match("weight matching").permutation
    for name, rate in (("weight matching", None), *STARTS):
        if rate is None:
            permutation, loss = weight, None
        else:
            options = {"steps": subject.steps, "rate": rate, "start": name, "seed": subject.seed}
            found = straight_through(subject.spec, subject.model, subject.states[:2], subject.small, **options)
            permutation, loss = found.permutation, found.objective
        measured = {**subject.alignment(permutation), **subject.barriers(permutation)}
        rows.append({"pair": subject.pair, "start": name, "rate": rate, "train_midpoint_loss": loss, **measured})
    return {"start": rows}


ANALYSES = {
    "distances": distances, "spectra": spectra, "trace": trace, "taylor": taylor, "causal": causal, "three": three,
    "start": start,
}  # fmt: skip
