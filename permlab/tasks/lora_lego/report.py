"""Tables, figures and headline numbers of the adapter benchmarks: means and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from permlab import figures
from permlab.config import Config
from permlab.runs.run import Run

Row = dict[str, Any]
CONTROLS = ("best constant answer", "no adapter", "single adapters, each on its own", "output ensemble")
CHOSEN = "the task's keys"
NAMED = {
    "average of A and of B": "average",
    "linear, weights 1/n": "linear",
    "cat: sum of updates": "sum",
    "svd of the sum, rank {largest}": "svd",
    "ties on updates, density 0.5": "ties",
    "dare on updates, density 0.5": "dare",
    "knots-ties, density 0.5": "knots",
    "lego k={mean}, both": "lego",
}
"""Methods whose score at the tuned scale is a metric of result.json: `tuned_<name>`; ranks follow the adapters."""
HALF_RANK = {
    "lego, gauge svd": "lego_half_rank",
    "lego, gauge none": "lego_gauge_none_half_rank",
    "lego, gauge balanced": "lego_gauge_balanced_half_rank",
    "svd": "svd_half_rank",
    "strongest units": "strongest_half_rank",
    "random units": "random_half_rank",
}
"""Methods of `task.study=prune` whose score at half the ranks is a metric of result.json."""
_SWEEP_STYLES = {"both": "o-", "parameter only": "s--", "output only": "^:", "no reweighting": "x-."}


def report_merges(
    config: Config, run: Run, rows: Sequence[Row], singles: Sequence[Row], diagnostics: Sequence[Row]
) -> None:
    """Write tables and figures of `task.study=merge` and the metrics of result.json."""
    seeds = config.task.repeats
    run.table("scores", [{key: row.get(key) for key in _columns(rows)} for row in rows], show=False)
    run.table("singles", aggregate(singles, ("regime", "group"), _numbers(singles)), title="Each adapter alone")
    table = aggregate(rows, ("regime", "adapters", "method", "scale_rule"), _numbers(rows))
    run.table(
        "methods",
        table,
        title=f"Merged adapters, score / single adapter ({seeds} seed{'s' if seeds > 1 else ''})",
        columns=[
            "regime",
            "adapters",
            "method",
            "k",
            "scale_rule",
            "scale",
            "score",
            "score_std",
            "kept",
            "norm_ratio",
        ],
    )
    spread = aggregate(diagnostics, ("regime", "adapters", "k"), _numbers(diagnostics))
    run.table("diagnostics", spread, title="LEGO's clusters, means over modules")
    for regime in config.task.regimes:
        for count in config.task.counts:
            part = [row for row in table if (row["regime"], row["adapters"]) == (regime, count)]
            name = f"{regime}_{count}"
            run.figure(f"methods_{name}", draw_methods(part, f"{count} adapters, {regime} A"))
            if any(row.get("sweep") for row in part):
                run.figure(f"k_sweep_{name}", draw_sweep(part, f"{count} adapters, {regime} A"))
    run.figure("diagnostics", draw_diagnostics(spread))
    run.summary(**headline(config, table, singles))


def headline(config: Config, table: Sequence[Row], singles: Sequence[Row]) -> dict[str, float]:
    """Flat numbers for result.json, of the first regime and count."""
    regime, count = config.task.regimes[0], config.task.counts[0]
    part = [
        row for row in table if (row["regime"], row["adapters"]) == (regime, count) and row.get("score") is not None
    ]
    chosen = next((row for row in part if row["method"] == CHOSEN and row["scale_rule"] == "1"), None)
    methods = [row for row in part if row["method"] not in CONTROLS]
    best = max(methods, key=lambda row: row["score"])
    lego = max((row for row in methods if row["family"] == "lego"), key=lambda row: row["score"])
    numbers = {
        "single_score": statistics.fmean(row["single_test"] for row in singles),
        "single_score_lowest": min(row["single_test"] for row in singles),
        "best_score": best["score"],
        "best_lego_score": lego["score"],
    }
    if chosen is not None:
        numbers |= {"average_score": chosen["score"], "seconds_merging": chosen["seconds"]}
        if chosen.get("kept") is not None:
            numbers["base_score"] = chosen["kept"]
    if best.get("kept") is not None:
        numbers["best_base_score"] = best["kept"]
        keeping = [row["score"] for row in methods if row["kept"] >= 0.8]
        numbers["best_score_base_kept"] = max(keeping, default=0.0)
    refused = {row["method"] for row in table if row.get("score") is None and row["adapters"] == count}
    numbers |= {"methods_compared": len({row["method"] for row in methods}), "methods_refused": len(refused)}
    numbers["single_gain_lowest"] = min(row["single_test"] - row["constant_answer"] for row in singles)
    return numbers | named_scores(config, part)


def named_scores(config: Config, part: Sequence[Row]) -> dict[str, float]:
    """The scores that acceptance rules compare.

    `tuned_<name>` for `NAMED`; LEGO at k = the mean rank and scale 1 with each reweighting; `tuned_lego_gain`, the
    share of the single adapters' gain over the best constant answer that LEGO keeps.
    """
    ranks = config.task.lora_ranks
    ranks = [ranks[i % len(ranks)] for i in range(config.task.counts[0])]
    mean, largest = max(1, round(sum(ranks) / len(ranks))), max(ranks)
    scores = {(row["method"], row["scale_rule"]): row["score"] for row in part}
    wanted = {f"tuned_{name}": (said.format(mean=mean, largest=largest), "tuned") for said, name in NAMED.items()}
    for said in _SWEEP_STYLES:
        wanted[f"lego_{said.replace(' ', '_')}"] = (f"lego k={mean}, {said}", "1")
    wanted |= {"constant_score": ("best constant answer", "1"), "ensemble_score": ("output ensemble", "1")}
    numbers = {name: scores[key] for name, key in wanted.items() if key in scores}
    if "tuned_lego" in numbers and numbers["constant_score"] < 1:
        constant = numbers["constant_score"]
        numbers["tuned_lego_gain"] = (numbers["tuned_lego"] - constant) / (1 - constant)
    return numbers


def report_prunes(config: Config, run: Run, rows: Sequence[Row], singles: Sequence[Row]) -> None:
    """Write tables, figure and metrics of `task.study=prune`."""
    run.table("singles", aggregate(singles, ("regime", "group"), _numbers(singles)), title="Each adapter at full rank")
    run.table("scores", list(rows), show=False)
    table = aggregate(rows, ("regime", "method", "k"), ("rank", "score"))
    run.table("pruning", table, title="One adapter at rank k, score / full rank")
    fig, ax = figures.new(height=2.6)
    for method in dict.fromkeys(row["method"] for row in table):
        part = [row for row in table if row["method"] == method and row["regime"] == config.task.regimes[0]]
        ax.errorbar(
            [row["k"] for row in part],
            [row["score"] for row in part],
            yerr=[row.get("score_std") or 0.0 for row in part],
            color=_prune_color(method),
            linestyle="--" if "no reweighting" in method else "-",
            marker="o",
            label=method,
            capsize=2,
        )
    ax.set_xlabel("rank k of the pruned adapter")
    ax.set_ylabel("score / score at full rank")
    ax.set_ylim(-0.03, 1.05)
    ax.legend(fontsize=figures.SMALL)
    run.figure("pruning", fig)
    half = [row for row in table if row["k"] == max(1, max(config.task.lora_ranks) // 2)]
    metrics = {"single_score": statistics.fmean(row["single_test"] for row in singles)}
    for method, key in HALF_RANK.items():
        found = [row["score"] for row in half if row["method"] == method]
        if found:
            metrics[key] = found[0]
    run.summary(**metrics)


def aggregate(rows: Sequence[Row], keys: Sequence[str], numbers: Sequence[str]) -> list[Row]:
    """Mean and sample standard deviation over the rows that agree in `keys`, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    table = []
    for key, members in groups.items():
        line: Row = dict(zip(keys, key)) | {"repeats": len(members)}
        for name in dict.fromkeys(name for member in members for name in member):
            values = [member[name] for member in members if member.get(name) is not None]
            if name in keys or name == "seed" or not values:
                continue
            if name not in numbers or (type(values[0]) is int and len(set(values)) == 1):
                line[name] = values[0]
            else:
                line[name] = statistics.fmean(values)
                if len(values) > 1 and name in ("score", "kept", "single_test", "seed_spread"):
                    line[f"{name}_std"] = statistics.stdev(values)
        table.append(line)
    names = _columns(table)
    return [{name: line.get(name) for name in names} for line in table]


