"""A report on disk, once or again and again: `written = write_pages(folder, collect(["outputs"]), about)`.

    while waiting():
        written = watched_once(written, collect(["outputs"]))    # rewritten where a run has moved on

Every file appears whole or not at all, so that a page can be read while it is being rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from permlab.reports.build import Built, build
from permlab.reports.collect import Collected
from permlab.reports.html import to_html
from permlab.reports.markdown import to_markdown
from permlab.reports.verdict import Shipped
from permlab.reports.writer import Output
from permlab.storage.files import write_csv, write_text
from permlab.tables import Row

PAGES = ("report.md", "index.html")


@dataclass(frozen=True)
class About:
    """What a report is told beside its runs; `refresh` in seconds, for a page that is being rewritten."""

    title: str = "permlab report"
    own_figures: int = 4
    shipped: Shipped = lambda name: None
    experiments: Sequence[str] = ()
    refresh: int | None = None


@dataclass
class Written:
    """A report as it lies in its folder: what was built, its tables by name, and the files of its figures."""

    folder: Path
    about: About
    built: Built
    state: object
    tables: dict[str, list[Row]] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)

    def files(self) -> set[Path]:
        """Every file of the report but its pages."""
        return {*self.figures, *(self.folder / "tables" / f"{name}.csv" for name in self.tables)}

    def settle(self) -> None:
        """Write the page once more, as one that is not rewritten any longer."""
        self.built.report.refresh = None
        write_text(self.folder / "index.html", to_html(self.built.report))


def write_pages(folder: Path, collected: Collected, about: About) -> Written:
    """Write index.html, report.md, tables/ and figures/ into a folder."""
    tables: dict[str, list[Row]] = {}
    figures: list[Path] = []

    def keep(name: str, rows: list[Row]) -> None:
        tables[name] = rows
        write_csv(folder / "tables" / f"{name}.csv", rows)

    state = state_of(collected)
    out = Output(folder, about.own_figures, on_table=keep, on_file=figures.append)
    built = build(collected, out, about.title, about.shipped, about.experiments)
    built.report.refresh = about.refresh
    for name, text in zip(PAGES, (to_markdown(built.report, folder), to_html(built.report))):
        write_text(folder / name, text)
    return Written(folder, about, built, state, tables, figures)


def watched_once(before: Written, collected: Collected) -> Written:
    """Return the report as it was, or written again when a run has moved on; files it no longer has are removed."""
    if state_of(collected) == before.state:
        return before
    after = write_pages(before.folder, collected, before.about)
    for path in before.files() - after.files():
        with suppress(OSError):
            path.unlink()
    return after


def state_of(collected: Collected) -> object:
    """Return what changes when a run begins, logs, checkpoints, dies or ends."""
    return [
        (str(run.directory), run.status, run.problem, *(touched(run.directory / name) for name in MOVING))
        for run in collected.runs
    ]


MOVING = ("result.json", "metrics.jsonl")


def touched(path: Path) -> tuple[int, int]:
    """Return size and time of change of a file; zeros when there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def summary(collected: Collected, built: Built) -> dict[str, float]:
    """Return the numbers of the report: runs by state, and claims by verdict."""
    verdicts = [claim.verdict for claim in built.claims]
    return {
        "runs": len(collected.runs),
        "finished": len(collected.with_status("done")),
        "corrupt": len(collected.with_status("corrupt")),
        "claims": len(verdicts),
        **{verdict.replace(" ", "_"): verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
    }
