"""Every way to merge a set of adapters, tried and scored: one `Trial` is one row of the table of methods.

>>> rows = compare(exam, adapters, all_trials(BenchmarkSettings(), [8, 8, 8], MergeRule()), scales=[0.7, 1.0], seed=0)

The trials of a method come from its row (`LoraRow.trials`); a method without any is tried with its default settings.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from permlab.adapters.benchmark.exam import Exam, controls, scaled, tune
from permlab.adapters.diagnostics import norm_ratio, seed_spread
from permlab.adapters.factors import AdapterSource
from permlab.adapters.files import Adapter
from permlab.adapters.merge import merge_adapters
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.table import CLUSTERINGS, GAUGES, LORA_METHODS, REFERENCE_RANKS, LoraRow, function
from permlab.errors import UserError
from permlab.seeding import derived_seed
from permlab.tables import Row

SETTINGS = ("gauge", "param_reweight", "output_reweight", "density")
"""Settings that the table of methods shows, where the method reads them."""
REWEIGHTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("both", {}),
    ("parameter only", {"output_reweight": False}),
    ("output only", {"param_reweight": "none"}),
    ("no reweighting", {"param_reweight": "none", "output_reweight": False}),
)
"""LEGO's reweightings on and off: what the sweep of k shows as one line each."""


@dataclass(frozen=True)
class Trial:
    """One merge of a comparison.

    Attributes:
        label: names the row.
        rule: does the merge; its method is the row's family and gives the colour.
        sweep: which line of a sweep over k it is a point of; empty for none.
        tuned: its score at the tuned scale is the metric `tuned_<tuned>` of a result; empty for none.
        plain: its score at scale 1 is the metric `<plain>`; empty for none.
    """

    label: str
    rule: MergeRule
    sweep: str = ""
    tuned: str = ""
    plain: str = ""

    def describe(self) -> Row:
        """Columns of the table that follow from the rule."""
        settings = self.rule.settings()
        return {"method": self.label, "family": self.rule.method, **{name: settings.get(name) for name in SETTINGS}}


# ---- trials of each method -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrialSettings:
    """What trials depend on: multiples of the mean rank for LEGO's k, and the settings that all of them share."""

    sweep: Sequence[float]
    rule: MergeRule

    def lego(self, rank: int, **changes: Any) -> MergeRule:
        """LEGO with the shared gauge, clustering, restarts and reference rank."""
        shared = {name: getattr(self.rule, name) for name in ("gauge", "clustering", "n_init", "reference_rank")}
        return MergeRule("lego", rank=rank, **(shared | changes))

    def trim(self, row: LoraRow, density: float, space: str = "delta") -> MergeRule:
        """A method that keeps a share of the entries, with the shared election of signs."""
        return MergeRule(row.name, density=density, trim_space=space, sign_method=self.rule.sign_method)


def plain_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """The method with its default settings."""
    return [Trial(row.title, MergeRule(row.name), tuned=row.name)]


def linear_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """sqrt(weight) goes to A and to B: weights 1/n^2 average the factors, weights 1/n are what PEFT's users write."""
    count = len(ranks)
    average = MergeRule(row.name, weights=[1 / count**2] * count)
    return [
        Trial("average of A and of B", average, tuned="average"),
        Trial("linear, weights 1/n", MergeRule(row.name), tuned="linear"),
    ]


def sum_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """The sum of the updates."""
    return [Trial("cat: sum of updates", MergeRule(row.name), tuned="sum")]


def svd_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """The sum cut to the largest rank, and to twice that where the pool has so many."""
    largest = max(ranks)
    trials = [Trial(f"svd of the sum, rank {largest}", MergeRule(row.name, rank=largest), tuned="svd")]
    if 2 * largest <= sum(ranks):
        trials.append(Trial(f"svd of the sum, rank {2 * largest}", MergeRule(row.name, rank=2 * largest)))
    return trials


