"""`permlab task=merge task.study=lmc`: why does matching work? Distances, singular vectors, three networks.

permlab task=merge task.study=lmc task.pairs=5
permlab task=merge task.study=lmc task.analyses=[three,start] model.width=64

Tables (arXiv 2402.04051, and the questions of its reviewers): distances.csv (L2, R, barriers, disagreement and
temperature by arm), spectra.csv (R against gamma), singular_value_gaps.csv, singular_values.csv (first pair),
trace.csv (every step of weight matching), taylor.csv (second-order estimate of the barrier), causal.csv (permutations
from part of the singular vectors), three.csv (three networks), start.csv (straight-through matching started at A or at
random weights). Every row is one pair; *_mean.csv have means and deviations over pairs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from permlab.config import Config

if TYPE_CHECKING:
    from permlab.runs.run import Run
    from permlab.tasks.merge.lmc_parts import Subject

Row = dict[str, Any]
SHOWN = {
    "distances": ["networks", "arm", "l2_reduction", "r_0", "r_0.3", "loss_barrier", "disagreement"],
    "taylor": ["arm", "first", "second", "estimate", "barrier"],
    "causal": ["part", "gamma", "vectors", "energy", "l2_reduction", "r_0", "r_0.3", "loss_barrier"],
    "three": ["method", "arm", "pair_of", "loss_barrier", "accuracy_barrier", "loss", "accuracy"],
    "start": ["start", "rate", "l2_reduction", "r_0", "r_0.3", "loss_barrier", "train_loss_barrier"],
}  # fmt: skip
KEYS = {
    "distances": ("networks", "arm"), "spectra": ("networks", "arm", "gamma"), "taylor": ("arm",),
    "causal": ("part", "gamma"), "three": ("method", "arm", "pair_of"), "start": ("start", "rate"),
    "singular_value_gaps": ("networks", "layer"),
}  # fmt: skip
"""Table -> columns that name a row; the others are averaged over pairs."""


def run_lmc(config: Config, run: Run) -> None:
    """Train the pairs (triples where three networks are compared), analyse each, write tables, figures, numbers."""
    from permlab.tasks.merge.pairs import build, forget_networks, load_data, spec_of

    task = config.task
    data = load_data(config)
    model = build(config, data)
    spec = spec_of(model, data)
    saved = run.load_checkpoint() if run.resumed else None
    tables: dict[str, list[Row]] = saved["tables"] if saved else {}
    for pair in range(saved["pairs"] if saved else 0, task.pairs):
        _analyse(config, run, _subject(config, run, data, model, spec, pair, tables), tables)
        run.save_checkpoint({"tables": tables, "pairs": pair + 1})
        run.check_stop()
    forget_networks(run)
    report(run, tables)


def _subject(config: Config, run: Run, data: Any, model: Any, spec: Any, pair: int, tables: dict[str, Any]) -> Subject:
    """Train the networks of one pair and note how good they are."""
    from permlab.merging.renormalise import batchnorms
    from permlab.seeding import derived_seed
    from permlab.tasks.merge.lmc_parts import Subject
    from permlab.tasks.merge.pairs import evaluation_sets, statistics_batches, train_pair, untrained

    task = config.task
    count = 3 if "three" in task.analyses else 2
    ends = train_pair(config, run, data, model, pair, count)
    tables.setdefault("networks", [])
    for name, end in zip("ABC", ends):
        tables["networks"].append({"pair": pair, "network": name, **end.metrics})
    sets = evaluation_sets(config, data)
    return Subject(
        pair=pair,
        spec=spec,
        model=model,
        states=[end.state for end in ends],
        untrained=[untrained(config, data, pair, k) for k in (0, 1)],
        sets=sets,
        small=statistics_batches(config, data, 128),
        points=task.points,
        steps=task.steps,
        similarity=task.similarity,
        seed=derived_seed(config.seed, "match", pair),
        reset=sets["train"] if task.renorm != "none" and batchnorms(model) else None,
    )


def _analyse(config: Config, run: Run, subject: Subject, tables: dict[str, list[Row]]) -> None:
    """Add the rows of one pair."""
    from permlab.tasks.merge.lmc_parts import ANALYSES

    chosen = config.task.analyses
    with run.progress(f"analysing pair {subject.pair + 1}", len(chosen)) as bar:
        for done, name in enumerate(chosen):
            for table, rows in ANALYSES[name](subject).items():
                tables.setdefault(table, []).extend(rows)
            bar.update(done + 1)


def means(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Mean and sample deviation (`_sd`) over pairs of every number, by the columns `keys`; in order of appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    result = []
    for names, members in groups.items():
        line: Row = dict(zip(keys, names)) | {"pairs": len(members)}
        for column in dict.fromkeys(column for member in members for column in member):
            values = [member[column] for member in members if isinstance(member.get(column), int | float)]
            if column in (*keys, "pair") or not values:
                continue
            line[column] = statistics.fmean(values)
            line[f"{column}_sd"] = statistics.stdev(values) if len(values) > 1 else math.nan
        result.append(line)
    return result


def report(run: Run, tables: dict[str, list[Row]]) -> None:
    """Write what `run_lmc` measured."""
    from permlab.tasks.merge.lmc_figures import FIGURES

    for name, rows in tables.items():
        run.table(name, rows, show=False)
    summaries = {name: means(tables[name], keys) for name, keys in KEYS.items() if name in tables}
    for name, lines in summaries.items():
        run.table(f"{name}_mean", lines, title=f"{name}: means over pairs", show=name in SHOWN, columns=SHOWN.get(name))
    if "spectra" in summaries:
        title = "R(gamma) by gamma, means over pairs"
        run.table("r_by_gamma", _by_gamma(summaries["spectra"]), title=title)
    numbers: dict[str, float] = {}
    for name, lines in summaries.items():
        numbers |= METRICS.get(name, lambda _: {})(lines)
    run.summary(**numbers)
    for name, draw in FIGURES.items():
        if name in tables:
            run.figure(name, draw(tables))


def _by_gamma(lines: Sequence[Row]) -> list[Row]:
    """One row per arm, one column per gamma."""
    rows: dict[tuple[str, str], Row] = {}
    for line in lines:
        key = (line["networks"], line["arm"])
        row = rows.setdefault(key, {"networks": key[0], "arm": key[1]})
        row[f"{line['gamma']:g}"] = line["r"]
    return list(rows.values())


def _pick(lines: Sequence[Row], **wanted: Any) -> Row:
    """The line with these values."""
    return next(line for line in lines if all(line.get(key) == value for key, value in wanted.items()))


def _distance_metrics(lines: Sequence[Row]) -> dict[str, float]:
    naive = _pick(lines, networks="trained", arm="no permutation")
    matched = _pick(lines, networks="trained", arm="weight matching")
    control = _pick(lines, networks="untrained", arm="weight matching")
    return {
        "naive_loss_barrier": naive["loss_barrier"], "loss_barrier": matched["loss_barrier"],
        "accuracy_barrier": matched["accuracy_barrier"], "midpoint_loss": matched["midpoint_loss"],
        "midpoint_accuracy": matched["midpoint_accuracy"], "l2_reduction": matched["l2_reduction"],
        "untrained_l2_reduction": control["l2_reduction"], "r_naive": naive["r_0.3"], "r_matched": matched["r_0.3"],
        "r_untrained": control["r_0.3"], "r0_naive": naive["r_0"], "r0_matched": matched["r_0"],
        "r0_untrained": control["r_0"], "disagreement": matched["disagreement"],
        "endpoint_disagreement": matched["endpoint_disagreement"],
        "naive_disagreement": naive["disagreement"], "temperature": matched["temperature"],
        "naive_temperature": naive["temperature"],
    }  # fmt: skip


def _taylor_metrics(lines: Sequence[Row]) -> dict[str, float]:
    naive, matched = (_pick(lines, arm=arm) for arm in ("no permutation", "weight matching"))
    return {
        "taylor_estimate": matched["estimate"], "taylor_barrier": matched["barrier"],
        "taylor_relative_error": matched["relative_error"], "taylor_naive_estimate": naive["estimate"],
        "taylor_naive_barrier": naive["barrier"], "taylor_naive_relative_error": naive["relative_error"],
    }  # fmt: skip


def _causal_metrics(lines: Sequence[Row]) -> dict[str, float]:
    numbers = {}
    for part in ("leading", "rest"):
        line = _pick(lines, part=part, gamma=0.3)
        numbers |= {
            f"{part}_loss_barrier": line["loss_barrier"],
            f"{part}_l2_reduction": line["l2_reduction"],
            f"{part}_r": line["r_0.3"],
        }
    return numbers


def _three_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Barrier between B and C by method and arm, and the accuracy of the mean of all three."""
    numbers = {}
    for line in lines:
        label = f"{line['method'].replace(' ', '_').replace('-', '_')}_{line['arm']}"
        label = "naive" if line["arm"] == "naive" else label
        if line["pair_of"] == "b-c":
            numbers[f"bc_{label}"] = line["loss_barrier"]
        elif line["pair_of"] == "a-b-c":
            numbers[f"mean_accuracy_{label}"] = line["accuracy"]
    return numbers


def _start_metrics(lines: Sequence[Row]) -> dict[str, float]:
    warm = _pick(lines, start="warm")
    cold = min((line for line in lines if line["start"] == "cold"), key=lambda line: line["train_loss_barrier"])
    numbers = {}
    for name, line in (("warm", warm), ("cold", cold), ("weight", _pick(lines, start="weight matching"))):
        numbers |= {f"{name}_r": line["r_0.3"], f"{name}_r0": line["r_0"], f"{name}_barrier": line["loss_barrier"]}
    return numbers | {"cold_rate": cold["rate"]}


METRICS = {
    "distances": _distance_metrics, "taylor": _taylor_metrics, "causal": _causal_metrics, "three": _three_metrics,
    "start": _start_metrics,
}  # fmt: skip
