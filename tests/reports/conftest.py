"""One report for the tests of the page: all tasks, every kind of broken run, and markup in every text of one run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from synthetic import benchmark, write_run

from permlab.reports.build import build
from permlab.reports.collect import collect
from permlab.reports.html import to_html
from permlab.reports.markdown import to_markdown
from permlab.reports.writer import Output

EVIL = "<script>window.evil = 1</script>"
NUMBERS = (10.0, 9.5, 100.0, -1.0, 0.001, 1e-30, 12345.678)


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The report, its page and Markdown, its folder; `evil` is the markup, `numbers` a column to sort."""
    folder = tmp_path_factory.mktemp("sample")
    root = folder / "outputs"
    benchmark().make_runs(root, 100)
    about = {
        "name": f"mine/{EVIL}",
        "claim": EVIL,
        "source": EVIL,
        "checks": [f"mean(a) > 0 -- {EVIL}"],
        "scale": "toy",
    }
    sorting = [{"name": f"row {n}", "value": v, "gap": None if n == 2 else n} for n, v in enumerate(NUMBERS)]
    tables = {"t": [{EVIL: EVIL, "n": 1}], "sorting": sorting}
    write_run(root, "mine", 0, {"a": 1.0, EVIL: 2.0}, {"key": EVIL}, about, tables=tables, name=EVIL)
    write_run(root, "mine", 1, {}, {"key": EVIL}, about, status="failed", error=EVIL)
    own = {"name": "mine/own", "claim": EVIL, "claim_by": "permlab", "checks": ["mean(a) > 2 -- too much"]}
    write_run(root, "mine", 0, {"a": 1.0}, experiment=own)
    out = Output(folder / "report", own_figures=6)
    report = build(collect([str(root)]), out, f"Report {EVIL}").report
    page, text = to_html(report), to_markdown(report, out.folder)
    (out.folder / "index.html").write_text(page, encoding="utf-8")
    return SimpleNamespace(report=report, page=page, text=text, folder=out.folder, evil=EVIL, numbers=NUMBERS)
