"""From rows of trials to means over seeds and the numbers of a result: `headline(table, singles, trials)`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from permlab.adapters.benchmark.exam import CONTROLS
from permlab.adapters.benchmark.prune import PRUNINGS
from permlab.adapters.benchmark.trials import SETTINGS, Trial
from permlab.tables import Row, number_columns, summarise

STUDIED = "lego"
"""The method whose best score is told apart."""
BASE_KEPT = 0.8
"""Share of the base's questions that a merge must keep to count as keeping the base."""
_TRIAL_KEYS = ("regime", "adapters", "method", "k", "scale_rule", "family", *SETTINGS, "sweep", "note")


def mean_scores(rows: Iterable[Row]) -> list[Row]:
    """One row per trial and scale rule: means and deviations over seeds, `repeats` of them."""
    return summarise(rows, _TRIAL_KEYS, ("scale", "score", "kept", "norm_ratio", "seconds"), count="repeats")


def means(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """One row per value of `keys`: mean and deviation over seeds of every column of numbers."""
    return summarise(rows, keys, number_columns(rows, (*keys, "seed")), count="repeats")


def headline(table: Sequence[Row], singles: Sequence[Row], trials: Sequence[Trial], chosen: str) -> dict[str, float]:
    """Flat numbers for a result.

    Args:
        table: rows of `mean_scores`, of one regime and number of adapters.
        singles: rows of `exam.ask_singles`.
        trials: those that were compared; their `tuned` and `plain` name metrics.
        chosen: label of the trial whose merge is written.
    """
    part = [row for row in table if row.get("score") is not None]
    methods = [row for row in part if row["method"] not in CONTROLS]
    best = max(methods, key=lambda row: float(row["score"]))
    lego = max((row for row in methods if row["family"] == STUDIED), key=lambda row: float(row["score"]))
    numbers = {
        "single_score": statistics.fmean(row["single_test"] for row in singles),
        "single_score_lowest": min(row["single_test"] for row in singles),
        "single_gain_lowest": min(row["single_test"] - row["constant_answer"] for row in singles),
        "best_score": best["score"],
        "best_lego_score": lego["score"],
    }
    for row in part:
        if (row["method"], row["scale_rule"]) == (chosen, "1"):
            numbers |= {"average_score": row["score"], "seconds_merging": row["seconds"]}
            if row.get("kept") is not None:
                numbers["base_score"] = row["kept"]
    if best.get("kept") is not None:
        numbers["best_base_score"] = best["kept"]
        keeping = [row["score"] for row in methods if row["kept"] >= BASE_KEPT]
        numbers["best_score_base_kept"] = max(keeping, default=0.0)
    # Counted, not left out: element-wise methods cannot merge mixed ranks, which LEGO and the sums can.
    refused = {row["method"] for row in table if row.get("score") is None}
    numbers |= {"methods_compared": len({row["method"] for row in methods}), "methods_refused": len(refused)}
    return numbers | named_scores(part, trials)


def named_scores(part: Sequence[Row], trials: Sequence[Trial]) -> dict[str, float]:
    """The scores that acceptance rules compare: those that trials name, and two controls.

    `tuned_lego_gain` is the share of the single adapters' gain over the best constant answer that LEGO keeps.
    """
    scores = {(row["method"], row["scale_rule"]): float(row["score"]) for row in part}
    wanted = {f"tuned_{trial.tuned}": (trial.label, "tuned") for trial in trials if trial.tuned}
    wanted |= {trial.plain: (trial.label, "1") for trial in trials if trial.plain}
    constant, *_, ensemble = CONTROLS
    wanted |= {"constant_score": (constant, "1"), "ensemble_score": (ensemble, "1")}
    numbers = {name: scores[key] for name, key in wanted.items() if key in scores}
    if f"tuned_{STUDIED}" in numbers and numbers["constant_score"] < 1:
        floor = numbers["constant_score"]
        numbers["tuned_lego_gain"] = (numbers[f"tuned_{STUDIED}"] - floor) / (1 - floor)
    return numbers


def half_rank_scores(table: Sequence[Row], rank: int) -> dict[str, float]:
    """Scores of `prune.PRUNINGS` at half of `rank`, from rows with method, k and score."""
    half = {row["method"]: row["score"] for row in table if row["k"] == max(1, rank // 2)}
    return {f"{each.metric}_half_rank": half[each.label] for each in PRUNINGS if each.metric and each.label in half}
