"""Finished runs as tables, figures and one web page, with a verdict per claim.

permlab report                                        # every run under run.root
permlab report 'report.runs=[outputs/sweeps/*,other]' # runs, sweeps, folders or globs
permlab report report.watch=true                      # again and again while runs are going, until Ctrl-C
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError, check_range

if TYPE_CHECKING:
    from permlab.config import Config
    from permlab.reports.collect import Collected
    from permlab.reports.pages import Written
    from permlab.runs.run import Run
from permlab.tables import Row

HEADLINE = ("runs", "claims", "reproduced", "holds")
MODELS = ("none",)
DATASETS = ("none",)
MOST_FIGURES = 50
SHORTEST_INTERVAL = 0.2
"""Seconds between two looks of report.watch."""


@dataclass
class ReportConfig:
    """`task=report`; what it reads is set by the keys of the group `report`."""

    name: str = "report"


def validate(config: Config[ReportConfig]) -> None:
    """Refuse what would leave an old report standing, and a number of figures that no page can hold."""
    check_range("report.figures", config.report.figures, 0, MOST_FIGURES)
    check_range("report.interval", config.report.interval, SHORTEST_INTERVAL, 3600)
    if config.run.skip_finished:
        raise UserError("task=report reads runs that change, so it is always made anew; drop run.skip_finished")


def plan(config: Config[ReportConfig]) -> dict[str, Any]:
    """Describe a dry run: the runs that would be read."""
    from permlab.runs.readiness import Told

    return {"read": lambda: f"{len(folders_of(config))} folders", "runs": Told(lambda: "; ".join(found_runs(config)))}


def folders_of(config: Config[ReportConfig]) -> list[Any]:
    """Return the folders that are read; none yet is a report on nothing.

    Raises:
        UserError: one that is named and not there.
    """
    from permlab.reports.collect import matching

    return [path for pattern in config.report.runs for path in matching(pattern)] or [config.run.root]


def found_runs(config: Config[ReportConfig]) -> tuple[str, str]:
    """Find the runs and read their states: how many, and of which experiments."""
    from permlab.reports.collect import Collected, collect

    nothing = not config.report.runs and not Path(config.run.root).is_dir()
    found = Collected([]) if nothing else collect(config.report.runs, config.run.root)
    states = ", ".join(f"{len(found.with_status(s))} {s}" for s in dict.fromkeys(run.status for run in found.runs))
    return f"{len(found.runs)} ({states or 'none'})", f"experiments {', '.join(names(found.runs)) or 'none'}"


def names(runs: Any) -> list[str]:
    """Return the experiments of runs, in alphabetical order."""
    return sorted({run.experiment["name"] for run in runs if run.experiment})


def run(config: Config[ReportConfig], run: Run) -> None:
    """Read the runs and write index.html, report.md, tables/ and figures/ into the run directory.

    With report.watch=true again whenever a run has moved on, until a stop signal arrives: so watching ends, and the run
    is done rather than interrupted.
    """
    from permlab import shipped
    from permlab.reports.collect import collect
    from permlab.reports.pages import PAGES, About, summary, write_pages

    settings = config.report
    collected = collect(settings.runs, config.run.root)
    if not collected.runs:
        aside = f" ({collected.debug} of debug= left out)" if collected.debug else ""
        run.say(f"there are no runs to report{aside}; run something first, or name folders with report.runs=[DIR,...]")
    refresh = max(1, round(settings.interval)) if settings.watch else None
    about = About(settings.title, settings.figures, as_shipped, shipped.names("experiment"), refresh)
    written = write_pages(run.dir, collected, about)
    if settings.watch:
        collected, written = watch(config, run, collected, written)
    else:
        run.check_stop()
    for name, rows in written.tables.items():
        run.table(name, rows, show=False)
    for path in (*written.figures, *(run.dir / name for name in PAGES)):
        run.record(path.relative_to(run.dir).as_posix())
    run.summary(**summary(collected, written.built))
    show(written.built.claims)
    run.say(f"report: {run.dir / 'index.html'}")


def watch(config: Config[ReportConfig], run: Run, collected: Collected, written: Written) -> tuple[Collected, Written]:
    """Write the report again whenever a run has moved on, until a signal; what cannot be read just then is left."""
    from permlab.reports.build import subtitle
    from permlab.reports.collect import collect
    from permlab.reports.pages import watched_once

    seconds = config.report.interval
    run.say(f"looking every {seconds:g} s, Ctrl-C ends it: {run.dir / 'index.html'}")
    while waited(run, seconds):
        try:
            collected = collect(config.report.runs, config.run.root)
        except UserError as error:  # a folder that is gone for the moment
            run.say(str(error))
            continue
        before, written = written, watched_once(written, collected)
        if written is not before:
            run.say(f"written again: {subtitle(collected)}")
    written.settle()
    return collected, written


def waited(run: Run, seconds: float) -> bool:
    """Wait, and return True; False as soon as a stop signal arrives."""
    end = time.monotonic() + seconds
    while not run.stopping and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
    return not run.stopping


def show(claims: Any) -> None:
    """Print the verdicts, and below them every rule that did not hold with its measured number."""
    from permlab.runs.console import console, print_table

    rows: dict[str, list[Row]] = {}
    for claim in claims:
        held = sum(bool(check.outcome.held) for check in claim.checks)
        over = max(claim.checks, key=lambda check: check.seeds).over if claim.checks else None
        row = {"experiment": claim.experiment, "verdict": claim.row()["verdict"]}
        row |= {"rules held": f"{held} of {len(claim.checks)}", "over": over, "minutes": claim.minutes}
        rows.setdefault(claim.by, []).append(row)
    for by, title in (("paper", "paper against ours"), ("permlab", "claims of our own")):
        if by in rows:
            print_table(rows[by], title)
    for claim in claims:
        for check in claim.checks:
            if not check.outcome.held:
                console().print(f"not held: {claim.experiment}: {check.line}", markup=False)


def as_shipped(name: str) -> Mapping[str, Any] | None:
    """Return the configuration of an experiment as it ships, or None when it is not one of ours or needs more keys."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from permlab import shipped
    from permlab.compose import compose_one, search_path

    if name not in shipped.names("experiment"):
        return None
    try:
        plain = OmegaConf.to_container(compose_one([f"experiment={name}", *search_path()]), resolve=True)
    except (UserError, OmegaConfBaseException):
        return None
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else None
