"""`permlab show` prints what is composed, `permlab cp` starts an option of one's own."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from permlab import shipped


def test_show_through_a_pipe_is_yaml_with_what_changed(permlab):
    done = permlab("show", "experiment=spt/people", "seed=3", "task.train.epochs=5", "model=gpt2")
    assert done.returncode == 0 and done.stderr == ""
    found = yaml.safe_load(done.stdout)
    assert (found["seed"], found["task"]["train"]["epochs"], found["model"]["name"]) == (3, 5.0, "gpt2")
    assert found["experiment"]["sweep"]["seed"] == "0,1,2"
    changed = re.findall(r"^\s*(\w+): .*  # was ", done.stdout, re.MULTILINE)
    assert {"seed", "epochs", "name", "path"} <= set(changed) and "order" not in changed
    assert "epochs: 5.0  # was 80.0" in done.stdout
    assert "# was" not in permlab("show", "experiment=spt/people").stdout


def test_show_needs_no_value_that_a_run_needs(permlab):
    assert "path: null" in permlab("show", "dataset=jsonl").stdout
    wrong = permlab("show", "spt")
    assert wrong.returncode == 2 and "is not KEY=VALUE" in wrong.stderr
    assert "did you mean 'task.order'" in permlab("show", "task.ordr=1").stderr


def test_show_on_a_terminal_is_a_tree(permlab, monkeypatch, capsys):
    from rich.console import Console

    from permlab.runs import console
    from permlab.verbs.show import printed, tree

    monkeypatch.setattr(console, "_console", Console(force_terminal=True, width=80))
    printed("permlab show seed=3", tree(["seed=3"]))
    out = capsys.readouterr().out
    assert "└── " in out and "\x1b[33mseed: 3" in out and "(was 0)" in out


EVERY = [(group, name) for group in shipped.GROUPS for name in shipped.names(group)]
FEW = [(group, shipped.names(group)[-1]) for group in ("task", "experiment")]


@pytest.mark.parametrize("options", [FEW, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["few", "every"])
def test_every_option_can_be_copied_and_the_next_command_works(permlab, tmp_path, options):
    for group, name in options:
        target = f"my folder/{group}/{name}-mine.yaml"
        done = permlab("cp", group, name, target)
        assert done.returncode == 0, done.stderr
        command = shlex.split(done.stdout.splitlines()[-1])
        assert command[:3] == ["permlab", "--config-dir", "my folder"]
        # What is copied composes; whether its data or network is there is no question of the copy.
        shown = permlab(*command[1:3], "show", f"{group}={name}-mine")
        # A launcher of a package that is not here is known, and refused with the extra that brings it.
        assert shown.returncode == 0 or "is not installed: pip install" in shown.stderr, shown.stderr
        if group == "experiment":
            assert yaml.safe_load(shown.stdout)["experiment"]["name"] == f"{name}-mine"


@pytest.mark.slow
def test_a_copied_experiment_sweeps_as_the_original(permlab, tmp_path):
    permlab("cp", "experiment", "spt/people", "my/experiment/spt/mine.yaml")
    done = permlab("--config-dir", "my", "experiment=spt/mine", "run.dry_run=true")
    assert done.returncode == 0 and "15 jobs over task.order, seed" in done.stdout
    mine = permlab("cp", "task", "ntk", "my/task/mine.yaml").stdout.splitlines()[-1].split()
    assert permlab(*mine[1:]).returncode == 0
    assert "spt/mine" in permlab("--config-dir", "my", "ls", "experiments").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["usage: permlab cp"]),
        (["taks", "spt", "my/task/a.yaml"], ["did you mean 'task'"]),
        (["task", "sptt", "my/task/a.yaml"], ["did you mean 'spt'"]),
        (["task", "spt", "a.yaml"], ["folder named task", "permlab cp task spt my/task/"]),
        (["task", "spt", "my/task/a"], ["must be a .yaml file"]),
        (["task", "spt", "my/task/spt.yaml"], ["task=spt is there already"]),
        (["model", "gpt2", "taken/model/a.yaml"], ["taken/model/a.yaml exists and is not overwritten"]),
        (["model", "gpt2", "file/model/a.yaml"], ["cannot be written"]),
    ],
)
def test_cp_refuses(permlab, tmp_path, arguments, words):
    (tmp_path / "taken/model").mkdir(parents=True)
    (tmp_path / "taken/model/a.yaml").write_text("mine: 1\n")
    (tmp_path / "file").write_text("")
    done = permlab("cp", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert (tmp_path / "taken/model/a.yaml").read_text() == "mine: 1\n"
    assert not (tmp_path / "my").exists()
