"""Rows of arms over all pairs in few numbers: `headline(rows, "weight matching")`, `shown(rows)`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from permlab.merging.arm import Arm, slug
from permlab.tables import Row, grouped, mean, number_columns, spread, summarise, words

NAMES = ("pair", "seed", "arm", "role", "match", "combine", "renorm")
SHOWN = (
    "loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_perplexity", "midpoint_accuracy", "l2_reduction",
    "own_accuracy",
)  # fmt: skip
FLAT = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "train_loss_barrier")
PREFIXES = {Arm("identity").label: "naive_"}
"""Arms whose numbers have a short name; those of untrained networks have one too."""


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of all pairs, grouped by arm, in the order of the first pair."""
    return {str(arm): group for (arm,), group in grouped(rows, ("arm",)).items()}


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row per arm: number of pairs, mean and standard deviation of every column of numbers."""
    return summarise(rows, ("arm", "role"), number_columns(rows, NAMES), count="pairs")


def shown(rows: Sequence[Row]) -> list[Row]:
    """The summary for people: mean ± deviation of the columns that matter."""
    macs = any(row.get("macs", 1.0) > 1 and row["arm"] != "ensemble" for row in rows)
    columns = [key for key in (*SHOWN, *(["macs"] if macs else [])) if any(row.get(key) is not None for row in rows)]
    return [
        {"arm": arm, "role": group[0]["role"], "pairs": len(group)}
        | {key: words(row.get(key) for row in group) for key in columns}
        for arm, group in by_arm(rows).items()
    ]


def headline(rows: Sequence[Row], chosen: str, *, perplexity: bool = False) -> dict[str, float]:
    """Means over pairs: the configured arm under plain names, "no permutation" as naive_, every arm by its own name.

    Args:
        rows: of all pairs.
        chosen: label of the configured arm.
        perplexity: add exp(mean loss) beside every loss.
    """
    groups = by_arm(rows)
    found: dict[str, float] = {}

    def add(prefix: str, group: Sequence[Row], keys: Sequence[str]) -> None:
        for key in keys:
            value = mean(group, key)
            if value is not None:
                found[prefix + key] = value

    add("", groups[chosen], (*FLAT, "l2_reduction", "moved", "own_accuracy", "macs", "match_seconds"))
    deviation = spread(row.get("loss_barrier") for row in groups[chosen])
    if deviation is not None and deviation.deviation is not None:
        found["loss_barrier_sd"] = deviation.deviation
    for arm, group in groups.items():
        role = group[0]["role"]
        if not role.endswith("endpoint"):
            prefix = PREFIXES.get(arm, "untrained_" if role == "untrained" else f"{slug(arm)}_")
            add(prefix, group, (*FLAT, "l2_reduction", "own_accuracy"))
    for role, prefix in (("endpoint", "endpoint_"), ("untrained endpoint", "untrained_")):
        ends = [{k.replace("midpoint_", ""): v for k, v in row.items()} for row in rows if row["role"] == role]
        add(prefix, ends, ("loss", "accuracy"))
    changes = [row["end_change"] for row in rows if row.get("end_change") is not None]
    if changes:
        found["largest_end_change"] = max(changes)
    if perplexity:
        losses = {key: value for key, value in found.items() if key.endswith("loss")}
        found |= {f"{key.removesuffix('loss')}perplexity": math.exp(min(v, 700.0)) for key, v in losses.items()}
    found["pairs"] = float(len(groups[chosen]))
    return found
