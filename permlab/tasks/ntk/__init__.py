"""How many networks must be averaged to learn a permutation exactly? (arXiv 2502.16763)

permlab task=ntk task.k=[10,20,30]                # the exact law, with the band of published-style runs
permlab task=ntk task.mode=train task.k=[10]      # the same numbers from 2,000 real finite networks
permlab task=ntk task.mode=maps                   # biases, two hidden layers, label noise, exact addition
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab.division import Shared
from permlab.errors import UserError
from permlab.tasks.ntk.settings import NtkConfig as NtkConfig
from permlab.tasks.ntk.table import MODES

if TYPE_CHECKING:
    from permlab.config import Config
    from permlab.footprint import Footprint
    from permlab.runs.run import Run

HEADLINE = ("ensemble_size", "ensemble_size_law", "stopping_mean", "fit_k_log_k")
LESS_MEMORY = ("hardware.threads=1", "a smaller task.width", "task.dtype=float32")
LIBRARIES = 350e6
"""Resident bytes of Python and torch once networks of no size have been trained."""
MODELS = ("none",)
DATASETS = ("none",)


def validate(config: Config[NtkConfig]) -> None:
    """Check choices, ranges and pairs (k, ones).

    Raises:
        UserError: naming the key and the remedy.
    """
    task = config.task
    mode = MODES.check("task.mode", task.mode)
    task.check("task.")
    if mode.simulates and task.replicates == 0:
        raise UserError(f"task.mode={task.mode} needs task.replicates of at least 1")
    if mode.lists and max(task.k) > task.largest_listed:
        raise UserError(
            f"task.k={max(task.k)} is too large for task.mode={task.mode} task.test={task.test} (at most "
            f"{task.largest_listed}); task.mode=law has no such limit"
        )
    if mode.trains:
        task.check_trained("task.")


def plan(config: Config[NtkConfig]) -> dict[str, Any]:
    """Lines of a dry run: what is computed, and the memory of real networks."""
    task = config.task
    lines = {"mode": f"{task.mode}, test={task.test}, target {task.target:g}, {task.parameterization} parameterization"}
    lines["sizes"] = f"{len(task.k)} values of k from {min(task.k)} to {max(task.k)}, ones {list(task.ones)}"
    if not MODES[task.mode].trains:
        runs = f"{task.replicates} simulated runs for each k up to {task.band_up_to}"
        return lines | {"band": runs if task.replicates else "none"}
    from permlab.runs.readiness import Told

    def networks() -> str:
        from permlab.ntk.cases import cases_of

        cases = len(cases_of(task))
        return f"{cases} cases of {task.members} networks, widths {list(task.width)}, solver {task.solver}"

    return lines | {"networks": Told(networks), "layers": task.trained.name}


def footprint(config: Config[NtkConfig]) -> Footprint | None:
    """Memory and time of real networks: chunks of them, as many at a time as there are threads."""
    task = config.task
    if not MODES[task.mode].trains:
        return None
    from permlab.footprint import Footprint
    from permlab.hardware import threads_given
    from permlab.ntk.cases import macs_of_all, memory_gib
    from permlab.threads import usable_cores

    chunk, threads = memory_gib(task) * 2**30, threads_given(config.hardware) or usable_cores()
    return Footprint(threads * chunk, {f"{threads} x largest chunk": threads * chunk}, LIBRARIES, macs_of_all(task))


def shares(config: Config[NtkConfig]) -> Shared | None:
    """Return what several processes share: networks that are trained, or rows of simulated runs."""
    task, mode = config.task, MODES[config.task.mode]
    if mode.trains:
        return Shared(task.members, f"networks (task.members={task.members})")
    rows = len(set(task.k)) * len(task.counts)
    return Shared(rows, f"simulated rows (task.k, task.ones: {rows})") if mode.draws and task.replicates else None


def run(config: Config[NtkConfig], run: Run) -> None:
    """Compute the law, sample it, or train networks."""
    MODES[config.task.mode].load()(config, run)
