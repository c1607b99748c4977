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
from permlab.merging.arm import slug
from permlab.tables import Row, summarise
from permlab.tasks.merge.loop import Tables, each_case
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from permlab.runs.run import Run


def widths_of(config: Config[MergeConfig]) -> list[float]:
    """Widths tried, ascending."""
    return sorted(set(config.task.widths)) or [config.model.width]


def run_width(config: Config[MergeConfig], run: Run) -> None:
    """Train the pairs of every width, score the four arms, write table, figure and numbers."""
    from permlab.merging import Subject
    from permlab.merging.methods.repair import batchnorms
    from permlab.merging.studies.width import halves, width_rows
    from permlab.tasks.merge.pairs import pairs_of, setting_of, train_pair

    task, pairs = config.task, pairs_of(config)
    sets, reset = halves(pairs.data.x_test, pairs.data.y_test), pairs.statistics()

    def measure(case: tuple[float, int]) -> tuple[Tables, dict[str, float]]:
        width, pair = case
        run.say(f"width {width:g}, pair {pair + 1} of {task.pairs}")
        model = pairs.build(width)
        ends = train_pair(run, pairs, model, pair, width=width)
        subject = Subject(
            model,
            pairs.spec(model),
            [end.state for end in ends],
            sets,
            setting_of(config, run, reset, pair),
            points=task.points,
            renorm="reset" if batchnorms(model) else "none",
        )
        rows = width_rows(subject)
        numbers = {"width": width, **{f"{row['arm']} loss_barrier": row["loss_barrier"] for row in rows}}
        return {"arms": [{"width": width, "pair": pair, "seed": config.seed, **row} for row in rows]}, numbers

    cases = [(width, pair) for width in widths_of(config) for pair in range(task.pairs)]
    report(config, run, each_case(run, cases, measure)["arms"])


def report(config: Config[MergeConfig], run: Run, rows: list[Row]) -> None:
    """arms.csv, summary.csv, a figure against width, and numbers at the widest."""
    from permlab.merging.studies.width import QUANTITIES
    from permlab.tasks.merge.figures.width import draw_width

    means = summarise(rows, ("width", "arm"), (*QUANTITIES, "l2_reduction"), count="pairs")
    run.table("arms", rows, show=False)
    run.table("summary", means, title="means over pairs", columns=["width", "arm", "pairs", *QUANTITIES])
    run.figure("arms_against_width", draw_width(means, config.task.train.weight_decay))
    run.summary(**numbers_of(means))


def numbers_of(means: list[Row]) -> dict[str, float]:
    """Every arm at every width; those at the widest again without it, the plain arms under the names of study=merge."""
    from permlab.merging.studies.width import NAIVE, QUANTITIES, WEIGHT

    every = ("loss_barrier", "accuracy_barrier", "midpoint_accuracy")
    numbers: dict[str, float] = {}
    for line in means:
        numbers |= {f"{slug(line['arm'])}_{key}_width_{line['width']:g}": line[key] for key in every}
    widest = {line["arm"]: line for line in means if line["width"] == max(line["width"] for line in means)}
    for arm, line in widest.items():
        numbers |= {f"{slug(arm)}_{key}": line[key] for key in every}
    for prefix, arm in (("", WEIGHT), ("naive_", NAIVE)):
        numbers |= {prefix + key: widest[arm.label][key] for key in QUANTITIES[:4]}
    return numbers | {"l2_reduction": widest[WEIGHT.label]["l2_reduction"]}
