"""Arms of `permlab task=merge` judged, and what is written of them: tables, figures, headline numbers, artifacts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.merging.arm import Arm
from permlab.merging.planned import Planned, planned_arms
from permlab.merging.table import COMBINES
from permlab.tables import Row
from permlab.tasks.merge.checks import arms_of
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from permlab.data import ImageData
    from permlab.merging import Merged, Subject
    from permlab.merging.networks.loaded import Loaded
    from permlab.runs.run import Run


def planned(config: Config[MergeConfig], *, batchnorm: bool = False) -> list[Planned]:
    """Every arm that a run judges; with networks that have BatchNorm their statistics are a control too."""
    chosen, *compare = arms_of(config)
    task = config.task
    return planned_arms(chosen, compare, controls=task.controls, budget=task.budget, batchnorm=batchnorm)


def judge(
    config: Config[MergeConfig], run: Run, subject: Subject, *, anew: bool = False
) -> tuple[list[Row], list[Row], Merged]:
    """(rows of arms.csv, rows of curves.csv, the merged network of the configured arm) of one pair."""
    from permlab.merging.measure.bench import Bench
    from permlab.merging.methods.repair import batchnorms

    plan = planned(config, batchnorm=bool(batchnorms(subject.model)))
    bench = Bench(subject, config.task.points, anew)
    with run.progress(f"merging pair {subject.pair + 1}", len(plan) + 1) as bar:

        def on_row(done: int, row: Row) -> None:
            bar.update(done, loss_barrier=row["loss_barrier"])
            run.check_stop()

        rows, merged = bench.compare(plan, controls=config.task.controls, on_row=on_row)
    return rows, bench.curves, merged


def pair_numbers(rows: Sequence[Row]) -> dict[str, float]:
    """Numbers of one pair for metrics.jsonl."""
    keys = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "l2_reduction")
    naive: Row = next((row for row in rows if row["arm"] == Arm("identity").label), {})
    values = {key: rows[0].get(key) for key in keys} | {"naive_loss_barrier": naive.get("loss_barrier")}
    return {key: float(value) for key, value in values.items() if value is not None}


def report(config: Config[MergeConfig], run: Run, saved: dict[str, list[Row]], *, perplexity: bool = False) -> None:
    """Write everything that does not need the networks."""
    from permlab.merging.measure.summary import by_arm, headline, shown, summary
    from permlab.runs.console import print_table
    from permlab.tasks.merge.figures.arms import draw_arms, draw_curves

    rows = saved["arms"]
    label = next(row["arm"] for row in rows if row["role"] == "configured")
    for name, lines in saved.items():
        if lines:
            run.table(name, lines, show=False)
    run.table("summary", summary(rows), show=False)
    pairs = len(by_arm(rows)[label])
    if not config.run.sweep:
        over = f"mean ± standard deviation over {pairs} pairs, " if pairs > 1 else ""
        print_table(shown(rows), f"{label}: {over}test set")
    run.summary(**headline(rows, label, perplexity=perplexity))
    losses = [row["train_loss"] for row in saved.get("endpoints", ()) if row.get("train_loss") is not None]
    if losses:
        run.summary(training_loss=max(losses))
    if saved.get("curves"):
        run.figure("barriers", draw_curves(saved["curves"]))
    run.figure("arms", draw_arms(rows))


# ---- artifacts -------------------------------------------------------------------------------------------------------


def save_result(
    config: Config[MergeConfig],
    run: Run,
    subject: Subject,
    merged: Merged,
    label: str,
    networks: list[Row],
    loaded: Loaded | None,
    data: ImageData,
) -> None:
    """artifacts/model (one folder per head where heads are kept apart) and artifacts/matching.safetensors."""
    from permlab.merging import save_merged, save_network
    from permlab.merging.networks.vision import vision_record

    record = merge_record(config, subject, merged, label) | {"networks": networks}
    # Cost matrices can be larger than the networks; scores and permutations say what was matched.
    dataclasses.replace(merged.matching, costs=[]).save(run.artifact("matching.safetensors"))
    folder = run.artifact("model")
    if loaded is not None and loaded.kind != "vision" and merged.macs == 1:
        save_network(folder, merged.state, loaded, record)
        return
    if loaded is not None and loaded.kind == "vision":
        record |= {key: loaded.config.get(key) for key in ("network", "width", "depth", "norm", "shape", "classes")}
    elif loaded is None:
        record |= vision_record(config.model, data)
    folders = [folder / name.replace(" ", "-") for name in subject.names] if subject.labels else [folder]
    for path, state in zip(folders, merged.states):
        save_merged(path, state, record, tied=subject.spec.tied)


def merge_record(config: Config[MergeConfig], subject: Subject, merged: Merged, label: str) -> dict[str, Any]:
    """Plain values that say how the merged network came about."""
    from permlab.merging.setting import applied_weights

    task = config.task
    record: dict[str, Any] = {
        "method": label,
        "paper": COMBINES[task.combine].paper,
        "match": task.match,
        "combine": task.combine,
        "renorm": task.renorm,
        "weights": applied_weights(task.combine, len(subject.states), task.weights),
        "seed": config.seed,
        "labels": [list(each) for each in subject.labels],
        "notes": merged.notes,
    }
    if merged.matching.clusters:
        record |= {"zip_alpha": task.zip_alpha, "zip_beta": task.zip_beta, "zip_stop": task.zip_stop}
    if task.train.tangent:
        record["tangent"] = "outputs are those of the first-order expansion around the ancestor"
    if merged.allocation is not None:
        record |= {"budget": merged.allocation.budget, "macs": merged.macs, "ratios": merged.allocation.ratios}
        record |= {"allocation": merged.allocation.method, "solver": merged.allocation.solver}
    return record
