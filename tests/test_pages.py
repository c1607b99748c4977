"""What the pages print works: links lead somewhere, commands are understood, snippets and the tour run."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme_tables
import reproduce
from overlay import ROOT

from permlab import shipped
from permlab.compose import parse, plan_jobs
from permlab.errors import UserError
from permlab.runs.sweep_values import count_values

PAGES = {str(page.relative_to(ROOT)): page for page in [*readme_tables.pages(), ROOT / "CHANGELOG.md"]}
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
VERBS = ("ls", "resume", "report", "show", "cp", "push", "fetch")
# What a reader replaces: a refusal that names one of these says that the rest of the line was understood.
PLACEHOLDERS = re.compile(
    r"DIR|BASE|\bA\b|\bB\b|path/A|DATA|FILE|FOLDER|REPO|facts|questions|texts\.jsonl|a\.|b\.|folder"
    r"|cache|pip install|GPU|reach"
)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(FENCE, "", text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", PAGES)
def test_no_link_of_a_page_is_dead(name):
    page = PAGES[name]
    text = page.read_text()
    for target in LINK.findall(re.sub(FENCE, "", text)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{name}: {target}"


def test_a_newcomer_reads_the_first_page_in_ten_minutes():
    text = PAGES["README.md"].read_text()
    assert len(text.splitlines()) <= 300
    documents = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert documents <= set(LINK.findall(text)), "README links to every document"


def commands() -> list[tuple[str, str]]:
    """Every line `permlab ...` of the pages with its page; continued lines are one."""
    found = []
    for name, page in PAGES.items():
        for block in FENCE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                match = re.match(r"(?:\$ )?(?:docker run .* permlab )?(permlab(?: .*)?)$", line.strip())
                if match:
                    found.append((name, match[1]))
    return found


@pytest.mark.slow
def test_the_commands_of_the_pages_are_understood(tmp_path, monkeypatch):
    from permlab import registry

    monkeypatch.chdir(tmp_path)
    seen = 0
    for name, line in dict.fromkeys(commands()):
        words = shlex.split(line, comments=True)[1:]
        if "fixed_points" in line or any(word in VERBS or word.startswith("-") for word in words if word != "-m"):
            continue  # verbs have tests of their own; so has the example task
        if any("..." in word or "NAME" in word for word in words):
            continue
        try:
            plan_jobs([word for word in words if word != "-m"], "-m" in words)
        except UserError as error:
            assert PLACEHOLDERS.search(str(error)) and "unknown key" not in str(error), f"{name}: {line}: {error}"
        seen += 1
    assert seen > 25 and registry.table("tasks")


TIME = re.compile(r"(?:\b([\d.]+|one|two|three|four|five) )?\b((?<=\d )s|seconds?|minutes?|hours?)\b( a r\w+| each)?")
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
SECONDS = {"s": 1, "m": 60, "h": 3600}
BESIDE = (
    re.compile(r"^[^#\n]*(?:experiment=|EXPERIMENT='?|make reproduce-)([\w/*-]+)[^#\n]*#([^\n]*)$", re.MULTILINE),
    re.compile(r"`(?:experiment=|make reproduce-)?([\w/-]+)`,? ?\(?((?:[^)\n]|\n(?!\n)){1,200})\)"),
)
"""A command with its comment, and a name with what stands behind it or in the parentheses behind it."""


def told_times() -> Iterator[tuple[str, str, str]]:
    """Yield (page, experiment or target of make, what is said beside it) where a time is said."""
    experiments = {*shipped.names("experiment"), "quick", *shipped.names("task")}
    for name, page in PAGES.items():
        text = readme_tables.MARKED.sub("", page.read_text())
        for pattern in BESIDE:
            for subject, said in pattern.findall(text):
                if subject in experiments and TIME.search(said):
                    yield name, subject, said


def row_of(subject: str) -> tuple[float, int]:
    """Minutes of an experiment or target as `permlab ls experiments` has them, and how many jobs they are for."""
    if subject not in shipped.names("experiment"):
        return sum(step.minutes for step in reproduce.steps_of(subject) if not step.needs), 1
    about = shipped.experiment(subject)
    jobs = [count_values(override) for override in parse([f"{k}={v}" for k, v in (about.get("sweep") or {}).items()])]
    return float(about["minutes"]), math.prod(jobs)


def test_times_beside_experiments_are_those_of_their_rows():
    seen = 0
    for page, subject, said in told_times():
        minutes, jobs = row_of(subject)
        for number, unit, each in TIME.findall(said):
            told = f"{page}: {subject} takes {minutes:g} minutes, {jobs} jobs, and {said.strip()!r} stands beside it"
            if not number:  # "seconds"
                assert minutes < 1 if unit.startswith("s") else minutes >= 1, told
                continue
            seconds = float(NUMBERS.get(number, number)) * SECONDS[unit[0]]
            assert math.isclose(seconds * (jobs if each else 1), 60 * minutes, rel_tol=0.02), told
        seen += 1
    assert seen >= 5


def test_only_the_row_of_an_experiment_says_how_long_it_takes():
    for name in shipped.names("experiment"):
        said = shipped.describe("experiment", name).partition("   ")[2]
        assert not any(number for number, *_ in TIME.findall(said)), f"{name}: {said}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if PYTHON.search(PAGES[name].read_text())])
def test_every_snippet_runs_as_printed(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adapters_called_a_and_b(tmp_path)
    for snippet in PYTHON.findall(PAGES[name].read_text()):
        if "TaskRow(" not in snippet and "permlab task=" not in snippet:  # files of the example task: its own test
            exec(compile(snippet, name, "exec"), {"__name__": name})


def adapters_called_a_and_b(folder: Path) -> None:
    """Two adapter folders as PEFT writes them, for the snippets about "A" and "B"."""
    from permlab.adapters import random_adapter, write_adapter

    for seed, name in enumerate("AB"):
        write_adapter(folder / name, random_adapter(name, {"q_proj": (24, 24)}, rank=16, seed=seed))


@pytest.mark.slow
def test_the_tour_runs_and_prints_what_it_shows(capsys):
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            capsys.readouterr()
            exec(compile("".join(cell["source"]), "tour.ipynb", "exec"), names)
            shown = "".join(text for output in cell["outputs"] for text in output["text"])
            # Numbers may differ in the last digits from machine to machine; what is said about them may not.
            assert re.sub(r"[\d.]+", "", capsys.readouterr().out) == re.sub(r"[\d.]+", "", shown)
