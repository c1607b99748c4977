"""Finished runs as tables, figures and one web page, with a verdict per claim.

permlab task=report                                        # every run under run.root
permlab task=report report.runs=[outputs/sweeps/*,other]   # runs, sweeps, folders or globs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError, check_range

if TYPE_CHECKING:
    from permlab.config import Config
    from permlab.runs.run import Run

HEADLINE = ("runs", "claims", "reproduced")
MODELS = ("none",)
DATASETS = ("none",)
MOST_FIGURES = 50


@dataclass
class ReportConfig:
    """`task=report`; what it reads is set by the keys of the group `report`."""

    name: str = "report"


def validate(config: Config[ReportConfig]) -> None:
    """Refuse what would leave an old report standing, and a number of figures that no page can hold."""
    check_range("report.figures", config.report.figures, 0, MOST_FIGURES)
    if config.run.skip_finished:
        raise UserError("task=report reads runs that change, so it is always made anew; drop run.skip_finished")


def plan(config: Config[ReportConfig]) -> dict[str, str]:
    """Find the runs, read their states, write nothing."""
    from permlab.reports.collect import collect

    found = collect(config.report.runs, config.run.root)
    states = ", ".join(f"{len(found.with_status(s))} {s}" for s in dict.fromkeys(run.status for run in found.runs))
    return {"runs": f"{len(found.runs)} ({states or 'none'})", "experiments": ", ".join(names(found.runs)) or "none"}


def names(runs: Any) -> list[str]:
    """Return the experiments of runs, in alphabetical order."""
    return sorted({run.experiment["name"] for run in runs if run.experiment})


def run(config: Config[ReportConfig], run: Run) -> None:
    """Read the runs and write index.html, report.md, tables/ and figures/ into the run directory."""
    from permlab import shipped
    from permlab.reports.build import build
    from permlab.reports.collect import collect
    from permlab.reports.html import to_html
    from permlab.reports.markdown import to_markdown
    from permlab.reports.writer import Output
    from permlab.storage.files import write_text

    collected = collect(config.report.runs, config.run.root)
    if not collected.runs:
        run.say("there are no runs to report; run something first, or name folders with report.runs=[DIR,...]")
    out = Output(
        run.dir,
        config.report.figures,
        on_table=lambda name, rows: run.table(name, rows, show=False),
        on_file=lambda path: run.record(path.relative_to(run.dir).as_posix()),
    )
    built = build(collected, out, config.report.title, as_shipped, shipped.names("experiment"))
    run.check_stop()
    for name, text in (("report.md", to_markdown(built.report, run.dir)), ("index.html", to_html(built.report))):
        write_text(run.dir / name, text)
        run.record(name)
    verdicts = [claim.verdict for claim in built.claims]
    run.summary(
        runs=len(collected.runs),
        finished=len(collected.with_status("done")),
        corrupt=len(collected.with_status("corrupt")),
        claims=len(verdicts),
        **{verdict.replace(" ", "_"): verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
    )
    show(built.claims)
    run.say(f"report: {run.dir / 'index.html'}")


def show(claims: Any) -> None:
    """Print the verdicts, and below them every rule that did not hold with its measured number."""
    from permlab.runs.console import console, print_table

    rows = []
    for claim in claims:
        held = sum(bool(check.outcome.held) for check in claim.checks)
        seeds = max((check.seeds for check in claim.checks), default=None)
        row = {"experiment": claim.experiment, "verdict": claim.row()["verdict"]}
        row |= {"rules held": f"{held} of {len(claim.checks)}", "seeds": seeds, "minutes": claim.minutes}
        rows.append(row)
    print_table(rows, "paper against ours")
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
