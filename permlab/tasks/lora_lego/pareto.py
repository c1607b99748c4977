"""Score kept against parameters: `permlab experiment=lora_lego/pareto`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from permlab import figures
from permlab.adapters.benchmark.exam import make_exam
from permlab.adapters.benchmark.pareto import advantage, pareto_rows
from permlab.adapters.benchmark.scores import means
from permlab.config import Config
from permlab.runs.run import Run
from permlab.tables import Row
from permlab.tasks.lora_lego.studies import trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from permlab.tasks.lora_lego import LoraLegoConfig


def study_pareto(config: Config[LoraLegoConfig], run: Run) -> None:
    """Every line at every rank on the adapters of all seeds."""
    task = config.task
    rows: list[Row] = []
    singles: list[Row] = []
    for here in trained(config, run):
        singles += here.singles
        count = task.counts[0]
        exam = make_exam(here.base, here.benchmark, here.singles, count)
        with run.progress(f"seed {here.seed}, merging", 1) as bar:
            rows += here.mark(pareto_rows(exam, here.adapters[:count], task.scales, here.seed, task.n_init))
            bar.update(1)
        run.check_stop()
    run.table("scores", rows, show=False)
    table = means(rows, ("method", "rank"))
    run.table("pareto", table, title="Score and energy kept against parameters (shares of all units)", columns=SHOWN)
    run.figure("pareto", draw_pareto(table))
    run.summary(
        single_score_lowest=min(row["single_test"] for row in singles),
        average_score=max(float(row["score"]) for row in table),
        above_bound=max(row["energy"] - row["bound"] for row in rows),
        below_bound_svd=max(row["bound"] - row["energy"] for row in rows if row["method"] == "svd of the sum"),
        svd_over_lego=advantage(table, "svd of the sum", "LEGO")["gap"],
        calibrated_over_plain=advantage(table, "svd, calibrated", "svd of the sum")["gap"],
        matching_over_lego=advantage(table, "LEGO by matching", "LEGO")["gap"],
    )


SHOWN = ["method", "rank", "parameters", "score", "score_sd", "energy", "bound", "kept"]


def draw_pareto(table: Sequence[Row]) -> Figure:
    """Left the score, right the energy of the sum with the bound, against the share of the parameters."""
    fig, axes = figures.new(width=2, columns=2, height=3.2)
    for number, method in enumerate(dict.fromkeys(row["method"] for row in table)):
        part = sorted((row for row in table if row["method"] == method), key=lambda row: float(row["parameters"]))
        x, style = [row["parameters"] for row in part], "--" if "calibrated" in method else "-"
        marker, shade = "o^sDvP*"[number % 7], figures.numbered(number)
        spread = [row["score_sd"] or 0.0 for row in part]
        axes[0].errorbar(
            x, [row["score"] for row in part], spread, fmt=marker + style, color=shade, label=method, capsize=2
        )
        axes[1].plot(x, [row["energy"] for row in part], marker + style, color=shade)
    for method, style in (("svd of the sum", "-"), ("svd, calibrated", "--")):
        part = sorted((row for row in table if row["method"] == method), key=lambda row: float(row["parameters"]))
        x, y = [row["parameters"] for row in part], [row["bound"] for row in part]
        axes[1].plot(
            x, y, style, color=figures.PALETTE["black"], lw=0.8, label=f"bound{', calibrated' * (style == '--')}"
        )
    axes[0].set(xlabel="parameters / all units", ylabel="score / single adapter (tuned scale)")
    axes[1].set(xlabel="parameters / all units", ylabel="energy of the sum", ylim=(0, 1.05))
    axes[1].legend(fontsize=figures.SMALL)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=figures.SMALL)
    return fig
