"""Run directories never collide, files are never half-written, results survive what is broken beside them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from permlab.errors import UserError
from permlab.runs import directory
from permlab.storage import files


def test_fifty_parallel_starts_give_fifty_directories(tmp_path):
    with ProcessPoolExecutor(8) as pool:
        made = list(pool.map(directory.create, [tmp_path / "spt"] * 50))
    assert len(set(made)) == 50
    assert sorted(made) == sorted((tmp_path / "spt").iterdir())


def test_equal_stamps_still_give_different_directories(tmp_path, monkeypatch):
    stamps = iter(["a", "a", "a", "b"])
    monkeypatch.setattr(directory, "stamp", lambda: next(stamps))
    assert directory.create(tmp_path).name == "a"
    assert directory.create(tmp_path).name == "b"


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="not empty"):
        directory.claim(tmp_path / "full")
    assert directory.claim(tmp_path / "new" / "deep").is_dir()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("{half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_json_holds_what_strict_readers_accept(tmp_path):
    import numpy as np

    files.write_json(
        tmp_path / "x.json", {"nan": float("nan"), "inf": float("inf"), "n": np.float32(0.5), "l": [1, None]}
    )
    assert json.loads((tmp_path / "x.json").read_text()) == {"nan": None, "inf": None, "n": 0.5, "l": [1, None]}


def test_broken_results_are_passed_over(tmp_path):
    for name, text in (("a", '{"status": "done", "fingerprint": "f"}'), ("b", "{half"), ("c", "[]")):
        (tmp_path / "spt" / name).mkdir(parents=True)
        (tmp_path / "spt" / name / "result.json").write_text(text)
    assert [path.name for path, _ in directory.results(tmp_path)] == ["a"]
    assert directory.finished_run(tmp_path, "spt", "f").name == "a"
    assert directory.finished_run(tmp_path, "spt", "g") is None
