"""The reproduction targets: every experiment has its place and its rules; a failure stops nothing but the exit code."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from permlab import cli, shipped
from permlab.adapters.benchmark.sentences import FILES
from permlab.compose import plan_jobs
from permlab.errors import UserError
from permlab.rules import parse_rule

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "reproduce.py"
EXPERIMENTS = shipped.names("experiment")


@pytest.fixture(scope="module")
def driver():
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproduce"]


def test_every_experiment_is_reproduced_by_the_target_of_its_task_or_by_the_quick_one(driver):
    tasks = list(dict.fromkeys(name.partition("/")[0] for name in EXPERIMENTS))
    full = {task: {step.experiment for step in driver.steps_of(task)} for task in tasks}
    assert all(name.startswith(f"{task}/") for task, names in full.items() for name in names)
    quick = {step.experiment for step in driver.steps_of("quick")}
    assert set().union(*full.values()) | quick == set(EXPERIMENTS)
    assert {name.partition("/")[0] for name in quick} == set(tasks), "a section of the report would be empty"
    assert sorted(map(str, driver.steps_of("all"))) == sorted(str(s) for task in tasks for s in driver.steps_of(task))


def test_every_experiment_says_who_claims_it_and_ls_keeps_two_tables():
    from permlab.listing import listed

    by = {n: shipped.experiment(n).get("claim_by") for n in EXPERIMENTS}
    assert {name for name, said in by.items() if said not in ("paper", "permlab")} == set()
    found = [[row["name"] for row in rows] for _, rows in listed(["experiments"])]
    assert found == [[name for name in EXPERIMENTS if by[name] == who] for who in ("paper", "permlab")]


def test_experiments_run_in_the_order_of_their_files_one_place_each(driver):
    every = driver.all_experiments()
    places = [(name.partition("/")[0], about.reproduce.order) for name, about in every.items()]
    assert len(set(places)) == len(places) and all(order > 0 for _, order in places)
    assert [name for name in every if name.startswith("ntk/")][:2] == ["ntk/figure1_left", "ntk/figure1_right"]


def test_targets_are_tasks_experiments_patterns_and_the_spellings_of_make(driver):
    named = lambda target: [step.experiment for step in driver.steps_of(target)]  # noqa: E731
    assert named("merge/pleas*") == [f"merge/pleas{more}" for more in ("", "_domains", "_resnet", "_ten")]
    assert named("lora_lego/prune") == named("lego-prune") == named("lora-lego-prune") == ["lora_lego/prune"]
    assert named("probe") == named("inverse_permutation")
    with pytest.raises(UserError, match="did you mean 'merge/rebasin'"):
        driver.steps_of("merge/rebasn")


def test_runs_beside_the_file_have_their_keys_data_and_minutes(driver):
    (plain,) = driver.steps_of("merge/rebasin")
    assert plain.overrides == () and plain.needs == () and plain.minutes == 4
    vgg, resnet = driver.steps_of("merge/lmc_cifar")
    assert vgg.keys(Path("D"), [])[2:] == ["dataset.path=D/cifar10"]
    more = ["model.name=resnet20", "model.width=1", "task.train.epochs=6"]
    assert resnet.keys(Path("D"), [])[2:] == ["dataset.path=D/cifar10", *more]
    assert vgg.minutes == resnet.minutes == 35
    assert [step.minutes for step in driver.steps_of("spt/berglund")] == [45, 9, 9]
    assert resnet.keys(Path("D"), ["dataset.path=E"])[2:] == [*more, "dataset.path=E"]
    assert resnet.missing(Path("nowhere")) == ["cifar10"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["experiment.reproduce.sets=[ful]"], "did you mean 'full'"),
        (["experiment.reproduce.sets=[]"], "must not be empty"),
        (["experiment.reproduce.runs=[{keys:{a:'{data}/x'}}]"], "name the folder in data"),
        (["experiment.reproduce.runs=[{data:[x]}]"], "no key reads it"),
        (["experiment.reproduce.runs=[{minutes:0}]"], "above 0"),
        (["experiment.reproduce.runs=[{minute:1}]"], "minute"),
        (["experiment.reproduce.odrer=1"], "did you mean 'experiment.reproduce.order'"),
    ],
)
def test_what_could_not_be_reproduced_is_refused(keys, words):
    with pytest.raises(UserError, match=re.escape(words)):
        plan_jobs(["experiment=ntk/figure1_left", *keys], multirun=False)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_what_it_checks(driver, name):
    section = driver.all_experiments()[name]
    assert section.name == name
    assert all(len(text or "") > 10 for text in (section.claim, section.source, section.acceptance))
    assert section.minutes and section.minutes > 0
    assert section.checks and all(parse_rule(text).metrics for text in section.checks)
    assert section.scale == "toy" or name.partition("/")[0] in ("ntk", "inverse_permutation")


COMPOSED = [name if name.endswith("/quick") else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS]
"""The others are slow in sum; tests/tasks/test_experiment_metrics.py runs them all."""


@pytest.mark.parametrize("name", COMPOSED)
def test_every_experiment_composes(driver, name, tmp_path):
    step = driver.steps_of(name)[0]
    for folder in step.needs:
        (tmp_path / folder).mkdir()
        for file in {"text_classification": FILES, "general_text": ["a.txt", "wikitext2_test.txt"]}.get(folder, ()):
            (tmp_path / folder / file).touch()
    sweep = driver.all_experiments()[name].sweep
    first = [f"{key}={values.split(',')[0]}" for key, values in sweep.items() if not set("[(") & set(values)]
    job = plan_jobs([*step.keys(tmp_path, []), *first], multirun=False).jobs[0]
    found, about = job.config.experiment, driver.all_experiments()[name]
    assert (found.name, found.claim, found.checks) == (name, about.claim, about.checks)


def test_ls_experiments_is_readable_through_a_pipe_and_at_80_and_120_columns(permlab):
    lines = permlab("ls", "experiments").stdout.splitlines()
    assert not any(line.endswith(" ") for line in lines)
    for name in EXPERIMENTS:
        section = yaml.safe_load((shipped.conf_dir() / "experiment" / f"{name}.yaml").read_text())["experiment"]
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.split()[1] == f"{section['minutes']:g}"
        assert section["claim"].rstrip() in line
    for width in (80, 120):
        narrow = permlab("ls", "experiments", COLUMNS=str(width)).stdout
        assert max(map(len, narrow.splitlines())) <= width
        assert all(any(line.startswith(name) for line in narrow.splitlines()) for name in EXPERIMENTS)
        claim = section["claim"]
        assert all(word in narrow for word in claim.split())


@pytest.mark.slow
def test_list_names_experiments_minutes_and_missing_data(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "lego", "--list", "--data", str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"lora_lego/default +7 min", done.stdout)
    assert f"left out: no text_classification under {tmp_path}" in done.stdout


def results(folder: Path, task: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"outputs/{task}/*/result.json"))]


def in_this_process(*arguments: str) -> int:
    """What the driver's `permlab` does, without a process of its own for each run."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_a_failing_experiment_is_reported_and_the_others_run_once(driver, tmp_path, monkeypatch, capfd):
    """Two jobs, a failure, data that is not there, then the report; a second call runs only what failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "permlab", in_this_process)
    small = ("task.k=[5,10,20]", "task.replicates=0", "hardware.threads=1")
    steps = (
        driver.Step("spt/berglund", ("dataset.path={data}/reversal_curse",), ("reversal_curse",)),
        driver.Step("ntk/figure1_left", ("task.k=[1]",)),
        driver.Step("ntk/scaling", (*small, "task.fit_from=5")),
    )
    assert driver.reproduce(steps, tmp_path / "data") == 1
    shown = capfd.readouterr()
    assert "spt/berglund: left out; it needs reversal_curse under" in shown.out
    assert "task.k=1 is out of range" in shown.err
    assert "[2/3] ntk/figure1_left: FAILED" in shown.out and "[3/3] ntk/scaling: done" in shown.out
    assert [r["status"] for r in results(tmp_path, "ntk")] == ["done", "done"]
    (page,) = tmp_path.glob("outputs/report/*/index.html")
    assert "ntk/scaling" in page.read_text()
    assert driver.reproduce(steps[2:], tmp_path / "data") == 0
    assert len(results(tmp_path, "ntk")) == 2
    assert "skipped" in capfd.readouterr().out
    assert len(list(tmp_path.glob("outputs/report/*/index.html"))) == 2


def test_only_the_newest_finished_run_of_every_job_is_reported(driver, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (job,) = plan_jobs(["experiment=ntk/figure1_left", "run.root=outputs"], multirun=False).jobs
    same = {"fingerprint": job.config.fingerprint(), "experiment": "ntk/figure1_left"}
    written = {
        "a": same | {"status": "done"},
        "b": same | {"status": "done"},
        "c": same | {"status": "failed"},
        "d": same | {"status": "done", "experiment": None},
        "e": same | {"status": "done", "fingerprint": "other"},
    }
    assert driver.newest(job) is None
    for name, result in written.items():
        folder = tmp_path / "outputs" / "ntk" / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
    assert driver.newest(job) == (Path("outputs/ntk/b"), "done")
    assert driver.directories([job, job]) == [Path("outputs/ntk/b")]


def test_runs_have_a_process_of_their_own_and_its_exit_code_counts(driver, capfd):
    assert driver.permlab("--version") == 0 and "permlab 0." in capfd.readouterr().out
    assert driver.permlab("ls", "nothing") == 2


def test_an_interrupted_run_is_continued_and_a_stop_ends_everything(driver, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (job,) = plan_jobs(["experiment=ntk/figure1_left", "tracker=none"], multirun=False).jobs
    folder = tmp_path / "outputs" / "ntk" / "stopped"
    folder.mkdir(parents=True)
    result = {"fingerprint": job.config.fingerprint(), "experiment": "ntk/figure1_left", "status": "interrupted"}
    (folder / "result.json").write_text(json.dumps(result))
    calls = []

    def command(*arguments: str) -> int:
        calls.append(arguments)
        return 130

    monkeypatch.setattr(driver, "permlab", command)
    steps = (driver.Step("ntk/figure1_left"), driver.Step("ntk/scaling"))
    assert driver.reproduce(steps, tmp_path) == 130
    assert calls == [("resume", "outputs/ntk/stopped")]
    assert "the same command goes on from here" in capsys.readouterr().out


def test_make_passes_every_target_to_the_driver():
    text = (ROOT / "Makefile").read_text()
    assert re.search(r'^reproduce-%: setup ## .+\n\t\$\(REPRODUCE\) "\$\*"$', text, re.MULTILINE)
    assert re.search(r'^reproduce: setup ## .+\n.+\n\t\$\(REPRODUCE\) "\$\(EXPERIMENT\)"$', text, re.MULTILINE)
    assert not [name for name in EXPERIMENTS if f"experiment={name}" in text], "experiments stand in conf/ alone"


def test_the_pages_name_experiments_that_exist_and_their_tables_are_those_of_the_code(driver, monkeypatch):
    import readme_tables as tables

    marked = 0
    for page in tables.pages():
        text = page.read_text()
        named = re.findall(r"make reproduce-([\w-]+)|EXPERIMENT='?([^'\s`]+)|experiment=([\w/]+)", text)
        own = {"fixed_points/sizes", "TASK/NAME", "spt/mine", "NAME"}  # of pages that show how to make one
        for target in {next(filter(None, names)) for names in named} - own:
            assert driver.steps_of(target), (page.name, target)
        assert tables.filled(text) == text, f"{page.name}: python scripts/readme_tables.py --write"
        changed = text.replace("figure1_left 0.2", "figure1_left 9").replace("| name | claim |", "| name | word |")
        assert tables.filled(changed) == text
        marked += "<!-- experiments -->" in text
    assert marked == 1