def draw_methods(part: Sequence[Row], title: str) -> Any:
    """Bars: score of every method at its tuned scale, with the untuned score and what the base keeps as marks."""
    tuned = [row for row in part if row["scale_rule"] == "tuned" and row["method"] != CHOSEN]
    plain = {row["method"]: row for row in part if row["scale_rule"] == "1"}
    tuned.sort(key=lambda row: row["score"])
    fig, ax = figures.new(width=2, height=0.17 * len(tuned) + 1.0)
    places = range(len(tuned))
    ax.barh(
        places,
        [row["score"] for row in tuned],
        xerr=[row.get("score_std") or 0.0 for row in tuned],
        color=[figures.color(row["family"]) for row in tuned],
        error_kw={"elinewidth": 0.8},
        height=0.72,
    )
    ax.plot([plain[row["method"]]["score"] for row in tuned], places, "|", color="black", markersize=7, label="scale 1")
    if tuned and tuned[0].get("kept") is not None:
        ax.plot(
            [row["kept"] for row in tuned],
            places,
            ".",
            color=figures.PALETTE["black"],
            label="kept of the base, tuned scale",
        )
    if "output ensemble" in plain:
        ax.axvline(
            plain["output ensemble"]["score"], color="black", linestyle=":", linewidth=1, label="output ensemble"
        )
    constant = plain.get("best constant answer", {}).get("score", 0.0)
    if constant > 0.05:
        ax.axvline(constant, color=figures.PALETTE["grey"], linestyle="--", linewidth=1, label="best constant answer")
    ax.set_yticks(places, [row["method"] for row in tuned], fontsize=figures.SMALL)
    ax.set_ylim(-0.7, len(tuned) - 0.3)
    ax.set_xlabel("score / score of the single adapter")
    ax.set_title(f"{title}; bars: scale chosen on validation questions")
    fig.legend(loc="outside lower center", ncols=3, fontsize=figures.SMALL)
    return fig


