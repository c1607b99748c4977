"""A damaged checkpoint of the Trainer is passed over for the one before."""

from __future__ import annotations

import os

import pytest

from permlab.text.training import COMPLETE, contents, latest_checkpoint, make_room


@pytest.fixture
def folder(tmp_path):
    for step in (20, 40, 100):
        path = tmp_path / f"checkpoint-{step}"
        (path / "inner").mkdir(parents=True)
        (path / "model.safetensors").write_bytes(bytes([step]) * 64)
        (path / "inner" / "state.json").write_text("{}")
        (path / COMPLETE).write_text(contents(path))
    (tmp_path / "checkpoint-120").mkdir()
    (tmp_path / "checkpoint-120" / "model.safetensors").write_bytes(b"torn")
    return tmp_path


def test_the_newest_whole_one_is_taken(folder):
    assert latest_checkpoint(folder).name == "checkpoint-100"


def replaced(path, make):
    """Put something else in the place of a file."""
    path.unlink()
    make(path)


DAMAGE = {
    "a pipe for a mark": lambda path: replaced(path / COMPLETE, os.mkfifo),
    "a link for a file": lambda path: replaced(
        path / "inner" / "state.json", lambda at: at.symlink_to("/etc/hostname")
    ),
    "a device for a file": lambda path: replaced(path / "model.safetensors", lambda at: at.symlink_to("/dev/zero")),
    "a flipped byte": lambda path: (path / "model.safetensors").write_bytes(bytes([100]) * 63 + b"x"),
    "cut short": lambda path: (path / "model.safetensors").write_bytes(bytes([100]) * 10),
    "a file gone": lambda path: (path / "inner" / "state.json").unlink(),
    "an empty mark": lambda path: (path / COMPLETE).write_text(""),
    "a foreign mark": lambda path: (path / COMPLETE).write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_passed_over(folder, how):
    DAMAGE[how](folder / "checkpoint-100")
    assert latest_checkpoint(folder).name == "checkpoint-40"
    DAMAGE["an empty mark"](folder / "checkpoint-40")
    DAMAGE["an empty mark"](folder / "checkpoint-20")
    assert latest_checkpoint(folder) is None


def test_a_folder_without_a_number_is_no_checkpoint(folder):
    for name in ("checkpoint-x", "checkpoint-", f"checkpoint-{'9' * 200}"):
        (folder / name).mkdir()
        (folder / name / COMPLETE).write_text("")
    assert latest_checkpoint(folder).name == "checkpoint-100"


def test_nothing_is_written_through_a_link_in_the_place_of_a_checkpoint(tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-8" / "config.json").symlink_to(outside)
    (tmp_path / "checkpoint-9").symlink_to(tmp_path / "elsewhere")
    for name in ("checkpoint-8", "checkpoint-9", "checkpoint-10"):
        make_room(tmp_path / name)
        assert not os.path.lexists(tmp_path / name)
    assert outside.read_text() == "mine"


def test_tied_weights_are_not_said_to_be_missing(caplog):
    """A resumed run said `missing keys ... lm_head.weight`, though the head is the embedding."""
    import logging
    from types import SimpleNamespace

    import torch

    from permlab.models import CausalLMConfig, load_causal_lm
    from permlab.text.training import OrderedTrainer

    model, _ = load_causal_lm(CausalLMConfig(), ["a text"], torch.float32, torch.device("cpu"), 0)
    trainer = object.__new__(OrderedTrainer)
    trainer.model = model
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        trainer._issue_warnings_after_load(SimpleNamespace(missing_keys=["lm_head.weight"], unexpected_keys=[]))
        assert "missing" not in caplog.text
        trainer._issue_warnings_after_load(SimpleNamespace(missing_keys=["model.norm.weight"], unexpected_keys=[]))
        assert "model.norm.weight" in caplog.text
