"""A sweep that was a search has its best jobs, its history and the importance of keys in the report."""

from __future__ import annotations

import json
from types import SimpleNamespace

from permlab.reports import search
from permlab.reports.collection import Collection
from permlab.reports.document import Figure, Table
from permlab.reports.writer import Output
from permlab.runs.search import ASKED


def collection(folder, stated):
    run = SimpleNamespace(config={"run": {"sweep": stated}}, directory=folder / "spt" / "one")
    return Collection("spt", "sweep STAMP", "Sweep", [run], [])


def test_a_search_is_shown_also_where_it_was_moved(tmp_path):
    sweep = tmp_path / "sweeps" / "STAMP"
    sweep.mkdir(parents=True)
    (sweep / ASKED).write_text(json.dumps(["task=spt", "run.objective=-loss"]))
    (sweep / "search.csv").write_text("job,task.rate,loss\n0,0.1,2.0\n2,0.3,1.0\n3,0.2,1.5\n")
    (sweep / "importance.csv").write_text("key,importance\ntask.rate,1.0\n")
    out = Output(tmp_path / "report", own_figures=4)
    for stated in (str(sweep), "/elsewhere/sweeps/STAMP"):
        table, history, importance = search.blocks(collection(tmp_path, stated), out)
        assert isinstance(table, Table) and [row["job"] for row in table.rows] == [2, 3, 0], "the least loss first"
        assert isinstance(history, Figure) and isinstance(importance, Figure) and history.png.is_file()
        assert "loss" in history.caption


def test_other_sweeps_and_broken_files_show_nothing(tmp_path):
    out = Output(tmp_path / "report", own_figures=4)
    sweep = tmp_path / "sweeps" / "STAMP"
    assert search.blocks(collection(tmp_path, str(sweep)), out) == []
    sweep.mkdir(parents=True)
    (sweep / ASKED).write_text(json.dumps(["run.objective=-loss"]))
    assert search.blocks(collection(tmp_path, str(sweep)), out) == []
    (sweep / "search.csv").write_text("job,other\n0,1\n")
    assert search.blocks(collection(tmp_path, str(sweep)), out) == []
