"""Networks under study: `Subject(model, spec, [a, b], {"test": batches}, Setting(train)).barriers("weight")`.

A subject holds what every question about two or more networks needs, and computes each matching, each score of an
unmerged network and each set of singular vectors once.

    subject = Subject(model, spec, [a, b], {"train": train, "test": test}, Setting(train, seed=0))
    subject.match("weight").moved()                                # by the names of `permlab.matching.table.MATCHES`
    merged = subject.merge(parse_arm("activation/least_squares"))  # a `Merged`
    subject.score(merged.states, "test").loss - subject.reference["test"].loss
    subject.barriers("weight", points=25)["test"].loss_barrier     # on the straight line, by set
    subject.before_training.match("weight")                      # the same for the untrained networks

What the networks are scored with is `scoring`: classifiers of images and language models differ in nothing else.
Networks with different labels (`labels`) keep their heads (`setting.heads`): they are scored by one decision among the
labels of all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from permlab.matching import Matching, match_networks
from permlab.matching.activation import as_inputs
from permlab.merging.aligned import Aligned
from permlab.merging.arm import Arm
from permlab.merging.measure.barrier import Curve, barrier_curves
from permlab.merging.measure.evaluate import (
    CLASSIFIERS,
    Score,
    Scoring,
    evaluate,
    labels_of,
    logits_of,
    score_logits,
)
from permlab.merging.measure.heads import find_head, own_logits, score_tasks
from permlab.merging.measure.spectra import Decomposition, l2_distance
from permlab.merging.merge import Merged, align_networks, keep_apart, merge_arm, renormalise, under_heads
from permlab.merging.networks.states import State
from permlab.merging.partial.macs import MacCounter
from permlab.merging.partial.separable import not_separable
from permlab.merging.setting import Setting, mixture_weights
from permlab.merging.table import COMBINES, RENORMS
from permlab.symmetry import Permutation, Spec, apply


@dataclass
class Subject:
    """Two or more networks, the data they are scored on, and what their matchings and merges share.

    Attributes:
        model, spec: a module of the architecture and its verified symmetry.
        states: the networks as trained, each in its own order of units.
        sets: name -> batches that networks are scored on: "test", "train".
        setting: data and numbers of matchings and merges; its `heads` are kept per network.
        scoring: what is measured: `CLASSIFIERS` or `LANGUAGE_MODELS`.
        names: of the networks, for tables.
        labels: per network its class numbers, where they differ; else empty.
        untrained: weights that the networks started from, where they are known.
        points, renorm: of lines between two networks, where nothing else is said: the number of positions, and what is
            done to the statistics between the ends (a name of `RENORMS`).
        pair, seed: of the rows of tables.
        matchings: name -> Matching, filled as they are asked for.
    """

    model: nn.Module
    spec: Spec
    states: Sequence[State]
    sets: Mapping[str, Sequence[Any]]
    setting: Setting
    scoring: Scoring = CLASSIFIERS
    names: Sequence[str] = ()
    labels: Sequence[Sequence[int]] = ()
    untrained: Sequence[State] = ()
    points: int = 11
    renorm: str = "none"
    pair: int = 0
    seed: int = 0
    matchings: dict[str, Matching] = field(default_factory=dict)
    _apart: dict[int, float] = field(default_factory=dict, init=False, repr=False)

    # ---- other networks of the same kind

    @cached_property
    def before_training(self) -> Subject:
        """The untrained networks in place of the trained ones."""
        return replace(self, states=self.untrained, untrained=(), matchings={})

    def first(self, count: int = 2) -> Subject:
        """The first networks only."""
        if count == len(self.states):
            return self
        return replace(
            self,
            states=self.states[:count],
            names=self.names[:count],
            labels=self.labels[:count],
            untrained=self.untrained[:count],
            matchings={},
        )

    # ---- matching and merging

    def match(self, name: str) -> Matching:
        """The matching of the networks by a name of `MATCHES`."""
        if name not in self.matchings:
            self.matchings[name] = match_networks(name, self.spec, self.model, self.states, self.setting)
        return self.matchings[name]

    def align(self, match: str, ratios: Mapping[str, float] | None = None) -> Aligned:
        """The networks in the common order of units of a matching; `ratios` as in `merge`."""
        networks = align_networks(self.spec, self.model, self.states, self.match(match), self.setting.heads)
        return keep_apart(networks, ratios)

    def merge(self, arm: Arm, *, ratios: Mapping[str, float] | None = None, **changed: Any) -> Merged:
        """Merge in one way, with the matching that is there already.

        Args:
            arm: how.
            ratios: group -> share of units that are kept apart (default: all are merged).
            changed: values in place of the setting's: `budget=1.5`, `batches=noise`.
        """
        setting = replace(self.setting, **changed) if changed else self.setting
        counter = self.counter if ratios else None
        return merge_arm(arm, self.spec, self.model, self.states, setting, self.match(arm.match), ratios, counter)

    def renormalise(self, renorm: str, networks: Aligned, state: State) -> list[dict[str, Tensor]]:
        """A merged network with other statistics, by a name of `RENORMS`, under each head as in `Merged.states`."""
        return under_heads(networks, renormalise(renorm, networks, state, self.setting))

    def permuted(self, permutation: Permutation | str) -> tuple[State, State]:
        """The first network, and the second after a permutation: of a matching by name, or any."""
        chosen = self.match(permutation).permutation if isinstance(permutation, str) else permutation
        return self.states[0], apply(self.spec, self.states[1], chosen)

    def is_line(self, arm: Arm, budget: float = 1.0) -> bool:
        """Whether merging in this way gives a point on the line between two aligned networks."""
        return COMBINES[arm.combine].line and len(self.states) == 2 and budget == 1 and not self.labels

    # ---- scores

    @cached_property
    def ends(self) -> dict[str, list[Score]]:
        """Set -> score of every network as it is."""
        return {
            name: [evaluate(self.model, state, batches, self.scoring.scorer) for state in self.states]
            for name, batches in self.sets.items()
        }

    @cached_property
    def reference(self) -> dict[str, Score]:
        """Set -> what a merge is held against: the mixture of its networks' scores, or their joint decision."""
        found = {}
        for name, ends in self.ends.items():
            if self.labels:
                found[name] = self.score(self.states, name)
                continue
            weights = mixture_weights(len(self.states), self.setting.weights or None)
            loss = sum(weight * end.loss for weight, end in zip(weights, ends))
            accuracy = sum(weight * end.accuracy for weight, end in zip(weights, ends))
            found[name] = Score(loss, accuracy, ends[0].count)
        return found

    def score(self, states: Sequence[State], name: str) -> Score:
        """Score of a merged network on one set: `Merged.states`, one state per head or just one."""
        if self.labels:
            return self.joint(states, name)[0]
        return evaluate(self.model, states[0], self.sets[name], self.scoring.scorer)

    def joint(self, states: Sequence[State], name: str) -> tuple[Score, float]:
        """(one decision among the labels of all heads, mean accuracy of each head on its own labels)."""
        logits = [logits_of(self.model, state, self.sets[name]) for state in states]
        truth = labels_of(self.sets[name])
        order = torch.tensor([label for own in self.labels for label in own], device=truth.device)
        columns = torch.cat([own_logits(each, own) for each, own in zip(logits, self.labels)], dim=1)
        # One decision among the labels of all heads; numbers of no task cannot win it.
        full = columns.new_full((len(columns), int(order.max()) + 1), -1e4)
        full[:, order] = columns
        return score_logits(full, truth), score_tasks(logits, self.labels, truth).own

    def ensemble(self, name: str) -> tuple[Score, float | None]:
        """The mean of the networks' outputs: (score, accuracy of each head on its own labels where there are heads)."""
        if self.labels:
            return self.joint(self.states, name)
        return self.scoring.ensemble(self.model, self.states, self.sets[name]), None

    # ---- the line between two networks

    def barriers(
        self,
        permutation: Permutation | str,
        points: int | Sequence[float] | None = None,
        *,
        renorm: str | None = None,
        calibrate: Sequence[Any] | None = None,
        sets: Mapping[str, Sequence[Any]] | None = None,
        anew: bool = False,
    ) -> dict[str, Curve]:
        """Set -> scores on the line from the first network to the permuted second.

        Args:
            permutation: of a matching by name, or any.
            points: number of positions, or the positions; default `self.points`.
            renorm: what is done to the statistics of every network between the ends; default `self.renorm`.
            calibrate: batches whose temperature every network's logits are divided by.
            sets: in place of the subject's.
            anew: score the ends as they are after permuting instead of taking `ends`: a permutation must not change
                what a network does, and this measures whether it did.
        """
        if isinstance(permutation, str):
            permutation = self.match(permutation).permutation
        matching = Matching("given", [self.spec.identity(), permutation])
        networks = align_networks(self.spec, self.model, self.states[:2], matching, self.setting.heads)
        return self.curves(networks, points, renorm=renorm, calibrate=calibrate, sets=sets, anew=anew)

    def curves(
        self,
        networks: Aligned,
        points: int | Sequence[float] | None = None,
        *,
        renorm: str | None = None,
        calibrate: Sequence[Any] | None = None,
        sets: Mapping[str, Sequence[Any]] | None = None,
        anew: bool = False,
    ) -> dict[str, Curve]:
        """`barriers` of two networks that are aligned already."""
        change: Callable[[dict[str, Tensor], float], State] | None = None
        chosen = self.renorm if renorm is None else renorm
        if RENORMS[chosen].changes:

            def change(state: dict[str, Tensor], at: float) -> State:
                # REPAIR's goals move with the position: (1 - a) of A's statistics and a of B's.
                return renormalise(chosen, networks, state, self.setting, (1 - at, at))

        own = sets is None and not anew
        # A permutation changes no outputs, so both ends are scored once for all matchings.
        known = {name: (each[0], each[1]) for name, each in self.ends.items()} if own else None
        first, second = networks.states
        return barrier_curves(
            self.model,
            first,
            second,
            dict(self.sets if sets is None else sets),
            points=self.points if points is None else points,
            scorer=self.scoring.scorer,
            renormalise=change,
            calibrate=calibrate,
            ends=known,
        )

    # ---- the distance of the weights

    @cached_property
    def spectra(self) -> list[Decomposition]:
        """Singular vectors of the first two networks."""
        return [Decomposition(self.spec, state) for state in self.states[:2]]

    def alignment(self, permutation: Permutation | str) -> dict[str, float]:
        """L2 distances, L2 reduction, R(0) and R(0.3) (arXiv 2402.04051) of a permutation of the second network."""
        chosen = self.match(permutation).permutation if isinstance(permutation, str) else permutation
        one, other = self.states[:2]
        before, after = l2_distance(self.spec, one, other), l2_distance(self.spec, one, other, chosen)
        first, second = self.spectra
        return {
            "l2_before": before,
            "l2_after": after,
            "l2_reduction": (before - after) / before if before else 0.0,
            **{f"r_{gamma:g}": first.cosine(second, gamma, chosen).total for gamma in (0.0, 0.3)},
        }

    def reduction(self, matching: Matching) -> dict[str, float]:
        """Mean share of the distance to the first network that a matching takes away, and of units that it moves.

        Empty for ZipIt, which has no permutations. Heads for different labels do not count.
        """
        if matching.clusters:
            return {}
        spec, others = self.spec.without(self.setting.heads), range(1, len(self.states))
        moved = [matching.moved(k) for k in others]
        shares = []
        for k, share in zip(others, moved):
            if k not in self._apart:
                self._apart[k] = l2_distance(spec, self.states[0], self.states[k])
            before = self._apart[k]
            # Reading large networks once more for a permutation that moves nothing would give the same number.
            found = l2_distance(spec, self.states[0], self.states[k], matching.permutations[k]) if share else before
            shares.append((before - found) / before if before else 0.0)
        return {"l2_reduction": sum(shares) / len(shares), "moved": sum(moved) / len(moved)}

    # ---- the price of units that stay apart

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Groups that cannot keep units apart -> why."""
        return not_separable(self.spec, self.model, self._few)

    @property
    def free(self) -> list[str]:
        """Groups that can, in network order."""
        return [name for name in self.spec.groups if name not in self.fixed]

    @cached_property
    def counter(self) -> MacCounter:
        """Exact multiply-accumulates of every layout, heads left out."""
        return MacCounter(self.spec, self.model, self._few, heads=self.setting.heads, fixed=list(self.fixed))

    @cached_property
    def head(self) -> str:
        """Name of the classifier module.

        Raises:
            UserError: there is none.
        """
        return find_head(self.model, self._few)

    @property
    def _few(self) -> Any:
        """Inputs of two samples: enough to count and to compare."""
        inputs = as_inputs(self.setting.batches[0])
        if isinstance(inputs, Mapping):
            return {key: value[:2] for key, value in inputs.items()}
        return tuple(value[:2] for value in inputs)
