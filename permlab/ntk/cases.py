"""Real networks against the law, case by case: `CaseTraining(EnsembleSettings(), Case(10, 2, 4096), seed=0).advance()`.

A case is one (k, ones, width). Its members are trained chunk by chunk; chunks are fixed by the settings and members by
their index, so a training that goes on from `state` repeats the uninterrupted one bit for bit. On CPUs exact solutions
are found chunk beside chunk, one torch thread each, and read in the order of their members: the number of threads, or
of processes, changes no number.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from permlab.ntk.all_inputs import ensemble_size_all
from permlab.ntk.descent import DescentEnsemble, Gap, descended
from permlab.ntk.ensembles import EnsembleStatistics
from permlab.ntk.finite import BLOCK, ELEMENTS, ExactEnsemble, Problem, Spec
from permlab.ntk.inputs import draw_test_set
from permlab.ntk.kernels import first_layer_weight
from permlab.ntk.law import ensemble_size, success_probability
from permlab.ntk.published import published_curve
from permlab.ntk.settings import EnsembleSettings
from permlab.ntk.simulated import band, expected_accuracy, mean_and_error, simulate_stops
from permlab.ntk.table import DTYPES, LAYERS
from permlab.processes import apart, count, in_order
from permlab.seeding import derived_seed
from permlab.tables import Row


@dataclass(frozen=True)
class Case:
    """One (k, ones, width); `ones` is None where every input counts."""

    k: int
    ones: int | None
    width: int

    @property
    def label(self) -> str:
        """Words for progress lines."""
        return f"k={self.k} width={self.width}" + (f" ones={self.ones}" if self.ones else "")


def cases_of(settings: EnsembleSettings) -> list[Case]:
    """All cases, small ones first."""
    widths = sorted(set(settings.width))
    return [Case(k, ones, width) for k in sorted(set(settings.k)) for ones in settings.counts for width in widths]


class CaseTraining:
    """The ensemble, statistics and differences of one case.

    Args:
        settings: what is asked and how networks are trained.
        case: one of `cases_of(settings)`.
        seed: of test inputs, permutation and members.
        device: where to train.
        on_epoch: called now and then within gradient descent, with (epochs done, epochs); may raise to stop.
    """

    def __init__(
        self,
        settings: EnsembleSettings,
        case: Case,
        seed: int,
        device: str | torch.device = "cpu",
        on_epoch: Callable[[int, int], None] | None = None,
    ) -> None:
        self.settings, self.case, self.seed = settings, case, seed
        rng = np.random.default_rng(derived_seed(seed, "ntk problem", case.k, case.ones))
        test_set = draw_test_set(case.k, case.ones or 2, settings.test, settings.tests, 1, rng)
        kept = test_set.inputs.sum(axis=1) > 1  # one-hot inputs are trained: right by interpolation
        weights = test_set.weights[0, torch.from_numpy(kept)].double()
        problem = Problem(rng.permutation(case.k), test_set.inputs[kept])
        self.spec = Spec(case.k, case.width, settings.parameterization, settings.trained.name)
        members = derived_seed(seed, "ntk members", case.k, case.width)
        dtype = DTYPES[settings.dtype].load()
        self.exact = ExactEnsemble(self.spec, problem, members, device, dtype)
        self.descent = DescentEnsemble(
            self.spec, problem, members, device, dtype, settings.learning_rate, settings.epochs, on_epoch
        )
        self.kernel = first_layer_weight(settings.parameterization) if self.spec.first_moves else 0.0
        self.law = self._law()
        goal = 1.0 if settings.testing.every else settings.target
        self.statistics = EnsembleStatistics(problem, weights / weights.sum(), goal, min(self.law, settings.members))
        self.gap = Gap()
        self.seconds = 0.0
        self.checked = 0
        """Members that gradient descent on both layers has trained beside the exact solution."""
        self.check = DescentEnsemble(
            dataclasses.replace(self.spec, layers=LAYERS.where(first=True)[0]),
            *(problem, members, device, dtype, settings.learning_rate, settings.epochs, on_epoch),
        )

    def _law(self) -> int:
        target, case = self.settings.target, self.case
        if case.ones is None:
            return ensemble_size_all(case.k, target, self.kernel)
        return int(ensemble_size(case.k, case.ones, target, self.kernel))

    @property
    def finished(self) -> bool:
        """Whether all members are trained, and those checked that are to be."""
        return self.statistics.seen >= self.settings.members and self.checked >= self.settings.checked

    def advance(self) -> None:
        """Train the next chunk, of exact solutions on CPUs one for every thread; at the end check the next chunk."""
        if self.statistics.seen >= self.settings.members:
            self._check_next()
        elif self.settings.solving.descends:
            self._descend()
        else:
            self._solve()

    def _solve(self) -> None:
        first, size, last = self.statistics.seen, self.exact.chunk, self.settings.members
        workers = count() if count() > 1 else torch.get_num_threads() if self.exact.device.type == "cpu" else 1
        chunks = [range(at, min(at + size, last)) for at in range(first, last, size)][:workers]
        started = time.monotonic()
        with in_order(self.exact.outputs, chunks) as found:
            for outputs in found:
                self.statistics.update(outputs)
        self.seconds += time.monotonic() - started

    def _check_next(self) -> None:
        """Train the next members by gradient descent on both layers, and compare them with the exact solution."""
        members = range(self.checked, min(self.checked + self.check.chunk, self.settings.checked))
        self.gap.update(self.check.outputs(members) - self.exact.outputs(members))
        self.checked = members.stop

    def _descend(self) -> None:
        solver, first = self.settings.solving, self.statistics.seen
        size = min(self.exact.chunk, self.descent.chunk) if solver.exact else self.descent.chunk
        last = self.settings.members
        chunks = [range(at, min(at + size, last)) for at in range(first, last, size)][: count()]
        work = functools.partial(descended, self.descent, self.exact if solver.exact else None)
        started = time.monotonic()
        # Chunk by chunk the same numbers, whoever finds them; alone, a process has one at a time and may stop within.
        for outputs, exact, error in apart(work, chunks) if count() > 1 else map(work, chunks):
            if exact is not None:
                self.gap.update(outputs - exact)
            self.descent.training_error = max(self.descent.training_error, error)
            self.statistics.update(outputs)
        self.seconds += time.monotonic() - started

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in tensors, numbers and lists."""
        return {
            "statistics": self.statistics.state(),
            "gap": [self.gap.squares, self.gap.count, self.gap.largest],
            "training_error": max(self.descent.training_error, self.check.training_error),
            "checked": self.checked,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state` of the same case; None starts it."""
        if state is None:
            return
        self.statistics.restore(state["statistics"])
        self.gap = Gap(*state["gap"])
        self.descent.training_error = self.check.training_error = state["training_error"]
        self.checked, self.seconds = state["checked"], state["seconds"]

    def row(self) -> Row:
        """All measurements of the finished case; the first eight columns are those of the law's table."""
        settings, case, statistics = self.settings, self.case, self.statistics
        moments, stops = statistics.moments(), statistics.stops
        success, error = statistics.success()
        size = statistics.ensemble_size(case.ones) if case.ones else None
        low, _, high = band(stops) if stops else (None, None, None)
        stopping_mean, stopping_error = mean_and_error(stops)
        row: Row = {"k": case.k, "ones": case.ones}
        row |= {"parameterization": settings.parameterization, "target": settings.target}
        row |= {"ensemble_size": size, "first_low": low, "first_high": high, "published": None}
        row |= {"width": case.width, "layers": self.spec.layers, "solver": settings.solver, "members": statistics.seen}
        row["ensemble_size_error"] = None if size is None else _none_if_nan(statistics.ensemble_size_error(size))
        row |= self._laws()
        row |= {
            "first_n": stops[0] if stops else None,
            "stopping_runs": len(stops),
            "stopping_mean": stopping_mean,
            "stopping_error": stopping_error,
            "stopping_law": self._stopping_law(),
            "success_at": statistics.block,
            "success": _none_if_nan(success),
            "success_error": _none_if_nan(error),
            "success_law": self._success_law(),
            "mean_on": moments.mean_on,
            "mean_off": _none_if_nan(moments.mean_off),
            "sd": math.sqrt(moments.variance),
        }
        if settings.solving.descends:
            row["training_error"] = self.descent.training_error
            row |= {"learning_rate": self.descent.learning_rate, "epochs": self.descent.epochs}
            if settings.solving.exact:
                rms = math.sqrt(self.gap.squares / self.gap.count)
                row |= {"difference_max": self.gap.largest, "difference_rms": rms}
        if self.checked:
            rms = math.sqrt(self.gap.squares / self.gap.count)
            row |= {"checked": self.checked, "training_error": self.check.training_error, "epochs": self.check.epochs}
            row |= {"difference_max": self.gap.largest, "difference_rms": rms, "difference_over_sd": rms / row["sd"]}
        return row | {"seconds_per_network": self.seconds / statistics.seen}

    def accuracy_rows(self) -> list[Row]:
        """Accuracy of the average of the first 1, 2, ... networks, with the law and the published run beside it."""
        case, path = self.case, self.statistics.path
        networks = np.arange(1, len(path) + 1)
        law = expected_accuracy(self.settings, case.k, case.ones, networks, self.kernel)
        published = published_curve(case.k, case.ones, len(path))
        return [
            {"k": case.k, "ones": case.ones, "width": case.width, "networks": int(n), "law": float(law[i])}
            | {"accuracy": path[i], "published": published[i]}
            for i, n in enumerate(networks)
        ]

    def _laws(self) -> Row:
        """Sizes by the laws of both kernels and of this width's tangent kernel."""
        case, target = self.case, self.settings.target
        if case.ones is None:
            return {"ensemble_size_law": self.law}
        weight = Spec(case.k, case.width, self.settings.parameterization, "both").first_layer_weight
        names = {"law_last_layer": 0.0, "law_this_width": weight, "law_both_layers": 1.0}
        laws = {name: int(ensemble_size(case.k, case.ones, target, value)) for name, value in names.items()}
        if not self.spec.first_moves:
            del laws["law_this_width"]
        return {"ensemble_size_law": self.law} | laws

    def _stopping_law(self) -> float | None:
        """Mean first N of runs simulated from the law, to set beside `stopping_mean`."""
        if not self.settings.has_band(self.case.k):
            return None
        return float(simulate_stops(self.settings, self.case.k, self.case.ones, self.seed, self.kernel).mean())

    def _success_law(self) -> float | None:
        if self.case.ones is None:
            return None
        return float(success_probability(self.case.k, self.case.ones, self.statistics.block, self.kernel))


def _none_if_nan(value: float) -> float | None:
    """Tables leave a cell empty where there is no number."""
    return None if math.isnan(value) else value


def success_z(row: Row) -> float:
    """Measured success rate against the law, in standard errors."""
    return float((row["success"] - row["success_law"]) / row["success_error"])


def widest_against_law(rows: Sequence[Row]) -> dict[str, float]:
    """Largest deviation over the k of one width: from the law in success (standard errors) and size (share, standard
    errors), and of gradient descent from the exact solution in standard deviations of one network's output."""
    found = {}
    if all(row["success_error"] and row["success_law"] is not None for row in rows):
        found["widest_success_z"] = max(abs(success_z(row)) for row in rows)
    if all(row["ensemble_size"] is not None for row in rows):
        if all(row.get("ensemble_size_error") for row in rows):
            found["widest_size_z"] = max(
                abs(row["ensemble_size"] - row["ensemble_size_law"]) / row["ensemble_size_error"] for row in rows
            )
        found["widest_size_error"] = max(abs(row["ensemble_size"] / row["ensemble_size_law"] - 1) for row in rows)
    checked = [row["difference_over_sd"] for row in rows if row.get("difference_over_sd") is not None]
    return found | ({"widest_difference_over_sd": max(checked)} if checked else {})


def across_widths(rows: Sequence[Row]) -> dict[str, float]:
    """How the measured size moves with the width, over the widths of every k: how many times the law it is at the
    narrowest (the least over k), and the largest rise from one width to the next, in standard errors."""
    ratios, rises = [], []
    for k in sorted({row["k"] for row in rows}):
        own = sorted((row for row in rows if row["k"] == k), key=lambda row: row["width"])
        if len(own) < 2 or not all(row["ensemble_size"] and row["ensemble_size_error"] for row in own):
            return {}
        ratios.append(own[0]["ensemble_size"] / own[0]["ensemble_size_law"])
        for narrow, wide in itertools.pairwise(own):
            error = math.hypot(narrow["ensemble_size_error"], wide["ensemble_size_error"])
            rises.append((wide["ensemble_size"] - narrow["ensemble_size"]) / error)
    return {"narrowest_over_law": min(ratios), "largest_rise_z": max(rises)}


def memory_gib(settings: EnsembleSettings) -> float:
    """Memory of the largest chunk: what is drawn, hidden values and their products, and outputs in float64."""
    largest = 0.0
    for case in cases_of(settings):
        k, block = case.k, min(case.width, BLOCK)
        tests = tests_of(settings, case)
        rows = k + tests + (k**2 if settings.trained.first else 0)
        members = min(settings.members, max(1, ELEMENTS // (block * rows)))
        held = 3 * rows if settings.trained.first else 2 * tests + 6 * k
        largest = max(largest, members * (block * held + 2 * tests * k + (4 * k**3 if settings.trained.first else 0)))
        if settings.solving.descends or settings.checked:
            largest = max(largest, 4 * ELEMENTS, 4 * case.width * (6 * k + min(tests, 64)))
    return largest * DTYPES[settings.dtype].bytes / 2**30


def tests_of(settings: EnsembleSettings, case: Case) -> int:
    """At most so many test inputs of a case."""
    return 2**case.k if case.ones is None else min(math.comb(case.k, case.ones), max(settings.tests, 2000))


def macs_of_all(settings: EnsembleSettings) -> float | None:
    """Multiply-accumulates of the exact solutions of all networks (Gram matrices, tests); None for gradient descent."""
    if settings.solving.descends or settings.checked:
        return None
    total = 0.0
    for case in cases_of(settings):
        total += settings.members * case.width * (2.0 * case.k**2 + 2.0 * case.k * tests_of(settings, case))
    return total
