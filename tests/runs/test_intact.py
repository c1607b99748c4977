"""A run directory that somebody changed is refused by `permlab resume` before anything in it is opened for writing."""

from __future__ import annotations

import os

import pytest

from permlab.errors import UserError
from permlab.merging.networks.saving import leaves
from permlab.runs.intact import check_intact


@pytest.fixture
def folder(tmp_path):
    """What a run that was stopped leaves."""
    for name in ("tables", "figures", "checkpoints"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "tables" / "recall.csv").write_text("a")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    check_intact(tmp_path / "run")  # a torn last line is what a kill leaves
    return tmp_path / "run"


def test_a_pipe_in_the_place_of_the_log_does_not_hang(folder):
    os.mkfifo(folder / "run.log")
    with pytest.raises(UserError, match=r"run\.log is not a file"):
        check_intact(folder)


def test_a_link_is_not_written_through(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (folder / "result.json").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UserError, match=r"result\.json is not a file"):
        check_intact(folder)


def test_folders_in_the_place_of_files_and_the_reverse(folder):
    (folder / "figures" / "recall.png").mkdir()
    with pytest.raises(UserError, match=r"recall\.png is not a file"):
        check_intact(folder)
    (folder / "figures" / "recall.png").rmdir()
    (folder / "artifacts").write_text("x")
    with pytest.raises(UserError, match="artifacts is not a folder"):
        check_intact(folder)


@pytest.mark.parametrize("line", ["[1]", "5", "[" * 5000, "{", '{"loss": ' + "9" * 400 + "}"])
def test_metrics_that_a_run_does_not_write(folder, line):
    (folder / "metrics.jsonl").write_text(f"{line}\n{{}}\n")
    with pytest.raises(UserError, match=r"cannot be resumed: metrics\.jsonl"):
        check_intact(folder)


def test_a_merge_publishes_no_file_from_outside_of_its_model_folder(tmp_path):
    model = tmp_path / "hub" / "snapshots" / "0a1b"
    blobs = tmp_path / "hub" / "blobs"
    for place in (model, blobs):
        place.mkdir(parents=True)
    (blobs / "ff").write_text("{}")
    (tmp_path / "secret.json").write_text("{}")
    (model / "own.json").write_text("{}")
    (model / "cached.json").symlink_to("../../blobs/ff")
    (model / "linked.json").symlink_to("own.json")
    (model / "out.json").symlink_to(tmp_path / "secret.json")
    assert [leaves(model / f"{name}.json") for name in ("own", "cached", "linked", "out")] == [False] * 3 + [True]
