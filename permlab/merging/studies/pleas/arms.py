"""Every arm of merging in part on one pair of networks, controls included: `arm_rows(subject)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from permlab.matching import match_networks
from permlab.matching.table import MATCHES, SIMILARITIES
from permlab.merging.arm import Arm
from permlab.merging.measure.evaluate import ensemble_logits, logits_of, noise_batches
from permlab.merging.measure.subject import Subject
from permlab.merging.merge import Merged, merge_arm, under_heads
from permlab.merging.methods.repair import batchnorms, repair, reset_batchnorm
from permlab.merging.studies.pleas.scores import TASKS, accuracy, probe, scores, set_of
from permlab.merging.table import COMBINES, RENORMS
from permlab.tables import Row

RESET = "reset"


@dataclass(frozen=True)
class PartialArm:
    """A way to merge two networks of which a part may stay separate.

    Attributes:
        match, combine: names of `MATCHES` and `COMBINES`.
        ratios: group -> share of units that stay apart, and `kept` says so.
        renorm: a name of `RENORMS`.
        noise: layers are fitted on images of noise instead of data.
        repaired: every unit gets the mean and deviation of the networks' units (REPAIR).
        similarity: of activation matching, in place of the setting's; a name of `SIMILARITIES`.
    """

    match: str
    combine: str = "average"
    kept: str = ""
    ratios: Mapping[str, float] = field(default_factory=dict, hash=False)
    renorm: str = "none"
    noise: bool = False
    repaired: bool = False
    similarity: str = ""

    @property
    def label(self) -> str:
        """Its name in tables and figures: "activation matching, r = 0.5, least squares"."""
        how = "REPAIR" if self.repaired else COMBINES[self.combine].title + (" on noise" if self.noise else "")
        matched = MATCHES[self.match].title + (f" by {SIMILARITIES[self.similarity].title}" if self.similarity else "")
        label = ", ".join(part for part in (matched, self.kept, how) if part)
        return f"{label} + {self.renorm}" if RENORMS[self.renorm].changes else label

    @property
    def mends(self) -> bool:
        """Whether statistics are measured again as part of it."""
        return self.repaired or RENORMS[self.renorm].changes

    def merge(self, subject: Subject) -> Merged:
        """Carry it out."""
        arm = Arm(self.match, self.combine, self.renorm)
        if self.similarity:
            return self._merge_alike(subject, arm)
        if self.noise:
            # The paper's variant without the tasks' data fits layers on other images; noise is the far end of that.
            images = subject.setting.batches[0][0]
            noise = [each.to(images) for each in noise_batches(images.shape[1:], seed=subject.setting.seed)]
            return subject.merge(arm, ratios=self.ratios, batches=noise)
        merged = subject.merge(arm, ratios=self.ratios)
        if self.repaired:
            layout = merged.networks.layout()
            state = repair(layout, subject.model, merged.aligned, merged.state, list(subject.setting.batches))
            merged = replace(merged, state=state, states=under_heads(merged.networks, state))
        return merged

    def _merge_alike(self, subject: Subject, arm: Arm) -> Merged:
        name, setting = f"{self.match} by {self.similarity}", replace(subject.setting, similarity=self.similarity)
        if name not in subject.matchings:
            found = match_networks(self.match, subject.spec, subject.model, subject.states, setting)
            subject.matchings[name] = found
        return merge_arm(arm, subject.spec, subject.model, subject.states, setting, subject.matchings[name])


REFERENCE = PartialArm("activation", "least_squares")
"""PLeaS at the price of one network, which every other arm is compared with."""


PLAIN = PartialArm("activation")
"""Averages of matched units, which similarities are compared by."""


def with_reset(label: str, labels: Iterable[str]) -> str:
    """Return an arm as it counts: with BatchNorm statistics measured again where the network has any."""
    return f"{label} + {RESET}" if f"{label} + {RESET}" in labels else label


def plans(subject: Subject, compared: Iterable[Arm] = ()) -> Iterator[PartialArm]:
    """The arms of the table; controls first, each beside what it controls, then those to compare with."""
    yield PartialArm("identity")
    # Fits and REPAIR without a permutation: what the permutation adds has to show against these.
    yield PartialArm("identity", repaired=True)
    yield PartialArm("identity", "regmean")
    yield PartialArm("identity", "least_squares")
    for match in ("random", "weight"):
        yield PartialArm(match)
        yield PartialArm(match, "least_squares")
    yield PLAIN
    for similarity in SIMILARITIES:
        if similarity != subject.setting.similarity:
            yield PartialArm("activation", similarity=similarity)
            yield PartialArm("activation", "least_squares", similarity=similarity)
    yield PartialArm("activation", repaired=True)
    yield PartialArm("activation", "regmean")
    yield REFERENCE
    yield PartialArm("activation", "least_squares", noise=True)
    yield from (PartialArm(arm.match, arm.combine, renorm=arm.renorm) for arm in compared)
    if not subject.free:
        return
    quarter, half = ((f"r = {share:g}", dict.fromkeys(subject.free, share)) for share in (0.25, 0.5))
    last = ("last group separate", {subject.free[-1]: 1.0})  # ZipIt's choice: share the first layers, split the last
    for match, combine, (kept, ratios) in (
        ("activation", "least_squares", quarter),
        ("activation", "least_squares", half),
        ("identity", "least_squares", half),
        ("activation", "average", last),
        ("activation", "least_squares", last),
        ("identity", "least_squares", last),
    ):
        yield PartialArm(match, combine, kept, ratios)


def arm_rows(
    subject: Subject,
    arms: Sequence[PartialArm],
    progress: Callable[[int], None] | None = None,
    *,
    probes: bool = True,
) -> list[Row]:
    """One row per arm: scores, probe, multiply-accumulates relative to one network (`dense` counts zero blocks too).

    Args:
        subject: two networks and the sets of their tasks (`pleas.scores`).
        arms: of `plans`.
        progress: called with the number of arms done.
        probes: train a linear probe for every arm.
    """
    rows = references(subject, probes=probes)
    norms = bool(batchnorms(subject.model))
    for done, arm in enumerate(arms):
        begin = time.perf_counter()
        merged = arm.merge(subject)
        seconds = time.perf_counter() - begin
        found = {arm.label: merged.states}
        if norms and not arm.mends:
            found[f"{arm.label} + {RESET}"] = subject.renormalise(RESET, merged.networks, merged.state)
        macs = subject.counter.count(arm.ratios)
        for label, states in found.items():
            rows.append(
                {
                    "pair": subject.pair, "arm": label, **scores(subject, states),
                    "probe": probe(subject, states) if probes else None,
                    "macs": macs.ratio, "dense_macs": macs.dense / macs.base, "seconds": seconds,
                }
            )  # fmt: skip
        if progress is not None:
            progress(done + 1)
    return rows


def references(subject: Subject, *, probes: bool = True) -> list[Row]:
    """The ensemble (one network per task, and the mean of both where labels are shared), single and untrained ones."""
    states = subject.states
    empty: Row = {"pair": subject.pair, "probe": None, "macs": 1.0, "dense_macs": 1.0, "seconds": 0.0}
    ensemble = {**empty, "macs": 2.0, "dense_macs": 2.0}
    own_probe = probe(subject, states) if probes else None
    own_networks = "ensemble" if subject.labels else "own network of each domain"
    rows = [{**ensemble, "arm": own_networks, **scores(subject, states), "probe": own_probe}]
    if not subject.labels:
        sets = [set_of(subject, "test", task) for task in TASKS]
        own = [accuracy(ensemble_logits([logits_of(subject.model, s, each) for s in states]), each) for each in sets]
        rows.append({**ensemble, "arm": "ensemble", "own": sum(own) / 2, "own_1": own[0], "own_2": own[1]})
        for name, state in zip("AB", states):
            rows.append({**empty, "arm": f"network {name} alone", **scores(subject, [state])})
    if batchnorms(subject.model):
        reset = [reset_batchnorm(subject.model, state, subject.setting.batches) for state in states]
        rows.append({**ensemble, "arm": f"ensemble + {RESET}", **scores(subject, reset)})
    if probes:
        # Probes read a lot from random features: a merge must beat these to have kept anything.
        rows.append({**empty, "arm": "untrained trunk", "probe": probe(subject, subject.untrained[:1])})
    return rows