def ties_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """The density of the paper (0.2) and of PEFT's examples (0.5), on the updates and on the factors."""
    return [
        Trial("ties on updates, density 0.2", settings.trim(row, 0.2)),
        Trial("ties on updates, density 0.5", settings.trim(row, 0.5), tuned="ties"),
        Trial("ties on A and B, density 0.5", settings.trim(row, 0.5, "factor")),
    ]


def dare_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """On the updates and on the factors."""
    return [
        Trial("dare on updates, density 0.5", settings.trim(row, 0.5), tuned="dare"),
        Trial("dare on A and B, density 0.5", settings.trim(row, 0.5, "factor")),
    ]


def knots_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """The densities of TIES, of every module (our reading) and of the whole model (the authors' code); untrimmed."""
    whole = [dataclasses.replace(settings.trim(row, density), trim_scope="model") for density in (0.2, 0.5)]
    return [
        Trial("knots-ties, density 0.2", settings.trim(row, 0.2)),
        Trial("knots-ties, density 0.5", settings.trim(row, 0.5), tuned="knots"),
        Trial("knots-ties over the model, density 0.2", whole[0]),
        Trial("knots-ties over the model, density 0.5", whole[1], tuned="knots_model"),
        Trial("knots-ties, untrimmed", settings.trim(row, 1.0), tuned="knots_untrimmed"),
    ]


