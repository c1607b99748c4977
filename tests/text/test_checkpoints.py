"""A damaged checkpoint of the Trainer is passed over for the one before."""

from __future__ import annotations

import pytest

from permlab.text.training import COMPLETE, contents, latest_checkpoint


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


DAMAGE = {
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
