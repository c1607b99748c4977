"""What trained and explicit networks are worth against the exact floors: `summary_row("scratch", training)`.

Each function returns rows of a table (column -> value); nothing here trains.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from permlab.probes.certificate import reachable
from permlab.probes.construction import construction_error, construction_output
from permlab.probes.floors import mse_floor, row_accuracy_ceiling
from permlab.probes.layout import Layout
from permlab.probes.mechanism import mechanisms, routes
from permlab.probes.problem import heldout_batch, squared_error
from permlab.probes.training import Training
from permlab.tables import Row, grouped, spread

COUNTED_UP_TO = 14
"""Largest n for which n! is printed as a number of permutations."""
BELOW = 0.01
"""An error this much below a floor would refute it: bits of a test set are drawn, the share of hidden rows is exact."""
BETA_LIMIT = 200.0
"""Inverse temperature at which the explicit weights have reached their limit in double precision."""


def average(values: Sequence[float]) -> float:
    """Mean over seeds; NaN as soon as one seed's number is not finite: a seed that diverged is not left out."""
    found = spread(values)
    return found.mean if found and found.count == len(values) else math.nan


def possible_share(layout: Layout, depth: int) -> float:
    """Share of all n! permutations that the mask leaves possible (arXiv 2509.24125, impossibility theorem)."""
    return reachable(layout, depth).possible_count() / math.factorial(layout.n)


def rates(training: Training) -> Row:
    """Share of seeds within `target_mse` of the floor: in their first attempt, and with the attempts after it."""
    first, all_attempts = training.first_attempts(), training.reached(training.curve[-1])
    return {"at_floor": average(first), "at_floor_restarted": average(all_attempts)}


def summary_row(label: str, training: Training) -> Row:
    """The numbers of one layout: means over seeds, the worst seed, and the lowest error of any seed at any time."""
    layout, depth = training.model.layout, training.model.depth
    last, hits = training.curve[-1], training.steps_to_target()
    reached = [float(step) for step in hits if step]
    row: Row = {
        "arm": label,
        "test_mse": average(last.test_mse),
        "test_mse_worst": max(last.test_mse),
        # The floor is a claim about every network: a single test below it, at any time, would refute it.
        "test_mse_lowest": min(mse for test in training.curve for mse in test.test_mse),
        "mse_floor": mse_floor(layout, depth),
        "row_accuracy": average(last.row_accuracy),
        "row_accuracy_worst": min(last.row_accuracy),
        "row_accuracy_ceiling": row_accuracy_ceiling(layout),
        "seeds_solved": sum(training.reached(last)) if training.floor == 0 else 0,
        **rates(training),
        "steps": last.step,
        "steps_to_target": average(reached) if reached else None,
        "train_seconds": training.seconds,
        "possible_share": possible_share(layout, depth),
    }
    if depth > 1:
        row |= {name: average(shares) for name, shares in routes(training.model, training.weights.detach()).items()}
    if layout.n <= COUNTED_UP_TO:
        row["possible"] = f"{reachable(layout, depth).possible_count()} of {math.factorial(layout.n)}"
    return row


def seed_rows(label: str, training: Training) -> list[Row]:
    """One row per seed, at the last test."""
    last = training.curve[-1]
    values: dict[str, Sequence[Any]] = {"test_mse": last.test_mse, "row_accuracy": last.row_accuracy}
    values["steps_to_target"] = training.steps_to_target()
    values["attempts"] = training.attempts
    if training.model.depth > 1:
        values |= routes(training.model, training.weights.detach())
        found = mechanisms(training.model, training.weights.detach())
        values |= {"mechanism": [one.name for one in found], "read": [one.read for one in found]}
        values |= {f"without_{route}": [one.without[route] for one in found] for route in found[0].without}
        values |= {"without_it": [one.without_it for one in found]}
        values |= {"without_others": [one.without_others for one in found]}
    return [
        {"arm": label, "seed": seed, "steps": last.step, **{name: value[k] for name, value in values.items()}}
        for k, seed in enumerate(training.seeds)
    ]


def mechanism_rows(rows: Sequence[Row]) -> list[Row]:
    """Shares of seeds per arm and mechanism, with row accuracies as trained and with attention taken away.

    Args:
        rows: of `seed_rows`.

    Returns:
        Beside the share: mean row accuracy, with the routes of the mechanism flattened (the one that hurts most), with
        any other route flattened (the one that hurts most), and the share of seeds whose attention shows most what
        ablation says they need.
    """
    made = []
    for (arm, mechanism), group in grouped([row for row in rows if "mechanism" in row], ("arm", "mechanism")).items():
        made.append(
            {
                "arm": arm,
                "mechanism": mechanism,
                "seeds": len(group),
                "share": len(group) / sum(row["arm"] == arm for row in rows),
                "row_accuracy": average([row["row_accuracy"] for row in group]),
                "without_it": average([row["without_it"] for row in group]),
                "without_others": average([row["without_others"] for row in group]),
                "read": average([float(row["read"] in re.split(r"[+|]", row["mechanism"])) for row in group]),
            }
        )
    return made


