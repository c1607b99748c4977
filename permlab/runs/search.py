"""Search for the best values of keys: a Hydra sweeper over Optuna's ask and tell; its study lies in the sweep's folder.

permlab -m hydra/sweeper=optuna 'task.train.learning_rate=tag(log,interval(1e-4,1e-2))' run.objective=reverse_accuracy

hydra-optuna-sweeper is for Optuna 2, which the SQLAlchemy of today no longer fits. Jobs are those of any sweep, through
any launcher. The same command again with run.resume=auto goes on with the study where it stopped.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from permlab import figures
from permlab.errors import UserError
from permlab.runs import pruning
from permlab.runs.sweep import FINISHED, PRUNED, noted, read_job
from permlab.runs.sweep_values import expansion, sweep_values
from permlab.storage.files import save_figure, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "hydra_plugins.permlab.Search"
"""Hydra instantiates plugins of this package only; conf/hydra/sweeper/optuna.yaml names it."""
STUDY = "study.db"
ASKED = "search.json"
STARTS = 4
"""Jobs that are drawn at random before the Gaussian process learns from them: searches of training runs are short."""
MOST_VALUES = 1000
"""Of one key that is searched over a list."""


def check_search(parsed: Sequence[Any], multirun: bool, objective: str | None) -> None:
    """Refuse a search that cannot start.

    Raises:
        UserError: Optuna is missing, nothing is searched, no objective, or an interval that is empty.
    """
    if find_spec("optuna") is None:
        raise UserError("hydra/sweeper=optuna is not installed: pip install 'permlab[optuna]'")
    searched = [each for each in parsed if each.is_sweep_override()]
    if not (multirun and searched):
        raise UserError("a search needs -m and keys to search: -m 'task.train.learning_rate=interval(1e-4,1e-2)'")
    if not objective:
        raise UserError("a search needs run.objective=METRIC (the most), or run.objective=-METRIC (the least)")
    for each in searched:
        distribution(each)
    for each in parsed:
        if each.key_or_group == "hydra.sweeper.pruner":
            pruning.check_pruner(str(each.value()))


def ends(parsed: Sequence[Any]) -> list[list[str]]:
    """Return the jobs to check before a search: the first, and every end of a key with the others at their first."""
    choices = [list(expansion(each, searching=True)) for each in parsed]
    first = [values[0] for values in choices]
    others = [[*first[:n], value, *first[n + 1 :]] for n, values in enumerate(choices) for value in values[1:]]
    return [first, *others]


def distribution(override: Any) -> Any:
    """Return what Optuna draws a key from: `interval(1,8)`, also tagged log or with whole ends, or a list of values.

    Raises:
        UserError: it is empty, or not above 0 on a logarithmic scale.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value, text = override.value(), override.input_line
    if override.is_discrete_sweep():
        words = [each.partition("=")[2] for each in sweep_values(override)]
        if not 0 < len(words) <= MOST_VALUES:
            raise UserError(f"{text}: {len(words)} values; a search takes 1 to {MOST_VALUES:,} of a key")
        return CategoricalDistribution(words)
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    try:
        return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log="log" in value.tags)
    except ValueError as error:
        raise UserError(f"{text}: {error}") from None


def earlier(root: Path, overrides: Sequence[str]) -> Path | None:
    """Return the newest sweep folder under a root with the study of the same command, or None."""
    for path in sorted(root.glob(f"sweeps/*/{ASKED}"), reverse=True):
        try:
            if json.loads(path.read_text(encoding="utf-8")) == list(overrides):
                return path.parent
        except (OSError, ValueError):
            continue
    return None


