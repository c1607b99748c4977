"""Reports know no task: each task brings its own section, a task without one is shown as its runs left it."""

from __future__ import annotations

import ast
import sys
from types import ModuleType

import pytest
from synthetic import ROOT, write_run

from permlab import registry
from permlab.reports.aggregate import inner_seeds
from permlab.reports.collect import collect
from permlab.reports.document import Text
from permlab.reports.task_section import task_section
from permlab.reports.writer import Output
from permlab.tasks.table import TaskRow


def test_reports_import_no_task():
    for path in (ROOT / "permlab" / "reports").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("permlab.tasks") for name in names), path.name


@pytest.mark.parametrize("task", [name for name in registry.table("tasks") if name != "report"])
def test_every_task_of_ours_has_a_section_in_its_own_package(task):
    module = registry.section(task)
    assert module.__name__ == f"permlab.tasks.{task}.section"
    assert module.TITLE and module.QUESTION.count("?") == 1 and callable(module.blocks)


def test_a_task_without_a_section_gets_none_and_a_row_can_name_one(monkeypatch, tmp_path):
    assert registry.section("report") is None and registry.section("a task of a later version") is None
    task, section = ModuleType("elsewhere"), ModuleType("elsewhere_shown")
    section.TITLE, section.QUESTION = "Counting", "How many?"
    section.blocks = lambda collection, out: [Text(f"{len(collection.runs)} counted")]
    section.repeats = lambda settings: settings["draws"]
    monkeypatch.setitem(sys.modules, "elsewhere", task)
    monkeypatch.setitem(sys.modules, "elsewhere_shown", section)
    row = TaskRow("counting", "how many?", target="elsewhere:Config", section="elsewhere_shown")
    monkeypatch.setattr(registry, "plugin_rows", lambda: [row])
    write_run(tmp_path / "runs", "counting", 0, {"n": 1.0}, {"draws": 7})
    runs = collect([str(tmp_path / "runs")], "outputs").runs
    assert inner_seeds(runs[0]) == 7
    shown = task_section("counting", runs, Output(tmp_path))
    assert shown.title == "Counting" and shown.blocks == [Text("How many?")]
    assert Text("1 counted") in shown.children[0].blocks


@pytest.mark.parametrize(
    ("task", "settings", "seeds"),
    [
        ("inverse_permutation", {"mode": "scratch_sweep", "seeds": 3}, 3),
        ("inverse_permutation", {"mode": "construct", "seeds": 3}, 1),
        ("merge", {"study": "pleas", "pairs": 5}, 5),
        ("merge", {"study": "merge", "pairs": 5, "models": ["a", "b"]}, 1),
        ("lora_lego", {"study": "prune", "repeats": 3}, 3),
        ("lora_lego", {"study": "identities", "repeats": 3}, 1),
        ("lora_lego", {"study": "merge", "repeats": 3, "adapters": ["a"]}, 1),
        ("merge", {"study": "merge", "pairs": "many"}, 1),
        ("spt", {"seeds": 3}, 1),
        ("unknown", {"seeds": 3}, 1),
    ],
)
def test_seeds_inside_one_run_are_what_the_task_says(tmp_path, task, settings, seeds):
    write_run(tmp_path, task, 0, {"s": 0.5}, settings)
    assert inner_seeds(collect([str(tmp_path)], "outputs").runs[0]) == seeds
