"""Small files from elsewhere: bounded in size and depth, regular files only, plain data."""

from __future__ import annotations

import os

import pytest

from permlab.storage.files import TEMPORARY, read_json, remove_temporaries, replacing
from permlab.storage.plain import UnreadableError, read_json_file, read_yaml


def test_what_permlab_writes_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("task:\n  name: ntk\n  k: [1, 2]\nseed: 0\n")
    assert read_yaml(tmp_path / "a.yaml") == {"task": {"name": "ntk", "k": [1, 2]}, "seed": 0}
    (tmp_path / "a.json").write_text('{"a": [1, {"b": null}]}')
    assert read_json_file(tmp_path / "a.json") == {"a": [1, {"b": None}]}
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


BOMB = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "alias"),
        ("a: &a\n  b: *a\n", "alias"),
        ("[" * 5000, "deep"),
        ("- " * 3000 + "x", "deep"),
        ("a: !!python/object/apply:os.system [true]\n", "plain data"),
        ("a: [1\nb: 2", "line"),
        ("a: " + "x" * (1 << 20), "bytes"),
        ("? [a, b]\n: 1\n? {c: d}\n: 2", "plain data"),
    ],
)
def test_odd_yaml_is_one_line(tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UnreadableError, match=said) as caught:
        read_yaml(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\x00", '{"a":' * 500 + "1" + "}" * 500, "[1e999999999, -]"])
def test_odd_json_is_one_line(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UnreadableError, match=r"result\.json"):
        read_json_file(tmp_path / "result.json")
    assert read_json(tmp_path / "result.json") is None


def test_pipes_and_devices_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        with pytest.raises(UnreadableError, match="no regular file"):
            read_json_file(tmp_path / name)


def test_what_killed_writers_left_is_removed(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "x.json") as temporary:
        assert TEMPORARY.fullmatch(temporary.name)
        raise RuntimeError
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".state-1.pt.0123abcd.tmp").write_text("half")
    (tmp_path / ".model.0123abcd.tmp").mkdir()
    (tmp_path / ".model.0123abcd.tmp" / "config.json").write_text("{")
    (tmp_path / ".own.tmp").write_text("of the user")
    assert remove_temporaries(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".own.tmp", "checkpoints"]
