"""The installed command: verbs, help, exit codes, did-you-mean, dry run, start-up without heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from permlab import registry
from permlab.listing import GROUPS, listed, markdown
from permlab.registry import Row, Table

HEAVY = ("torch", "transformers", "peft", "datasets", "wandb", "pandas", "numpy", "matplotlib")


def test_version_and_help(permlab):
    assert permlab("--version").stdout.startswith("permlab 0.")
    shown = permlab("--help")
    assert shown.returncode == 0
    for word in ("task=spt", "permlab resume RUN_DIR", "permlab ls", "examples:"):
        assert word in shown.stdout
    assert permlab("-h").stdout == shown.stdout


def test_start_up_imports_nothing_heavy(tmp_path):
    """What a user waits for before anything is checked must not load a deep learning stack."""
    lines = [["--help"], ["--version"], ["ls"], ["task.ordr=1"], ["run.dry_run=1x"], ["-m", "seed=0,x"], ["task=sptt"]]
    lines.append(["task=merge", "task.models=[./x,./y]"])
    code = (
        f"import sys\nfrom permlab.cli import main\nfor arguments in {lines!r}:\n"
        "    try:\n        main(arguments)\n    except SystemExit:\n        pass\n"
        f"    print('LOADED', *arguments, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert "./x does not exist" in done.stderr
    assert len(loaded) == len(lines) and all(line.endswith(" []") for line in loaded), loaded


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task=sptt"], ["task=sptt", "did you mean 'spt'"]),
        (["model=lama-1b"], ["did you mean 'llama-1b'"]),
        (["dataset=peple"], ["did you mean 'people'"]),
        (["hardware=gpuu"], ["did you mean 'gpu'"]),
        (["experiment=spt/symbolc"], ["did you mean 'spt/symbolic'"]),
        (["task.ordr=spt"], ["unknown key 'task.ordr'", "did you mean 'task.order'"]),
        (["task.train.lerning_rate=1"], ["did you mean 'task.train.learning_rate'"]),
        (["+task.typo=1"], ["unknown key 'task.typo'"]),
        (["++run.dirr=x"], ["unknown key 'run.dirr'", "did you mean"]),
        (["+modle=gpt2"], ["unknown key 'modle'", "did you mean 'model'"]),
        (["modle=gpt2"], ["unknown key 'modle'", "did you mean 'model'"]),
        (["task.order=sptt"], ["task.order=sptt", "did you mean 'spt'"]),
        (["task.segmenter.name=oracl"], ["did you mean 'oracle'"]),
        (["task.train.epochs=many"], ["task.train.epochs", "many"]),
        (["seed=1.5"], ["seed", "1.5"]),
        (["seed=0,1"], ["add -m"]),
        (["-m", "seed=0,1", "hydra/launcher=submitit_slrm"], ["is not installed", "did you mean 'submitit_slurm'"]),
        (["task.train.epochs=-1"], ["task.train.epochs=-1", "above 0"]),
        (["model=none"], ["model=none does not fit task=spt", "tiny-llama"]),
        (["model=local"], ["model.path=DIR"]),
        (["dataset=berglund"], ["dataset.path"]),
        (["dataset=berglund", "dataset.path=nowhere"], ["nowhere", "no such folder"]),
        (["resme", "x"], ["did you mean 'resume'"]),
        (["spt"], ["write task=spt"]),
        (["ls", "modls"], ["did you mean 'models'"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["resume", "nowhere"], ["nowhere is not a run directory"]),
        (["-m", "task.order=spt,orignal"], ["did you mean 'original'"]),
        (["-m", "run.dir=x", "seed=0,1"], ["run.dir is the same"]),
        (["task.p_original=0.9"], ["must sum to 1"]),
    ],
)
def test_user_mistakes_are_one_line_and_leave_nothing(permlab, tmp_path, arguments, words):
    done = permlab(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") <= 2
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_unknown_keys_in_yaml_files_are_refused(permlab, tmp_path):
    folder = tmp_path / "mine" / "dataset"
    folder.mkdir(parents=True)
    (folder / "typo.yaml").write_text("defaults:\n  - /schema/dataset/people@_here_\n  - _self_\npeeple: 3\n")
    done = permlab("dataset=typo", "--config-dir", "mine")
    assert done.returncode == 2
    assert "peeple" in done.stderr
    (folder / "loose.yaml").write_text("name: loose\nkind: people\npeeple: 3\n")
    done = permlab("dataset=loose", "--config-dir", "mine")
    assert done.returncode == 2
    assert "unknown key 'dataset.peeple'" in done.stderr
    experiments = tmp_path / "mine" / "experiment" / "spt"
    experiments.mkdir(parents=True)
    (experiments / "bad.yaml").write_text("# @package _global_\ntask:\n  ordr: spt\n")
    done = permlab("experiment=spt/bad", "--config-dir", "mine")
    assert done.returncode == 2
    assert "ordr" in done.stderr
    (experiments / "rules.yaml").write_text("# @package _global_\nexperiment:\n  name: a\n  checks:\n    - rule: 3\n")
    done = permlab("experiment=spt/rules", "--config-dir", "mine", "run.dry_run=true")
    assert done.returncode == 2
    assert "experiment.checks" in done.stderr and "no plain value" in done.stderr and "Traceback" not in done.stderr


def test_own_options_from_a_config_dir_work(permlab, tmp_path):
    folder = tmp_path / "mine" / "dataset"
    folder.mkdir(parents=True)
    (folder / "few.yaml").write_text("defaults:\n  - /schema/dataset/people@_here_\n  - _self_\npeople: 9\n")
    done = permlab("dataset=few", "--config-dir", "mine", "run.dry_run=true")
    assert done.returncode == 0, done.stderr


def test_the_working_directory_is_never_read(permlab, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("nonsense: true\n")
    assert permlab("run.dry_run=true").returncode == 0


def test_dry_run_prints_the_plan_and_writes_nothing(permlab, tmp_path):
    done = permlab("task=spt", "model=llama-1b", "run.dry_run=true")
    assert done.returncode == 2 and "not ready: meta-llama/Llama-3.2-1B" in done.stdout
    for word in ("meta-llama/Llama-3.2-1B (hub)", "order", "spt", "fingerprint"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_sweep_checks_every_job(permlab):
    done = permlab("-m", "seed=0,1,2", "task.order=original,spt", "run.dry_run=true")
    assert "6 jobs over seed, task.order" in done.stdout


def test_ls_lists_every_group(permlab):
    shown = permlab("ls").stdout
    for word in ("spt", "llama-1b", "berglund", "gpu", "spt/symbolic"):
        assert word in shown
    assert "tiny-llama" in permlab("ls", "models").stdout


def test_ls_takes_several_groups_and_names_the_one_that_is_none(permlab):
    shown = permlab("ls", "trackers", "models").stdout
    assert shown.index("trackers") < shown.index("wandb") < shown.index("models") < shown.index("tiny-llama")
    wrong = permlab("ls", "tasks", "modls")
    assert wrong.returncode == 2
    assert "'modls' is not a group; did you mean 'models'" in wrong.stderr and not wrong.stdout


def test_ls_methods_shows_every_row_of_every_table_within_80_columns(permlab):
    """Through a pipe too: the rows are prose."""
    tables = [name for name in registry.TABLES if name not in GROUPS]
    shown = permlab("ls", "methods").stdout
    assert max(map(len, shown.splitlines()), default=0) <= 80
    for table in tables:
        alone = permlab("ls", table).stdout
        assert alone.strip() in shown
        for row in registry.table(table).values():
            assert any(line.startswith(f"{row.name} ") for line in alone.splitlines()), row.name
            assert all(word in alone for word in f"{row.about} {row.paper}".split()), row.name


def test_rows_of_a_table_become_lines_for_people_and_for_the_page(monkeypatch):
    rows = [
        Row("mean", "the mean", paper="2209.04836", label="mean of weights", needs=("data", "ancestor")),
        Row("sum", "a | b"),
    ]
    monkeypatch.setitem(registry.TABLES, "ways", "made_up:WAYS")
    monkeypatch.setattr(registry, "load", lambda target: Table("way", rows))
    ((title, lines),) = listed(["ways"])
    assert title == "ways (way)" and list(lines[0]) == ["name", "label", "paper", "needs", "what it does"]
    assert markdown(lines).splitlines()[2:] == [
        "| `mean` | mean of weights | [2209.04836](https://arxiv.org/abs/2209.04836) | data, ancestor | the mean |",
        "| `sum` |  |  |  | a \\| b |",
    ]
    assert listed(["methods"])[-1] == (title, lines)


@pytest.mark.slow
def test_failure_of_a_task_is_exit_1_with_the_traceback_in_the_log(permlab, tmp_path):
    """A corpus the tokenizer cannot train on is not a user mistake that validation knows."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": "wide"}))
    done = permlab("model=local", "model.path=broken", "model.weights=scratch", "model.tokenizer=word", "hardware=cpu")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stdout + done.stderr
    for log in Path(tmp_path).glob("outputs/spt/*/run.log"):
        assert "Traceback" in log.read_text()


def test_letters_that_the_terminal_lacks_are_shown_escaped(tmp_path, environment):
    """Help and messages have letters outside of ASCII."""
    code = (
        "from permlab.cli import main\n"
        "for arguments, code in ((['größe', chr(0xdcff)], 2), (['ls', 'methods'], 0)):\n"
        "    try:\n        main(arguments)\n    except SystemExit as end:\n        assert int(end.code or 0) == code\n"
    )
    extra = {**environment, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=extra, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr.startswith("permlab: 'gr\\xf6\\xdfe' is neither"), done.stderr
    assert "Traceback" not in done.stderr and done.stdout.count("\n") > 100
