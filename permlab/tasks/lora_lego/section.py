"""Section of `task=lora_lego`: every method with spread, k sweep, pruning, cluster diagnostics, exact identities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from permlab import figures
from permlab.reports.collection import Collection, newest_tables, own_figures, words
from permlab.reports.document import Block, Figure
from permlab.reports.writer import Output
from permlab.tables import Row, counted, grouped, spread
from permlab.tasks.lora_lego.figures import color_of
from permlab.tasks.lora_lego.table import LORA_STUDIES

TITLE = "LoRA adapters taken apart by rank (lora_lego)"
QUESTION = "Can LoRA adapters be taken apart by rank and rebuilt as one? (arXiv 2409.16167)"
TITLES = {
    "singles": "Each adapter alone",
    "pruning": "One adapter at rank k, score / full rank",
    "diagnostics": "LEGO's clusters, means over modules",
    "identities": "Identities on random adapters, relative error of the update",
    "gauges": "Merge with a copy of the same function: relative error by gauge",
    "norms": "Norm of the merged update over the mean norm of the inputs",
    "seeds": "Five k-means seeds: difference of the merged update",
    "clusterings": "Groups by k-means, by matching and at random, at k = r, over 20 seeds",
    "modules": "Merged modules",
    "in_domain": "In domain: each task told, its questions under the merge of all adapters; means over tasks",
    "mixed": "Mixed: the questions of all tasks in one list, no task told",
    "out_of_domain": "Out of domain: tasks whose own adapter is left out of the merge, and files of one's own",
    "leads": "LEGO as in the paper minus its rivals, questions answered exactly, 95 % interval over seeds",
    "interference": "Interference by type of module: cosines, and the energy in each other's subspaces",
    "pareto": "Score and energy of the sum against parameters, with the bound of Eckart and Young",
}
FIGURES = {
    "methods_*": "Score of every method as a share of the single adapters",
    "k_sweep_*": "LEGO's score against the merged rank k, with and without its reweightings",
    "diagnostics": "LEGO's clusters against k: mixed clusters, norms, difference between k-means seeds",
    "pruning": "Score of one adapter cut to rank k",
    "gauges": "Error of the merge by gauge",
    "domains": "Six adapters on a base pretrained on other text: questions answered exactly in three domains",
    "interference": "Drift of each layer, predicted error by type of module, predicted against measured loss",
    "pareto": "Score and energy of the sum against the parameters of a merge",
}


def repeats(task: Mapping[str, Any]) -> int:
    """Return how many seeds stand inside one run: generated adapters are made `task.repeats` times, one's own once."""
    study = LORA_STUDIES.get(str(task.get("study", "merge")))
    return 1 if task.get("adapters") or (study and not study.trains) else int(task.get("repeats", 1))


def blocks(collection: Collection, out: Output) -> list[Block]:
    """Methods over all seeds of all runs, then the figures and the other tables of the newest runs."""
    made: list[Block] = []
    for group in collection.groups[: out.own_figures]:
        rows = methods(group.rows("scores"))
        if not rows:
            continue
        suffix = f": {group.label}" if collection.many else ""
        note = "Score: share of the single adapters' score. tuned: the scale was chosen on validation questions."
        most = max(row["seeds"] for row in rows)
        title = f"Methods, mean ± standard deviation over {counted(most, 'seed')}{suffix}"
        made.append(out.table(collection.prefix("methods"), rows, title, note=note))
        if len(group.runs) > 1:
            made += [figure for figure in draw_methods(collection, rows, suffix, out) if figure]
    made += own_figures(collection, out, list(FIGURES), describe)
    return made + newest_tables(collection, out, list(TITLES), TITLES)


def methods(scores: list[Row]) -> list[Row]:
    """Mean and spread of every method over (run, repeat): the rows of `scores.csv` of all runs of a group."""
    scored = [row for row in scores if "scale_rule" in row and "domain" not in row]
    keys = ("regime", "adapters", "method", "scale_rule")
    table = []
    for (regime, adapters, method, rule), members in grouped(scored, keys).items():
        line: Row = {"method": method, "adapters": adapters, "start of A": regime, "scale": rule}
        line["seeds"] = len({row.get("seed") for row in members})
        for name in ("score", "kept", "norm_ratio"):
            line[name] = spread(row.get(name) for row in members)
        table.append({**line, "k": members[0].get("k"), "family": members[0].get("family")})
    return table


def draw_methods(collection: Collection, rows: list[Row], suffix: str, out: Output) -> list[Figure | None]:
    """Bars of every method at its tuned scale over several runs; one figure per number of adapters and start."""
    drawn: list[Figure | None] = []
    for regime, count in dict.fromkeys((row["start of A"], row["adapters"]) for row in rows):
        part = [
            r for r in rows if (r["start of A"], r["adapters"], r["scale"]) == (regime, count, "tuned") and r["score"]
        ]
        part.sort(key=lambda row: row["score"].mean)
        if not part:
            continue
        figure, ax = figures.new(width=2, height=0.17 * len(part) + 0.9)
        ax.barh(
            range(len(part)),
            [row["score"].mean for row in part],
            xerr=[row["score"].deviation or 0 for row in part],
            color=[color_of(str(row["family"])) for row in part],
            error_kw={"elinewidth": 0.8},
        )
        ax.set_yticks(range(len(part)), [str(row["method"]) for row in part], fontsize=6)
        ax.set(xlabel="score / score of the single adapter (mean ± sd over seeds)")
        best = part[-1]
        alt = f"Bars of {len(part)} methods for {count} adapters; the best is {best['method']} with {best['score']}"
        name = collection.prefix(f"methods_{regime}_{count}")
        drawn.append(out.figure(name, figure, alt, f"{count} adapters, {regime} A, tuned scale{suffix}."))
    return drawn


def describe(name: str) -> str:
    """Return the caption of one of the runs' figures."""
    for pattern, text in FIGURES.items():
        if name.startswith(pattern.rstrip("*")):
            rest = name[len(pattern.rstrip("*")) :].replace("_", " ")
            return f"{text} ({rest.replace(' ', ' A, ', 1)} adapters)" if rest else text
    return words(name)