class Search(Sweeper):
    """Hydra's sweeper: asks the study for jobs, has them launched, tells it what came of them."""

    def __init__(self, trials: int, at_once: int, seed: int, pruner: str = "none") -> None:
        self.trials, self.at_once, self.seed, self.pruner = trials, at_once, seed, pruner

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Make the launcher."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run what is left of the trials; a trial that a killed search left open is run again as the same job."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from optuna.trial import TrialState

        parsed = OverridesParser.create().parse_overrides(list(arguments))
        fixed = [str(each.input_line) for each in parsed if not each.is_sweep_override()]
        searched = {each.get_key_element(): distribution(each) for each in parsed if each.is_sweep_override()}
        config: Any = self.config
        sweep, objective = Path(config.hydra.sweep.dir), str(config.run.objective)
        launcher: Any = self.launcher
        study = open_study(sweep, objective)
        # A sampler that goes on with the seed it began with would draw again what it drew first.
        study.sampler = sampler_of(searched.values(), self.seed + len(study.trials))

        def run(numbers: Sequence[int]) -> None:
            # A job has the number of its trial: one that was begun goes on in its directory.
            drawn = [study.trials[number].params for number in numbers]
            jobs = [[*fixed, *(f"{key}={value}" for key, value in each.items())] for each in drawn]
            launcher.launch(jobs, initial_job_idx=numbers[0])
            for number in numbers:
                if noted(sweep, number).get("status") == PRUNED:
                    study.tell(number, state=TrialState.PRUNED)
                    continue
                value = measured(sweep, number, objective.removeprefix("-"))
                study.tell(number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)

        for trial in study.get_trials(states=[TrialState.RUNNING]):
            run([trial.number])
        while len(study.trials) < self.trials:
            room = min(self.at_once, self.trials - len(study.trials))
            run([study.ask(searched).number for _ in range(room)])


def reporting(
    sweep: Path, number: int, sweeper: Mapping[str, Any], objective: str | None
) -> AbstractContextManager[None]:
    """Have what a job logs reach the study of its sweep, where that has one and prunes."""
    pruner = str(sweeper.get("pruner") or "none")
    if pruner == "none" or not objective:
        return nullcontext()
    return pruning.reporting(open_study(sweep, objective), number, pruner, objective.removeprefix("-"))


def measured(sweep: Path, number: int, metric: str) -> float | None:
    """Return the objective of a job that is done, or None."""
    note = read_job(sweep, number)
    value = note["metrics"].get(metric) if note.get("status") in FINISHED else None
    return None if value is None else float(value)


def sampler_of(distributions: Iterable[Any], seed: int) -> Any:
    """Return Optuna's sampler: a Gaussian process finds the best of a few numbers in the fewest jobs, else TPE."""
    from optuna.distributions import CategoricalDistribution
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler, TPESampler

    if any(isinstance(each, CategoricalDistribution) for each in distributions):
        return TPESampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return GPSampler(seed=seed, n_startup_trials=STARTS)


def open_study(sweep: Path, objective: str) -> Any:
    """Return the study of a sweep's folder, made where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=f"sqlite:///{sweep / STUDY}",
        direction="minimize" if objective.startswith("-") else "maximize",
        study_name="search",
        load_if_exists=True,
    )
    return study


def close_search(sweep: Path, objective: str) -> None:
    """Write search.csv and importance.csv, and draw how the search went and which keys mattered."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import get_param_importances
    from optuna.trial import TrialState

    study = open_study(sweep, objective)
    done = study.get_trials(states=[TrialState.COMPLETE])
    rows = [{"job": each.number, **each.params, objective.removeprefix("-"): each.value} for each in done]
    write_csv(sweep / "search.csv", rows)
    if len(done) < 2:
        return
    save_figure(sweep / "figures", "search_history", history(rows, objective))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        shares = get_param_importances(study) if len({each.value for each in done}) > 1 else {}
    write_csv(sweep / "importance.csv", [{"key": key, "importance": share} for key, share in shares.items()])
    if shares:
        save_figure(sweep / "figures", "search_importance", importance(shares))


def history(rows: Sequence[Mapping[str, Any]], objective: str) -> Figure:
    """Draw the objective of every finished job, and the best so far."""
    name, better = objective.removeprefix("-"), min if objective.startswith("-") else max
    told = [(row["job"], float(row[name])) for row in rows if row[name] is not None]
    jobs, values = [job for job, _ in told], [value for _, value in told]
    figure, ax = figures.new()
    ax.plot(jobs, values, "o", markersize=3, color=figures.PALETTE["sky"], label="a job")
    ax.step(jobs, list(itertools.accumulate(values, better)), where="post", color=figures.PALETTE["blue"], label="best")
    ax.set_xlabel("job")
    ax.set_ylabel(name)
    ax.legend()
    return figure


def importance(shares: Mapping[str, float]) -> Figure:
    """Draw the share of the variance that every key explains."""
    figure, ax = figures.new()
    ax.barh(list(shares)[::-1], list(shares.values())[::-1], color=figures.PALETTE["blue"])
    ax.set_xlabel("share of the variance")
    return figure


def register() -> None:
    """Make the sweeper known to Hydra."""
    from hydra.core.plugins import Plugins

    Plugins.instance().class_name_to_class[NAME] = Search
