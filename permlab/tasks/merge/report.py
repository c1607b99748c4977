"""Tables, figures, headline numbers and artifacts of `permlab task=merge`, from the rows of all pairs."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.merging.arm import Arm, slug
from permlab.tables import words as mean_and_spread
from permlab.tasks.merge.figures.arms import draw_arms, draw_curves

if TYPE_CHECKING:
    from pathlib import Path

    from permlab.data.images import ImageData
    from permlab.merging.networks.loaded import Loaded
    from permlab.runs.run import Run
    from permlab.tasks.merge.vision import Pair

Row = dict[str, Any]
NAMES = ("pair", "seed", "arm", "role", "match", "combine", "renorm")
SHOWN = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "l2_reduction")
FLAT = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "train_loss_barrier")


def by_arm(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of all pairs, grouped by arm, in the order of the first pair."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["arm"], []).append(row)
    return groups


def values_of(rows: list[Row], key: str) -> list[float]:
    """The numbers of one column, blanks left out."""
    return [float(row[key]) for row in rows if row.get(key) is not None]


def numbers_of(rows: list[Row]) -> list[str]:
    """Columns that hold numbers, in the order of their first appearance."""
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key not in NAMES]


def summarise(rows: list[Row]) -> list[Row]:
    """One row per arm: number of pairs, mean and standard deviation of every column."""
    keys, found = numbers_of(rows), []
    for arm, group in by_arm(rows).items():
        entry: Row = {"arm": arm, "role": group[0]["role"], "pairs": len(group)}
        for key in keys:
            values = values_of(group, key)
            entry[key] = statistics.fmean(values) if values else None
            entry[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        found.append(entry)
    return found


def words(rows: list[Row]) -> list[Row]:
    """The summary for people: mean ± deviation of the columns that matter."""
    macs = any(row.get("macs", 1.0) > 1 and row["arm"] != "ensemble" for row in rows)
    shown = [key for key in (*SHOWN, "own_accuracy", "macs") if key != "macs" or macs]
    lines = []
    for arm, group in by_arm(rows).items():
        line: Row = {"arm": arm, "role": group[0]["role"], "pairs": len(group)}
        for key in shown:
            if any(row.get(key) is not None for row in rows):
                line[key] = mean_and_spread(values_of(group, key))
        lines.append(line)
    return lines


def headline(rows: list[Row], chosen: str) -> dict[str, float]:
    """Means over pairs: the configured arm under plain names, "no permutation" as naive_, every arm by its own name."""
    groups, found = by_arm(rows), {}

    def add(prefix: str, group: list[Row], keys: tuple[str, ...]) -> None:
        for key in keys:
            values = values_of(group, key)
            if values:
                found[prefix + key] = statistics.fmean(values)

    add("", groups[chosen], (*FLAT, "l2_reduction", "own_accuracy", "macs", "match_seconds"))
    if len(groups[chosen]) > 1:
        found["loss_barrier_sd"] = statistics.stdev(values_of(groups[chosen], "loss_barrier"))
    for arm, group in groups.items():
        if group[0]["role"] != "endpoint":
            prefix = "naive_" if arm == "no permutation" else "untrained_" if group[0]["role"] == "untrained" else ""
            add(prefix or f"{slug(arm)}_", group, (*FLAT, "l2_reduction", "own_accuracy"))
    ends = [row for row in rows if row["role"] == "endpoint"]
    add("endpoint_", [{k.replace("midpoint_", ""): v for k, v in row.items()} for row in ends], ("loss", "accuracy"))
    found["pairs"] = float(len(groups[chosen]))
    return found


def report(config: Config, run: Run, saved: dict[str, list[Row]], chosen: Arm) -> None:
    """Write everything that does not need the networks."""
    rows = saved["arms"]
    label = next(row["arm"] for row in rows if row["role"] == "configured")
    run.table("arms", rows, show=False)
    run.table("curves", saved["curves"], show=False)
    run.table("endpoints", saved["endpoints"], show=False)
    run.table("summary", summarise(rows), show=False)
    pairs = (
        f"mean ± standard deviation over {config.task.pairs} pairs, test images"
        if len(by_arm(rows)[label]) > 1
        else "test images"
    )
    if not config.run.sweep:
        print_words(rows, f"{label}: {pairs}")
    run.summary(**headline(rows, label))
    if saved["curves"]:
        run.figure("barriers", draw_curves(saved["curves"]))
    run.figure("arms", draw_arms(rows))


def print_words(rows: list[Row], title: str) -> None:
    """Print the summary for people."""
    from permlab.runs.console import print_table

    print_table(words(rows), title)


# ---- artifacts -------------------------------------------------------------------------------------------------------


def save_result(pair: Pair, loaded: Loaded | None, data: ImageData) -> None:
    """artifacts/model (one folder per head where heads are kept apart) and artifacts/matching.safetensors."""
    from permlab.merging import save_merged
    from permlab.merging.networks.vision import vision_record

    merged, config = pair.merged, pair.config
    assert merged is not None
    record = merge_record(pair)
    # Cost matrices can be larger than the networks; scores and permutations say what was matched.
    dataclasses.replace(merged.matching, costs=[]).save(pair.run.artifact("matching.safetensors"))
    folder = pair.run.artifact("model")
    if loaded is not None and loaded.kind != "vision" and merged.allocation is None:
        from permlab.merging.networks.saving import save_network

        save_network(folder, merged.state, loaded, record)
        return
    if loaded is not None and loaded.kind == "vision":
        record |= {key: loaded.config.get(key) for key in ("network", "width", "depth", "norm", "shape", "classes")}
    elif loaded is None:
        record |= vision_record(config.model, data)
    for name, state in zip(head_folders(folder, pair), merged.states):
        save_merged(name, state, record, tied=pair.spec.tied)


def head_folders(folder: Path, pair: Pair) -> list[Path]:
    """Where the merged network goes, or its versions under each head."""
    return [folder / name.replace(" ", "-") for name in pair.group.names] if pair.group.labels else [folder]


def merge_record(pair: Pair) -> dict[str, Any]:
    """Plain values that say how the merged network came about."""
    merged, task = pair.merged, pair.config.task
    record: dict[str, Any] = {
        "method": configured_words(pair),
        "match": task.match,
        "combine": task.combine,
        "renorm": task.renorm,
        "weights": list(task.weights),
        "seed": pair.config.seed,
        "networks": pair.group.rows,
        "labels": [list(each) for each in pair.group.labels],
        "notes": merged.notes,
    }
    if merged.allocation is not None:
        record |= {"budget": merged.allocation.budget, "macs": merged.macs, "ratios": merged.allocation.ratios}
        record |= {"allocation": merged.allocation.method, "solver": merged.allocation.solver}
    return record


def configured_words(pair: Pair) -> str:
    """The configured arm in words."""
    return pair.rows[0]["arm"]
