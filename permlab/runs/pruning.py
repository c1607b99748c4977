"""End a job of a search early that does worse than those before it: `hydra/sweeper=optuna hydra.sweeper.pruner=median`.

The objective must be logged while the job runs (`Run.log` with a step): task=spt with task.evaluation.every=50 logs
reverse_accuracy, task=inverse_permutation test_mse. Values lie in the study, beside the trials; the job is then
`pruned` in the sweep's table. Where the study cannot be read, the job just goes on.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from permlab.errors import check_choice, first_line

LOGGER = logging.getLogger("permlab")
PRUNERS = ("none", "median", "halving")
"""hydra.sweeper.pruner: never, or worse than the median of the jobs before at that step, or not in the best half."""


class Pruned(Exception):  # it is no error
    """A job that is not worth finishing."""

    def __init__(self, step: int, name: str, value: float) -> None:
        super().__init__(f"pruned at step {step}: {name} {value:.4g} is worse than that of the jobs before")


class Trial:
    """What a job of a search tells the study while it runs."""

    def __init__(self, study: Any, number: int, metric: str) -> None:
        from optuna.trial import Trial as Ask

        self.metric = metric
        self.trial = Ask(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def report(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Report the objective where a line of metrics has it.

        Raises:
            Pruned: the study's pruner says so.
        """
        value = metrics.get(self.metric)
        if step is None or not isinstance(value, int | float):
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a job that goes on reports steps again, the same
                self.trial.report(float(value), step)
            ends = self.trial.should_prune()
        except Exception as error:  # a study that cannot be reached must not cost the run
            LOGGER.warning("the search's study cannot be told of this job: %s", first_line(error))
            self.metric = ""
            return
        if ends:
            raise Pruned(step, self.metric, float(value))


_going: list[Trial] = []


def report(metrics: Mapping[str, Any], step: int | None) -> None:
    """Tell the study of the search that this process works for, if any, of a line of metrics.

    Raises:
        Pruned: the job is not worth finishing.
    """
    for trial in _going:
        trial.report(metrics, step)


@contextmanager
def reporting(study: Any, number: int, pruner: str, metric: str) -> Iterator[None]:
    """Have what a job logs reach its study.

    Args:
        study: of Optuna, opened in this process.
        number: of the job and its trial.
        pruner: a name of `PRUNERS`.
        metric: what the study goes by, under the name that it is logged by.
    """
    study.pruner = pruner_of(pruner)
    _going.append(Trial(study, number, metric))
    try:
        yield
    finally:
        _going.clear()


def check_pruner(name: str) -> None:
    """Refuse a pruner that there is not.

    Raises:
        UserError: with those there are.
    """
    check_choice("hydra.sweeper.pruner", name, PRUNERS)


def pruner_of(name: str) -> Any:
    """Return Optuna's pruner; the first four jobs are always finished."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4)
    return pruners.SuccessiveHalvingPruner(reduction_factor=2)
