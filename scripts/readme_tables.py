"""Keep the pages' tables of methods and experiments as the code has them: `python scripts/readme_tables.py --write`.

A table stands between `<!-- methods: TABLE -->` (a name of `registry.TABLES`), `<!-- experiments -->` (what the targets
of make run) or `<!-- claims: paper -->` (and `permlab`: who makes the claims), and `<!-- end -->`. Without `--write`
nothing is changed and the exit code says whether all of them are up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from permlab import shipped
from permlab.listing import markdown, method_rows
from permlab.tables import Row

sys.path.insert(0, str(Path(__file__).resolve().parent))
import reproduce  # the module beside this one

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- (methods|claims|experiments)(?:: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="change the pages")
    write, old = parser.parse_args().write, []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if before != after:
            old.append(page.name)
            if write:
                page.write_text(after, encoding="utf-8")
    if old and not write:
        sys.exit(f"tables of {', '.join(old)} are not those of the code: python scripts/readme_tables.py --write")


def pages() -> list[Path]:
    """Return README.md and the documents it links to."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """Return the page with every marked table made anew."""
    return MARKED.sub(lambda m: f"{m[1]}{table(m[2], m[3])}\n{m[4]}", text)


def table(kind: str, name: str) -> str:
    """Return the Markdown of a table of methods, of claims, or of the experiments that targets run."""
    makers = {"methods": method_rows, "claims": claim_rows, "experiments": lambda _: target_rows()}
    return markdown(makers[kind](name))


def claim_rows(by: str) -> list[Row]:
    """Return one row per experiment whose claim is a paper's, or ours."""
    found = shipped.experiments()
    return [
        {"name": name, "claim": about["claim"], "source": about["source"]}
        for name, about in found.items()
        if about["claim_by"] == by
    ]


def target_rows() -> list[Row]:
    """Return one row per target of make: its experiments with their minutes, and what needs a folder of data."""
    tasks = dict.fromkeys(name.partition("/")[0] for name in reproduce.all_experiments())
    rows: list[Row] = []
    for target in ("quick", *tasks):
        steps = reproduce.steps_of(target)
        free, fed = [s for s in steps if not s.needs], [s for s in steps if s.needs]
        short = [(s.experiment if target == "quick" else s.experiment.partition("/")[2], s.minutes) for s in free]
        with_data = [(s.experiment.partition("/")[2] + f" ({', '.join(s.needs)})", s.minutes) for s in fed]
        rows.append(
            {
                "target": f"`make reproduce-{target}`",
                "experiments, minutes on 2 cores": said(short),
                "together": f"{sum(s.minutes for s in free):.3g}",
                "with `DATA=folder` also": said(with_data),
            }
        )
    return rows


def said(items: list[tuple[str, float]]) -> str:
    """Return `width 1.5, scaling 0.2`."""
    return ", ".join(f"{name} {minutes:g}" for name, minutes in items)


if __name__ == "__main__":
    main()
