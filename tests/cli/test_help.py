"""`permlab ... --help` from the dataclasses, and the words that people try first."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import pytest

from permlab import registry, shipped
from permlab.config import ReportSettings, RunConfig, TrackerConfig
from permlab.hardware import HardwareConfig
from permlab.keys import keys_of, text_of
from permlab.models.causal_lm_config import CausalLMConfig
from permlab.text.table import ORDERS

HEAVY = ("torch", "numpy", "transformers", "hydra", "omegaconf", "wandb", "datasets")


def schemas() -> Iterator[tuple[str, str, type]]:
    """Yield (what `--help` is asked, group, dataclass) of every option and section."""
    for group in ("task", "model", "dataset"):
        kinds = shipped.kinds(group)
        for name, kind in kinds.items():
            yield f"{group}={name}", group, registry.schemas(group)[kind]
    for name in shipped.names("hardware"):
        yield f"hardware={name}", "hardware", HardwareConfig
    for name in shipped.names("tracker"):
        yield f"tracker={name}", "tracker", TrackerConfig
    yield "run", "run", RunConfig
    yield "report", "report", ReportSettings


def fields_of(schema: type, prefix: str) -> Iterator[str]:
    """Yield the paths of all fields, found another way than the code that prints them."""
    instance = schema()
    for name, value in vars(instance).items():
        if dataclasses.is_dataclass(value):
            yield from fields_of(type(value), f"{prefix}.{name}")
        elif "." in prefix or name not in ("name", "kind"):
            yield f"{prefix}.{name}"


@pytest.mark.parametrize(("asked", "group", "schema"), list(schemas()), ids=lambda value: str(value))
def test_every_key_is_documented_and_shown_in_80_columns(permlab, asked, group, schema):
    done = permlab(asked, "--help")
    assert done.returncode == 0 and done.stderr == ""
    shown = [line.split("=")[0].strip() for line in done.stdout.splitlines() if line[:2] == "  " and line[2:3] != " "]
    assert set(fields_of(schema, group)) <= set(shown)
    assert [key.path for key in keys_of(schema, group) if len(key.about) < 8] == []
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


def test_a_key_shows_type_default_choices_and_its_line(permlab):
    lines = permlab("task=spt", "--help").stdout.splitlines()
    at = lines.index("  task.order=spt  (text)")
    assert lines[at + 1].strip() == "In which order a text is read."
    assert " ".join(lines[at + 2 : at + 4]).split() == f"one of {', '.join(ORDERS)} (permlab ls orders)".split()
    assert "  task.segmenter.name=auto  (text)" in lines and "  task.train.epochs=null  (number, or null)" in lines


def test_the_defaults_are_those_of_the_option(permlab):
    shown = permlab("model=llama-1b", "dataset=jsonl", "hardware=gpu", "--help").stdout
    for line in ("model.path=meta-llama/Llama-3.2-1B", "model.gradient_checkpointing=true", "hardware.device=cuda"):
        assert f"  {line}  (" in shown
    assert "dataset.protected_field=null" in shown and "dataset.forward_test_path=null" in shown


def test_help_on_verbs_sections_and_experiments(permlab):
    assert "run.skip_finished=false" in permlab("run", "--help").stdout
    assert "report.runs=[]" in permlab("task=report", "--help").stdout
    assert "experiment=ntk/scaling" in permlab("help", "experiment=ntk/scaling").stdout
    assert permlab("cp", "--help").stdout.startswith("permlab cp")
    assert permlab("model", "--help").stdout.count("llama-1b") == 1
    general = permlab("--help").stdout
    assert max(map(len, general.splitlines())) <= 80 and "trackers (4)" in general


def test_several_trackers_have_the_keys_of_each_once(permlab):
    both = permlab("tracker=[wandb,tensorboard]", "--help")
    assert both.returncode == 0, both.stderr
    lines = both.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("tracker=")] == [
        "tracker=wandb", "tracker=tensorboard",
    ]  # fmt: skip
    assert sum(line.startswith("  tracker.mode=") for line in lines) == 1
    assert any(line.startswith("  tracker.mirrors={wandb: true, tensorboard: true}") for line in lines)
    wrong = permlab("tracker=[wandb,tensorbord]", "--help")
    assert wrong.returncode == 2 and "did you mean 'tensorboard'" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task=sptt", "--help"], ["task=sptt is not known", "did you mean 'spt'"]),
        (["runn", "--help"], ["did you mean 'run'"]),
        (["task.order=spt", "--help"], ["name the task"]),
        (["task", "spt"], ["write task=spt"]),
        (["model"], ["write model=NAME", "llama-1b"]),
        (["~task.order"], ["~task.order", "leave it out for its default"]),
        (["hydra/sweeper=nevergrad"], ["hydra/sweeper=nevergrad", "-m KEY=A,B"]),
        (["-m", "hydra/sweeper=optun"], ["hydra/sweeper=optun is not there; did you mean 'optuna'?"]),
        (["hydra/help=mine"], ["hydra/help=mine", "--hydra-help"]),
        (["--shell-completion"], ["install", "--hydra-help"]),
        (["--shell-completion", "install=ksh"], ["ksh", "--hydra-help"]),
        (["--config-dir"], ["--config-dir DIR"]),
        (["--config-dir", "nowhere", "ls"], ["nowhere", "no such folder"]),
        (["ls", "methodes"], ["did you mean 'methods'"]),
    ],
)
def test_what_people_try_is_answered_in_one_line(permlab, arguments, words):
    done = permlab(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    for leaked in ("Traceback", "SptConfig", "DictConfig", "hydra=sweeper"):
        assert leaked not in done.stderr


def test_a_group_and_its_plural_list_the_same(permlab):
    for group, listed in (("tracker", "trackers"), ("model", "models"), ("experiment", "experiments")):
        assert permlab("ls", group).stdout == permlab("ls", listed).stdout != ""
    both = permlab("ls", "tasks", "models")
    assert both.returncode == 0 and "resnet20" in both.stdout and "lora_lego" in both.stdout


def test_options_of_a_folder_are_listed_and_their_damage_has_their_path(permlab, tmp_path):
    (tmp_path / "my/experiment/spt").mkdir(parents=True)
    mine = tmp_path / "my/experiment/spt/mine.yaml"
    mine.write_text("# @package _global_\ndefaults:\n  - override /task: spt\nexperiment:\n  claim: ours\n")
    first, after = permlab("--config-dir", "my", "ls", "experiments"), permlab("ls", "experiments", "--config-dir=my")
    assert first.stdout == after.stdout and "spt/mine" in first.stdout
    assert "spt/mine" not in permlab("ls", "experiments").stdout  # the folder is forgotten after its command
    assert "ours" in permlab("--config-dir", "my", "experiment=spt/mine", "--help").stdout
    mine.write_text("experiment:\n  claim: [a\n  b: c\n")
    broken = permlab("--config-dir", "my", "ls", "experiments")
    assert broken.returncode == 2 and "my/experiment/spt/mine.yaml: " in broken.stderr and "line 3" in broken.stderr
    assert broken.stderr.count("\n") == 1 and "conf/" not in broken.stderr


def test_help_loads_nothing_heavy():
    lines = [["task=merge", "model=llama-1b", "dataset=hub", "--help"], ["run", "--help"], ["ls", "trackers"]]
    code = (
        f"import sys\nfrom permlab.cli import main\nfor arguments in {lines!r}:\n"
        "    try:\n        main(arguments)\n    except SystemExit as end:\n        assert end.code == 0\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


def test_values_are_written_as_on_the_command_line():
    assert [text_of(value) for value in (None, True, 0.25, [1, None], {"a": [False]}, "x")] == [
        "null", "true", "0.25", "[1,null]", "{a: [false]}", "x",
    ]  # fmt: skip
    types = {key.path: key.type for key in keys_of(CausalLMConfig, "model")}
    assert types["model.path"] == "text, or null" and types["model.lora.target_modules"] == "list of text"
