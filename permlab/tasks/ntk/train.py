"""`task.mode=train`: real finite networks, chunk by chunk; measured ensemble sizes beside the laws.

Chunks are fixed by the configuration and members by their index, so a resumed run repeats the
uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from permlab.config import Config
from permlab.errors import Interrupted
from permlab.ntk.all_inputs import ensemble_size_all
from permlab.ntk.descent import DescentEnsemble
from permlab.ntk.ensembles import EnsembleStatistics
from permlab.ntk.finite import ELEMENTS, ExactEnsemble, Problem, Spec
from permlab.ntk.kernels import first_layer_weight
from permlab.ntk.law import ensemble_size, success_probability
from permlab.ntk.sampling import draw_test_set, stopping_times
from permlab.runs.run import Run
from permlab.seeding import derived_seed
from permlab.tasks.ntk import NtkConfig, trained_layers
from permlab.tasks.ntk.figures import draw_widths
from permlab.tasks.ntk.law import BAND, add_published, has_band

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One (k, ones, width); `ones` is None for test=all."""

    k: int
    ones: int | None
    width: int

    @property
    def label(self) -> str:
        """Words for progress lines."""
        return f"k={self.k} width={self.width}" + (f" ones={self.ones}" if self.ones else "")


@dataclass
class Gap:
    """Running difference between trained and linearised outputs."""

    squares: float = 0.0
    count: int = 0
    largest: float = 0.0

    def update(self, difference: torch.Tensor) -> None:
        """Add outputs of the same members."""
        self.squares += float(difference.square().sum())
        self.count += difference.numel()
        self.largest = max(self.largest, float(difference.abs().max()))


def cases_of(task: NtkConfig) -> list[Case]:
    """All cases, small ones first."""
    counts: list[int | None] = [None] if task.test == "all" else list(task.ones)
    return [Case(k, ones, width) for k in sorted(set(task.k)) for ones in counts for width in sorted(set(task.width))]


def run_train(config: Config, run: Run) -> None:
    """Train every case, with checkpoints between chunks."""
    task = config.task
    cases = cases_of(task)
    state = (run.load_checkpoint() if run.resumed else None) or {"finished": [], "case": None}
    rows: list[Row] = list(state["finished"])
    total, done = len(cases) * task.members, len(rows) * task.members
    if run.resumed:
        run.rewind_metrics(done)
        run.say(f"continuing with {len(rows)} of {len(cases)} cases finished")
    with run.progress(f"training networks ({task.solver})", total, done) as bar:
        for index in range(len(rows), len(cases)):
            worker = CaseRun(config, cases[index], run)
            worker.restore(state["case"])
            while worker.statistics.seen < task.members:
                try:
                    worker.advance()
                except Interrupted:  # within a chunk of gradient descent: the finished chunks are kept
                    run.save_checkpoint({"finished": rows, "case": worker.state()})
                    raise
                seen = worker.statistics.seen
                bar.update(index * task.members + seen, k=cases[index].k, width=cases[index].width)
                if run.stopping or run.checkpoint_due(index * task.members + seen):
                    run.save_checkpoint({"finished": rows, "case": worker.state()})
                    run.check_stop()
            rows.append(worker.row())
            run.log(log_fields(rows[-1]), step=(index + 1) * task.members)
            state["case"] = None
            run.save_checkpoint({"finished": rows, "case": None})
    report(config, run, rows)