def draw_sweep(part: Sequence[Row], title: str) -> Any:
    """Score against k at scale 1, one line per reweighting; cat and svd as level lines."""
    fig, axes = figures.new(width=2, columns=2, height=2.9, sharey=True)
    for ax, rule in zip(axes, ("1", "tuned")):
        chosen = [row for row in part if row["scale_rule"] == rule]
        for said, style in _SWEEP_STYLES.items():
            line = sorted((r for r in chosen if r.get("sweep") and r["method"].endswith(said)), key=lambda r: r["k"])
            ax.errorbar(
                [row["k"] for row in line],
                [row["score"] for row in line],
                yerr=[row.get("score_std") or 0.0 for row in line],
                color=figures.color("lego"),
                fmt=style,
                capsize=2,
                label=f"lego, {said}",
            )
        level = [row for row in chosen if row["family"] in ("cat", "svd") and row["method"] != CHOSEN]
        for row, dashes in zip(level, ("-", "-", "--")):
            color = figures.color(row["family"])
            ax.axhline(row["score"], color=color, linestyle=dashes, linewidth=1, label=row["method"])
        ax.set_xlabel("merged rank k")
        ax.set_xticks(sorted({row["k"] for row in chosen if row.get("sweep")}))
        ax.set_title(f"{title}, scale {rule if rule == '1' else 'tuned'}")
    axes[0].set_ylabel("score / single adapter")
    fig.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=figures.SMALL,
        handlelength=3,
    )
    return fig


def draw_diagnostics(spread: Sequence[Row]) -> Any:
    """Clusters that mix adapters, norm ratio and distance between k-means seeds, against k."""
    fig, axes = figures.new(width=2, columns=3, height=2.2)
    shown = (
        ("mixed_share", "share of clusters\nthat mix adapters"),
        ("norm_ratio", "|merged| / mean |input|"),
        ("seed_spread", "relative difference\nbetween k-means seeds"),
    )
    cases = list(dict.fromkeys((row["regime"], row["adapters"]) for row in spread))
    for ax, (name, label) in zip(axes, shown):
        for number, (regime, count) in enumerate(cases):
            part = [row for row in spread if (row["regime"], row["adapters"]) == (regime, count)]
            style = "-" if regime == "independent" else "--"
            shade = list(figures.PALETTE.values())[number % 6]
            k, values = [row["k"] for row in part], [row[name] for row in part]
            ax.plot(k, values, style, marker="o", color=shade, label=f"{count}, {regime} A")
        ax.set_xlabel("merged rank k")
        ax.set_ylabel(label, fontsize=7)
        ax.set_ylim(0, 1.15 * max(row[name] for row in spread) + 1e-3)
    axes[0].legend(fontsize=figures.SMALL)
    return fig


def _prune_color(method: str) -> str:
    names = {"svd": "svd", "strongest units": "ties", "random units": "random", "lego, gauge none": "average"}
    if method in names:
        return figures.color(names[method])
    return figures.color("lego" if "svd" in method else "cat")


def _numbers(rows: Sequence[Row]) -> list[str]:
    skip = ("seed", "adapters")
    return [
        name
        for name in _columns(rows)
        if name not in skip
        and all(isinstance(row.get(name), (int, float)) or row.get(name) is None for row in rows)
        and not any(isinstance(row.get(name), bool) for row in rows)
    ]


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
