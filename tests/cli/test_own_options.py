"""Folders of options that are passed on between people: they choose what is computed, and nothing else."""

from __future__ import annotations

import os

import pytest

DATASET = "defaults:\n  - /schema/dataset/people@_here_\n  - _self_\npeople: 9\n"
GROWING = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
GLOBAL = "# @package _global_\n"


def option(tmp_path, name, text):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return path


LOGGING = "hydra:\n  job_logging:\n    version: 1\n    handlers: {f: {class: logging.FileHandler, filename: OUT}}\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("experiment/spt/x.yaml", GLOBAL + LOGGING, ["hydra.job_logging"]),
        ("experiment/spt/x.yaml", GLOBAL + "hydra.run.dir: OUT\n", ["hydra.run"]),
        ("experiment/spt/x.yaml", GLOBAL + "hydra:\n  callbacks: {a: {_target_: x.Y}}\n", ["_target_"]),
        ("experiment/spt/x.yaml", GLOBAL + "hydra:\n  output_subdir: OUT\n", ["hydra.output_subdir"]),
        ("experiment/spt/x.yaml", GLOBAL + "hydra: {launcher: {_target_: os.system}}\n", ["_target_", "os.system"]),
        ("experiment/spt/x.yaml", "# @package hydra.job_logging\nroot: {}\n", ["hydra.job_logging"]),
        ("experiment/spt/x.yaml", "# @package hydra\nrun: {dir: OUT}\n", ["package hydra"]),
        ("experiment/spt/x.yaml", GLOBAL + "defaults:\n  - override /hydra/job_logging: x\n", ["hydra/job_logging"]),
        ("experiment/spt/x.yaml", GLOBAL + "defaults:\n  - /notes/y@hydra.run\n", ["hydra.run"]),
        ("experiment/spt/x.yaml", GLOBAL + "nonsense: 1\n", ["unknown key 'nonsense'"]),
        ("hydra/job_logging/x.yaml", "version: 1\n", ["hydra.job_logging"]),
        ("dataset/x.yaml", DATASET + "name: ${oc.env:HOME}\n", ["oc.env", "api_key_env"]),
        ("dataset/x.yaml", DATASET + "name: ${${run.name}:HOME}\n", ["is not resolved"]),
        ("dataset/x.yaml", DATASET + "name: ${oc.decode:${oc.env:HOME}}\n", ["oc.decode"]),
        ("dataset/x.yaml", "a: [1\nb: 2", ["line 2"]),
        ("dataset/x.yaml", "a: 1\n\tb: 2", ["line"]),
        ("dataset/x.yaml", "- 1", ["not a mapping"]),
        ("dataset/x.yaml", "1: 2", ["not a mapping"]),
        ("dataset/x.yaml", "hello", ["not a mapping"]),
        ("dataset/x.yaml", b"\xff\xfe\x00a: 1", ["no YAML"]),
        ("dataset/x.yaml", "[" * 100_000, ["deep"]),
        ("dataset/x.yaml", "a: !!python/object/apply:os.system [true]", ["no YAML of plain data"]),
        ("dataset/x.yaml", "a: &a [*a]", ["alias"]),
        ("dataset/x.yaml", GROWING, ["alias"]),
        ("dataset/x.yaml", "defaults: 3\n", ["defaults is not a list"]),
        ("dataset/x.yaml", "defaults:\n  - {a: 1, b: 2}\n", ["defaults has an entry"]),
        ("dataset/x.yaml", "defaults:\n  - nothing\n", ["nothing"]),
        ("dataset/x.yaml", "name: 3\nkind: [people]\n", ["kind"]),
    ],
)  # fmt: skip
def test_what_options_may_not_hold_is_one_line_with_their_file(permlab, tmp_path, monkeypatch, name, text, words):
    monkeypatch.setenv("OUT", "written")
    path = option(tmp_path, name, text.replace("OUT", str(tmp_path / "out")) if isinstance(text, str) else text)
    group, _, rest = name.partition("/")
    chosen = f"{group}={rest.removesuffix('.yaml')}" if group != "hydra" else "seed=1"
    done = permlab(chosen, "tracker=none", "--config-dir", "mine")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") <= 2 and max(map(len, done.stderr.splitlines())) <= 300
    assert str(path.relative_to(tmp_path)) in done.stderr or "kind" in words or "nothing" in words, done.stderr
    for word in words:
        assert word in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine"]