class CaseRun:
    """The ensemble, statistics and differences of one case."""

    def __init__(self, config: Config, case: Case, run: Run) -> None:
        task, self.case, self.config = config.task, case, config
        rng = np.random.default_rng(derived_seed(config.seed, "ntk problem", case.k, case.ones))
        test_set = draw_test_set(case.k, case.ones or 2, task.test, task.tests, 1, rng)
        kept = test_set.inputs.sum(axis=1) > 1  # with test=all: trained inputs, right by interpolation
        weights = test_set.weights[0, torch.from_numpy(kept)].double()
        problem = Problem(rng.permutation(case.k), test_set.inputs[kept])
        self.spec = Spec(case.k, case.width, task.parameterization, trained_layers(task))
        seed = derived_seed(config.seed, "ntk members", case.k, case.width)
        dtype = getattr(torch, task.dtype)
        self.exact = ExactEnsemble(self.spec, problem, seed, run.device, dtype)
        self.descent = DescentEnsemble(
            self.spec, problem, seed, run.device, dtype, task.learning_rate, task.epochs, lambda *_: run.check_stop()
        )
        self.kernel = 0.0 if self.spec.layers == "last" else first_layer_weight(task.parameterization)
        self.law = self._law()
        goal = 1.0 if task.test == "all" else task.target
        self.statistics = EnsembleStatistics(problem, weights / weights.sum(), goal, min(self.law, task.members))
        self.gap = Gap()
        self.seconds = 0.0

    def _law(self) -> int:
        task, case = self.config.task, self.case
        if case.ones is None:
            return ensemble_size_all(case.k, task.target, self.kernel)
        return int(ensemble_size(case.k, case.ones, task.target, self.kernel))

    def advance(self) -> None:
        """Train the next chunk."""
        task, first = self.config.task, self.statistics.seen
        ensemble = self.exact if task.solver == "exact" else self.descent
        size = min(self.exact.chunk, self.descent.chunk) if task.solver == "linearized" else ensemble.chunk
        members = range(first, min(first + size, task.members))
        started = time.monotonic()
        outputs = ensemble.outputs(members)
        if task.solver == "linearized":
            self.gap.update(outputs - self.exact.outputs(members))
        self.seconds += time.monotonic() - started
        self.statistics.update(outputs)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "statistics": self.statistics.state(),
            "gap": [self.gap.squares, self.gap.count, self.gap.largest],
            "training_error": self.descent.training_error,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint of the same case."""
        if state is None:
            return
        self.statistics.restore(state["statistics"])
        self.gap = Gap(*state["gap"])
        self.descent.training_error, self.seconds = state["training_error"], state["seconds"]

    def row(self) -> Row:
        """All measurements of the finished case; the first eight columns are those of the law's table."""
        task, case, statistics = self.config.task, self.case, self.statistics
        moments, stops = statistics.moments(), statistics.stops
        success, error = statistics.success()
        size = statistics.ensemble_size(case.ones) if case.ones else None
        low, high = band(stops)
        row: Row = {"k": case.k, "ones": case.ones, "parameterization": task.parameterization, "target": task.target}
        row |= {"ensemble_size": size, "low": low, "high": high, "published": None}
        row |= {"width": case.width, "layers": self.spec.layers, "solver": task.solver, "members": statistics.seen}
        row["ensemble_size_error"] = None if size is None else none_if_nan(statistics.ensemble_size_error(size))
        row |= self._laws()
        row |= {
            "stopping_runs": len(stops),
            "stopping_mean": float(np.mean(stops)) if stops else None,
            "stopping_error": float(np.std(stops, ddof=1) / math.sqrt(len(stops))) if len(stops) > 1 else None,
            "stopping_law": self._stopping_law(),
            "success_at": statistics.block,
            "success": none_if_nan(success),
            "success_error": none_if_nan(error),
            "success_law": self._success_law(),
            "mean_on": moments.mean_on,
            "mean_off": none_if_nan(moments.mean_off),
            "sd": math.sqrt(moments.variance),
        }
        if task.solver != "exact":
            row["training_error"] = self.descent.training_error
            row |= {"learning_rate": self.descent.learning_rate, "epochs": self.descent.epochs}
        if task.solver == "linearized":
            row |= {"difference_max": self.gap.largest, "difference_rms": math.sqrt(self.gap.squares / self.gap.count)}
        return row | {"seconds_per_network": self.seconds / statistics.seen}

    def _laws(self) -> Row:
        case, target = self.case, self.config.task.target
        if case.ones is None:
            return {"ensemble_size_law": self.law}
        weight = Spec(case.k, case.width, self.config.task.parameterization, "both").first_layer_weight
        names = {"law_last_layer": 0.0, "law_this_width": weight, "law_both_layers": 1.0}
        laws = {name: int(ensemble_size(case.k, case.ones, target, value)) for name, value in names.items()}
        if self.spec.layers == "last":
            del laws["law_this_width"]
        return {"ensemble_size_law": self.law} | laws

    def _stopping_law(self) -> float | None:
        """Mean first N of runs simulated from the law, to set beside `stopping_mean`."""
        task, case = self.config.task, self.case
        if not has_band(task, case.k):
            return None
        common = {"test": task.test, "tests": task.tests, "replicates": task.replicates, "seed": self.config.seed}
        return float(stopping_times(case.k, case.ones or 2, task.target, self.kernel, **common).mean())

    def _success_law(self) -> float | None:
        case = self.case
        if case.ones is None:
            return None
        return float(success_probability(case.k, case.ones, self.statistics.block, self.kernel))


