"""`task.study=width`: does width replace permutations? Plain averages with calibrated outputs against weight matching.

permlab task=merge task.study=width task.widths=[64,256,1024] task.pairs=3 task.train.weight_decay=0.003

At every width the same pairs are merged without a permutation and with weight matching, and every network on the
line, ends included, is scored as it is and with its logits divided by the temperature that suits half of the test
images best; the scores are those of the other half (arXiv 2510.08023 calibrates averages of wide networks). BatchNorm
statistics are measured again at every point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from permlab.config import Config
from permlab.seeding import derived_seed
from permlab.tables import Row, summarise

if TYPE_CHECKING:
    from permlab.runs.run import Run


def widths_of(config: Config) -> list[float]:
    """Widths tried, ascending."""
    return sorted(set(config.task.widths)) or [config.model.width]


def run_width(config: Config, run: Run) -> None:
    """Train the pairs of every width, score the four arms, write table, figure and numbers."""
    from permlab.merging.studies.width import ARMS, width_rows
    from permlab.tasks.merge.pairs import build, forget_networks, load_data, spec_of, statistics_batches, train_pair

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
        states = [endpoint.state for endpoint in train_pair(config, run, data, model, pair, width=width)]
        found = width_rows(
            spec,
            model,
            states,
            (data.x_test, data.y_test),
            statistics_batches(config, data),
            points=task.points,
            restarts=task.restarts,
            seed=derived_seed(config.seed, "match", pair),
        )
        rows += [{"width": width, "pair": pair, "seed": config.seed, **row} for row in found]
        run.log(
            {"width": width, **{f"{row['arm']} loss_barrier": row["loss_barrier"] for row in found}}, step=number + 1
        )
        run.save_checkpoint({"rows": rows})
        run.check_stop()
    forget_networks(run)
    report(config, run, rows)


def report(config: Config, run: Run, rows: list[Row]) -> None:
    """arms.csv, summary.csv, a figure against width, and numbers at the widest."""
    from permlab.merging.arm import slug
    from permlab.merging.studies.width import QUANTITIES
    from permlab.tasks.merge.figures.width import draw_width

    means = summarise(rows, ("width", "arm"), (*QUANTITIES, "l2_reduction"), count="pairs")
    run.table("arms", rows, show=False)
    run.table("summary", means, title="means over pairs", columns=["width", "arm", "pairs", *QUANTITIES])
    run.figure("arms_against_width", draw_width(means, config.task.train.weight_decay))
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
            metrics |= {prefix + key: entry[key] for key in QUANTITIES[:4]}
    metrics["l2_reduction"] = next(entry["l2_reduction"] for entry in widest if entry["arm"] == "weight matching")
    run.summary(**metrics)