def test_a_chain_of_defaults_does_not_reach_hydra(permlab, tmp_path):
    option(tmp_path, "notes/y.yaml", "verbose: true\n")
    option(tmp_path, "experiment/spt/x.yaml", "# @package hydra.launcher\ndefaults:\n  - /notes/y@_global_.hydra\n")
    done = permlab("experiment=spt/x", "run.dry_run=true", "--config-dir", "mine")
    assert done.returncode == 2 and "hydra" in done.stderr, done.stderr
    option(tmp_path, "experiment/spt/x.yaml", GLOBAL + "defaults:\n  - /notes/z\n")
    option(tmp_path, "notes/z.yaml", "# @package _global_\nhydra: {verbose: true}\n")
    done = permlab("experiment=spt/x", "run.dry_run=true", "--config-dir", "mine")
    assert done.returncode == 2 and "notes/z.yaml: it sets hydra.verbose" in done.stderr, done.stderr


def test_what_came_through_all_the_same_is_found_in_the_result():
    from hydra import compose

    from permlab.compose import check_hydra_keys, conf_search_path
    from permlab.config import register_schemas
    from permlab.errors import UserError

    register_schemas()

    def hydra(*overrides):
        return compose("config", overrides=list(overrides), return_hydra_config=True).hydra

    with conf_search_path():
        check_hydra_keys(hydra("seed=1", "+hydra.launcher.x=1"), hydra(), ["mine"])
        with pytest.raises(UserError, match=r"mine set hydra\.verbose"):
            check_hydra_keys(hydra("hydra.verbose=true"), hydra(), ["mine"])


def test_pipes_devices_and_folders_that_cannot_be_read(permlab, tmp_path):
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    os.mkfifo(tmp_path / "mine" / "dataset" / "pipe.yaml")
    assert "no regular file" in permlab("seed=1", "--config-dir", "mine").stderr
    (tmp_path / "mine" / "dataset" / "pipe.yaml").unlink()
    (tmp_path / "mine" / "dataset" / "zero.yaml").symlink_to("/dev/zero")
    assert "no regular file" in permlab("seed=1", "--config-dir", "mine").stderr
    assert "no such folder" in permlab("seed=1", "--config-dir", "nowhere").stderr


def test_files_that_are_no_options_are_not_read(permlab, tmp_path):
    """`--config-dir .` in a folder that holds other YAML."""
    option(tmp_path, "dataset/x.yaml", DATASET)
    option(tmp_path, "mkdocs.yml", "a: !!python/name:x\n")
    option(tmp_path, "docs/y.yaml", "- 1\n")
    done = permlab("dataset=x", "run.dry_run=true", "--config-dir", "mine")
    assert done.returncode == 0, done.stderr


def test_launchers_and_sweepers_aliases_and_keys_of_permlab_may_be_set(permlab, tmp_path):
    text = (
        "# @package _global_\ndefaults:\n  - override /task: ntk\nhydra:\n"
        "  launcher: {_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher}\n"
        "seed: &s 3\nrun: {name: 'x-${seed}', checkpoint_seconds: *s}\n"
    )
    option(tmp_path, "experiment/ntk/x.yaml", text)
    done = permlab("experiment=ntk/x", "run.dry_run=true", "--config-dir", "mine")
    assert done.returncode == 0, done.stderr
    assert any(line.split() == ["seed", "3"] for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [["run.name='${oc.env:HOME}'"], ["++seed=${oc.decode:1}"], ["-m", "seed=0,1", "run.name=${oc.env:HOME}"],
     ["run.name='\\${oc.env:HOME}'"]],
)  # fmt: skip
def test_the_environment_does_not_land_in_a_configuration(permlab, tmp_path, arguments):
    done = permlab("task=ntk", "tracker=none", *arguments)
    assert done.returncode == 2 and str(tmp_path / "home") not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_resolvers_of_hydra_go_on_working(permlab):
    done = permlab("task=ntk", "run.dir='out-${now:%Y}-${seed}'", "run.dry_run=true")
    assert done.returncode == 0 and "out-20" in done.stdout, done.stderr


@pytest.mark.parametrize("override", ["run.dir=größe", "run.name=日本", "run.dir=a(b", "run.name=a=b,[c"])
def test_words_that_hydra_cannot_read_are_to_be_quoted(permlab, override):
    key, _, value = override.partition("=")
    done = permlab("task=ntk", override, "run.dry_run=true")
    if done.returncode:
        assert done.returncode == 2 and f"'{key}=\"{value}\"'" in done.stderr
        again = permlab("task=ntk", f'{key}="{value}"', "run.dry_run=true")
        assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    "key", ["hydra.job_logging=5", "hydra.run.dir=[1]", "hydra.callbacks=3", "hydra/job_logging=nn"]
)
def test_odd_keys_of_hydra_on_the_command_line_are_one_line(permlab, key):
    done = permlab("task=ntk", "run.dry_run=false", "tracker=none", key, "task.kk=1")
    assert done.returncode == 2 and done.stderr.count("\n") <= 2