def lego_trials(row: LoraRow, ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """A sweep of k with each reweighting on and off; gauges and features at twice the mean rank; reference ranks."""
    trials = sweep_trials(ranks, settings)
    k = min(sum(ranks), round(2 * sum(ranks) / len(ranks)))

    def trial(said: str, **changes: Any) -> None:
        trials.append(Trial(f"lego k={k}, {said}", settings.lego(k, **changes)))

    for gauge in GAUGES:
        if gauge != settings.rule.gauge:
            trial(f"both, gauge {gauge}", gauge=gauge)
    # The sign alone taken out of the paper's distance, scale left in: how much of the gauge's effect is which.
    trial("both, gauge none, up to sign", gauge="none", sign_invariant=True)
    trial("both, normalized features, max norm", gauge="none", features="normalized", param_reweight="max")
    trial("both, per-half norm", param_reweight="per_half")
    trials += clustering_trials(ranks, settings)
    return trials + (reference_trials(ranks) if len(set(ranks)) > 1 else [])


def clustering_trials(ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """Other ways to group the units, at k = r: do groups of one unit of each adapter keep more?

    Where ranks differ k is the largest: fewer groups could not keep the units of that adapter apart.
    """
    k = max(ranks)
    return [
        Trial(f"lego k={k}, both, {name}", settings.lego(k, clustering=name), tuned=f"lego_{name}")
        for name in CLUSTERINGS
        if name != settings.rule.clustering
    ]


def sweep_trials(ranks: Sequence[int], settings: TrialSettings) -> list[Trial]:
    """LEGO over k with each reweighting on and off."""
    at_mean = max(1, round(sum(ranks) / len(ranks)))
    trials = []
    for k in sweep_ranks(settings.sweep, ranks):
        for number, (said, changes) in enumerate(REWEIGHTINGS):
            named = {"plain": f"lego_{said.replace(' ', '_')}"} if k == at_mean else {}
            if k == at_mean and number == 0:
                named["tuned"] = "lego"
            trials.append(Trial(f"lego k={k}, {said}", settings.lego(k, **changes), sweep=said, **named))
    return trials


def sweep_ranks(multiples: Sequence[float], ranks: Sequence[int]) -> list[int]:
    """LEGO's k: multiples of the mean rank, and all units; without those above the pool."""
    mean, pool = sum(ranks) / len(ranks), sum(ranks)
    # k = all units ends the sweep on known ground: LEGO is the sum / sqrt(n) there.
    wanted = {max(1, round(multiple * mean)) for multiple in multiples} | {pool}
    return sorted(k for k in wanted if k <= pool)


def reference_trials(ranks: Sequence[int]) -> list[Trial]:
    """Rules for r in sqrt(r / k) with mixed ranks, at k = the mean rank and twice it."""
    mean = max(1, round(sum(ranks) / len(ranks)))
    return [
        Trial(f"lego k={k}, both, reference rank {name}", MergeRule("lego", rank=k, reference_rank=name))
        for k in (mean, min(2 * mean, sum(ranks)))
        for name in REFERENCE_RANKS
    ]


def all_trials(sweep: Sequence[float], ranks: Sequence[int], rule: MergeRule) -> list[Trial]:
    """The trials of every method.

    Args:
        sweep: LEGO's k as multiples of the mean rank.
        ranks: ranks of the adapters.
        rule: gauge, restarts, reference rank and election of signs that the trials share.
    """
    settings = TrialSettings(sweep, rule)
    return [trial for row in LORA_METHODS.values() for trial in function(row.trials)(row, ranks, settings)]


# ---- trying them -----------------------------------------------------------------------------------------------------


def compare(
    exam: Exam,
    adapters: Sequence[Adapter],
    trials: Sequence[Trial],
    scales: Sequence[float],
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Rows of the controls and of every trial: as it is (scale rule "1"), and at the best of `scales` ("tuned")."""
    rows = controls(exam, adapters)
    for done, trial in enumerate(trials, start=1):
        rows += examine(trial, exam, adapters, scales, seed)
        if progress is not None:
            progress(done)
    return [{"adapters": len(adapters)} | row for row in rows]


def examine(
    trial: Trial, exam: Exam, adapters: Sequence[AdapterSource], scales: Sequence[float], seed: int
) -> list[Row]:
    """Rows of one method, or one row that says why it cannot be applied."""
    start = time.perf_counter()
    try:
        merged = merge_adapters(adapters, trial.rule, seed=seed, device=exam.model.device).adapter
    except UserError as refusal:
        return [trial.describe() | {"scale_rule": "1", "note": str(refusal).split(";")[0]}]
    seconds = time.perf_counter() - start
    shared = trial.describe() | {
        "k": max(info.rank for info in merged.modules.values()),
        "sweep": trial.sweep,
        "norm_ratio": norm_ratio(merged, adapters),
        "seconds": seconds,
    }
    # LEGO sets its own scale; task arithmetic with a fixed one would lose to it by the scale alone.
    tuned = tune(merged, exam, scales)
    rows = []
    for rule, scale in (("1", 1.0), ("tuned", tuned)):
        value, kept = exam.ask(scaled(merged, scale), "test")
        rows.append(shared | {"scale_rule": rule, "scale": scale, "score": value, "kept": kept})
    return rows


def diagnose(
    adapters: Sequence[Adapter], ranks: Sequence[int], sweep: Sequence[float], rule: MergeRule, seed: int
) -> list[Row]:
    """LEGO's clusters by k, means over modules, and how far two other k-means seeds lie apart."""
    columns = ("inertia_share", "smallest", "largest", "singletons", "mixed_share", "doubled_share", "norm_ratio")
    others = [derived_seed(seed, "another clustering", number) for number in range(2)]
    rows: list[Row] = []
    for trial in sweep_trials(ranks, TrialSettings(sweep, rule)):
        # Both reweightings come after the clustering: the other lines of the sweep have the same clusters.
        if trial.sweep != REWEIGHTINGS[0][0]:
            continue
        reports = list(merge_adapters(adapters, trial.rule, seed=seed).reports.values())
        means = {name: statistics.fmean(float(getattr(report, name)) for report in reports) for name in columns}
        spread = seed_spread(adapters, trial.rule, others, seed=seed)
        rows.append({"adapters": len(adapters), "k": trial.rule.rank, **means, "seed_spread": spread})
    return rows


def chosen_trial(label: str, rule: MergeRule) -> Trial:
    """A trial of a rule of the user's own."""
    return Trial(label, dataclasses.replace(rule))