def mechanism_verdict(rows: Sequence[Row]) -> dict[str, float]:
    """How many networks have a named mechanism, how many an unclear one, and how many readings ablation confirms."""
    working = [row for row in rows if row["mechanism"] != "none"]
    unclear = sum(row["seeds"] for row in working if row["mechanism"] == "unclear")
    seeds = sum(row["seeds"] for row in working)
    confirmed = sum(row["seeds"] * row["read"] for row in working)
    single = [row for row in working if row["mechanism"] != "unclear" and not re.search(r"[+|]", row["mechanism"])]
    of_single = sum(row["seeds"] for row in single)
    return {
        **{
            f"mechanism_{name}": sum(row["seeds"] * row[name] for row in single) / max(1, of_single)
            for name in ("without_it", "without_others")
        },
        "mechanism_unclear": unclear,
        "mechanism_named": seeds - unclear,
        "mechanism_read_share": confirmed / max(1, seeds),
    }


def curve_rows(label: str, training: Training) -> list[Row]:
    """Every test of every seed."""
    return [
        {
            "arm": label,
            "seed": seed,
            "step": test.step,
            "test_mse": test.test_mse[k],
            "row_accuracy": test.row_accuracy[k],
        }
        for test in training.curve
        for k, seed in enumerate(training.seeds)
    ]


def save_weights(path: Path, training: Training) -> None:
    """Write the matrices A of each layer and W of every seed: `seed0.layer1`, ..., `seed0.readout`."""
    from safetensors.torch import save_file

    parts = training.model.unpack(training.weights.detach().cpu())
    names = [f"layer{k + 1}" for k in range(training.model.depth)] + ["readout"]
    tensors = {
        f"seed{seed}.{name}": part[k].contiguous()
        for k, seed in enumerate(training.seeds)
        for name, part in zip(names, parts)
    }
    save_file(tensors, str(path))


# ---- sweeps over the number of scratch rows --------------------------------------------------------------------------


def swept_layouts(n: int, positions: Sequence[str], counts: Sequence[int] = ()) -> dict[str, Layout]:
    """Return `position/count` -> layout of a sweep; without counts they are 0, 1, ..., 2n (`Layout.swept`)."""
    counts = counts or range(2 * n + 1)
    return {f"{position}/{count}": Layout.swept(n, position, count) for position in positions for count in counts}


def swept_row(label: str, training: Training, seed: int = 0) -> Row:
    """One point of a sweep: trained error and accuracy beside the exact floor and the construction's limit.

    Args:
        label: `position/count`.
        training: done.
        seed: of the problems on which the explicit weights are measured.
    """
    layout, depth, last = training.model.layout, training.model.depth, training.curve[-1]
    position, _, count = label.partition("/")
    return {
        "position": position,
        "scratch_rows": int(count),
        "test_mse": average(last.test_mse),
        "test_mse_best": min(last.test_mse),
        "test_mse_worst": max(last.test_mse),
        "mse_floor": mse_floor(layout, depth),
        "construction_mse": construction_limit(layout, seed),
        "row_accuracy": average(last.row_accuracy),
        "row_accuracy_best": max(last.row_accuracy),
        "row_accuracy_ceiling": row_accuracy_ceiling(layout),
        **rates(training),
        "possible_share": possible_share(layout, depth),
        "steps": last.step,
        "train_seconds": training.seconds,
    }


def swept_verdict(rows: Sequence[Row], target_mse: float) -> dict[str, float]:
    """What a whole sweep says: did training reach the floor wherever it is 0, and never go below one?"""
    exact = [row for row in rows if row["mse_floor"] == 0]
    return {
        "points": len(rows),
        "train_seconds": sum(row["train_seconds"] for row in rows),
        "below_floor": sum(row["test_mse_best"] < row["mse_floor"] - BELOW for row in rows),
        "solved_where_floor_is_zero": sum(row["test_mse"] <= target_mse for row in exact) / max(1, len(exact)),
        "least_row_accuracy_where_floor_is_zero": min((row["row_accuracy"] for row in exact), default=0.0),
        **{
            f"{name}_where_floor_is_{where}": min((row[name] for row in group), default=0.0)
            for name in ("at_floor", "at_floor_restarted")
            for where, group in (("zero", exact), ("positive", [row for row in rows if row["mse_floor"] > 0]))
        },
        "least_rows_solved": min([r["scratch_rows"] for r in exact if r["test_mse"] <= target_mse], default=-1),
        "construction_excess": max(abs(row["construction_mse"] - row["mse_floor"]) for row in rows),
    }


# ---- explicit weights ------------------------------------------------------------------------------------------------


def construction_limit(layout: Layout, seed: int) -> float:
    """Error of the explicit weights in the limit of low temperature, on balanced test problems."""
    x, y = heldout_batch(layout, 64, seed)
    return float(squared_error(construction_output(layout, x.double(), beta=BETA_LIMIT), y.double()))


def construction_rows(
    layouts: Mapping[str, Layout], betas: Sequence[float], examples: int = 8, seed: int = 0
) -> Iterator[Row]:
    """Yield one row per layout and inverse temperature, as each is measured (`construction.construction_error`)."""
    for label, layout in layouts.items():
        for beta in betas:
            mse, largest = construction_error(layout, beta, examples, seed)
            row: dict[str, Any] = {"arm": label, "beta": beta, "temperature": 1 / beta}
            yield row | {"test_mse": mse, "largest_error": largest, "mse_floor": mse_floor(layout)}