def band(stops: list[int]) -> tuple[int | None, int | None]:
    """95 % band of the stopping times; empty without any."""
    if not stops:
        return None, None
    low, high = np.quantile(stops, (BAND[0], BAND[2]), method="inverted_cdf")
    return int(low), int(high)


def none_if_nan(value: float) -> float | None:
    """Tables leave a cell empty where there is no number."""
    return None if math.isnan(value) else value


def log_fields(row: Row) -> dict[str, float]:
    """The numbers of a row, for metrics.jsonl."""
    return {key: float(value) for key, value in row.items() if isinstance(value, (int, float))}


SHOWN = (
    *("k", "ones", "width", "ensemble_size", "ensemble_size_error", "ensemble_size_law", "law_this_width"),
    *("stopping_mean", "stopping_law", "stopping_runs", "success", "success_law"),
    *("training_error", "difference_rms", "difference_max", "seconds_per_network"),
)
SUMMARY = (
    *("ensemble_size", "ensemble_size_error", "ensemble_size_law", "stopping_mean", "stopping_law"),
    *("success", "success_law", "training_error", "difference_max", "difference_rms", "seconds_per_network"),
)


def report(config: Config, run: Run, rows: list[Row]) -> None:
    """Table, headline numbers of the largest k, first `ones` and largest width, figure."""
    task = config.task
    add_published(rows, task)
    columns = [name for name in SHOWN if any(row.get(name) is not None for row in rows)]
    title = (
        f"{task.members} networks each: {task.solver}, trained layers: {trained_layers(task)}, {task.parameterization}"
    )
    run.table("ensemble_size", rows, title=title, columns=columns)
    first = [row for row in rows if row["ones"] in (None, task.ones[0])]
    last = max(first, key=lambda row: (row["k"], row["width"]))
    run.summary(**{key: last[key] for key in SUMMARY if last.get(key) is not None})
    if last["success_error"] and last["success_law"] is not None:
        run.summary(success_z=success_z(last))
    run.summary(**widest_against_law([row for row in first if row["width"] == last["width"]]))
    for row in rows:
        if not row["stopping_runs"]:
            where = f"k={row['k']} width={row['width']}"
            run.say(f"{where}: {row['members']} networks never reached the target; raise task.members")
    run.figure("size_against_width", draw_widths(task, rows))


def success_z(row: Row) -> float:
    """Measured success rate against the law, in standard errors."""
    return (row["success"] - row["success_law"]) / row["success_error"]


def widest_against_law(rows: list[Row]) -> dict[str, float]:
    """Largest deviation from the law over the k of one width: success in standard errors, size as a share."""
    found = {}
    if all(row["success_error"] and row["success_law"] is not None for row in rows):
        found["widest_success_z"] = max(abs(success_z(row)) for row in rows)
    if all(row["ensemble_size"] is not None for row in rows):
        found["widest_size_error"] = max(abs(row["ensemble_size"] / row["ensemble_size_law"] - 1) for row in rows)
    return found


def memory_gib(config: Config) -> float:
    """Memory of the largest chunk: weights, hidden values and their products, about four temporaries."""
    task = config.task
    number = 4 if task.dtype == "float32" else 8
    largest = 0
    for case in cases_of(task):
        tests = 2**case.k if case.ones is None else min(math.comb(case.k, case.ones), max(task.tests, 2000))
        rows = case.k + tests + (case.k**2 if trained_layers(task) == "both" else 0)
        if task.solver != "exact":
            largest = max(largest, max(ELEMENTS, case.width * (6 * case.k + min(tests, 64))))
        largest = max(largest, max(ELEMENTS, min(case.width, 4096) * rows))
    return 4 * largest * number / 2**30
