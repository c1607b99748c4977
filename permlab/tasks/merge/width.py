"""`task.study=width`: does width replace permutations? Plain averages with calibrated outputs against weight matching.

permlab task=merge task.study=width task.widths=[64,256,1024] task.pairs=3 task.train.weight_decay=0.003

At every width the same pairs are merged without a permutation and with weight matching, and every network on the
line, ends included, is scored as it is and with its logits divided by the temperature that suits half of the test
images best; the scores are those of the other half (arXiv 2510.08023 calibrates averages of wide networks). BatchNorm
statistics are measured again at every point.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.seeding import derived_seed

if TYPE_CHECKING:
    from permlab.runs.run import Run

Row = dict[str, Any]
ARMS = ("no permutation", "no permutation, calibrated", "weight matching", "weight matching, calibrated")
KEYS = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "end_loss", "end_accuracy")


def widths_of(config: Config) -> list[float]:
    """Widths tried, ascending."""
    return sorted(set(config.task.widths)) or [config.model.width]


def run_width(config: Config, run: Run) -> None:
    """Train the pairs of every width, score the four arms, write table, figure and numbers."""
    from permlab.tasks.merge.pairs import build, forget_networks, load_data, spec_of, train_pair

    task, widths = config.task, widths_of(config)
    data = load_data(config)
    rows: list[Row] = list(((run.load_checkpoint() if run.resumed else None) or {"rows": []})["rows"])
    cases = [(width, pair) for width in widths for pair in range(task.pairs)]
    done = len(rows) // len(ARMS)
    if run.resumed:
        run.rewind_metrics(done)
    for number, (width, pair) in list(enumerate(cases))[done:]:
        model = build(config, data, width)
        spec = spec_of(model, data)
        run.say(f"width {width:g}, pair {pair + 1} of {task.pairs}")
        networks = [endpoint.state for endpoint in train_pair(config, run, data, model, pair, width=width)]
        found = judge(config, model, spec, data, networks, pair)
        rows += [{"width": width, "pair": pair, "seed": config.seed, **row} for row in found]
        run.log(
            {"width": width, **{f"{row['arm']} loss_barrier": row["loss_barrier"] for row in found}}, step=number + 1
        )
        run.save_checkpoint({"rows": rows})
        run.check_stop()
    forget_networks(run)
    report(config, run, rows)


def judge(config: Config, model: Any, spec: Any, data: Any, networks: list[Any], pair: int) -> list[Row]:
    """The four arms on one pair."""
    import torch

    from permlab.matching import weight_matching
    from permlab.merging import align, barrier_curve, batches_of, l2_reduction
    from permlab.tasks.merge.pairs import BATCH, statistics_batches

    seed = derived_seed(config.seed, "match", pair)
    matching = weight_matching(spec, *networks, restarts=config.task.restarts, seed=seed)
    order = torch.randperm(len(data.x_test), generator=torch.Generator().manual_seed(0)).to(data.x_test.device)
    calibration, judged = (batches_of(data.x_test[half], data.y_test[half], BATCH) for half in order.chunk(2))
    reset = statistics_batches(config, data)
    rows = []
    for arm in ARMS:
        matched = arm.startswith("weight")
        states = align(spec, networks, matching) if matched else networks
        options = {"calibrate": calibration} if arm.endswith("calibrated") else {}
        curve = barrier_curve(model, *states, judged, points=config.task.points, reset=reset, **options)
        row = {"arm": arm, **{key: getattr(curve, key) for key in KEYS[:4]}}
        row["end_loss"], row["end_accuracy"] = ((v[0] + v[-1]) / 2 for v in (curve.loss, curve.accuracy))
        row["l2_reduction"] = l2_reduction(spec, *networks, matching.permutation) if matched else 0.0
        rows.append(row)
    return rows


def summarise(rows: list[Row]) -> list[Row]:
    """One row per width and arm: mean and standard deviation over pairs."""
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["width"], row["arm"]), []).append(row)
    found = []
    for (width, arm), group in groups.items():
        entry: Row = {"width": width, "arm": arm, "pairs": len(group)}
        for key in (*KEYS, "l2_reduction"):
            values = [row[key] for row in group]
            entry[key] = statistics.fmean(values)
            entry[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        found.append(entry)
    return found


def report(config: Config, run: Run, rows: list[Row]) -> None:
    """arms.csv, summary.csv, a figure against width, and numbers at the widest."""
    from permlab.tasks.merge.figures import draw_width
    from permlab.tasks.merge.report import slug

    means = summarise(rows)
    run.table("arms", rows, show=False)
    run.table("summary", means, title="means over pairs", columns=["width", "arm", "pairs", *KEYS])
    run.figure("arms_against_width", draw_width(rows, config.task.train.weight_decay))
    metrics: dict[str, float] = {}
    for entry in means:
        for key in ("loss_barrier", "accuracy_barrier", "midpoint_accuracy"):
            metrics[f"{slug(entry['arm'])}_{key}_width_{entry['width']:g}"] = entry[key]
    widest = [entry for entry in means if entry["width"] == max(widths_of(config))]
    for entry in widest:
        for key in ("loss_barrier", "accuracy_barrier", "midpoint_accuracy"):
            metrics[f"{slug(entry['arm'])}_{key}"] = entry[key]
        if entry["arm"] in ("weight matching", "no permutation"):
            prefix = "" if entry["arm"] == "weight matching" else "naive_"
            metrics |= {prefix + key: entry[key] for key in KEYS[:4]}
    metrics["l2_reduction"] = next(entry["l2_reduction"] for entry in widest if entry["arm"] == "weight matching")
    run.summary(**metrics)
