"""Files that are larger inside than outside, that never end, or that are no text: one line, little memory."""

from __future__ import annotations

import gzip
import json
import os
import struct
import time
import zlib

import pytest
from PIL import Image

from permlab.adapters.completions import read_questions
from permlab.data.hub import load_hub_images
from permlab.data.images.imagefolder import load_image_folder
from permlab.data.images.mnist import read_idx
from permlab.data.texts.jsonl import read_jsonl
from permlab.data.texts.rows import LONGEST_LINE, read_entities
from permlab.errors import UserError
from permlab.storage.plain import UnreadableError, open_regular
from permlab.text.segment_llm import AnswerCache


def idx(path, *shape, data=b""):
    content = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + data
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_an_idx_header_is_held_against_the_size_of_the_file(tmp_path, name):
    with pytest.raises(UserError, match=r"images.*names 1,000,000,000,000 bytes, the file has"):
        read_idx(idx(tmp_path / name, 10**6, 1000, 1000, data=b"x" * 50))


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = struct.pack(">HBB3I", 0, 8, 3, 100, 10, 10)
    bomb = packer.compress(head) + b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    (tmp_path / "images.gz").write_bytes(bomb)
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: asked.append(size) or read(self, size))
    with pytest.raises(UserError, match="holds more than the 10,000 bytes"):
        read_idx(tmp_path / "images.gz")
    assert -1 not in asked
    assert max(asked) <= 10_001


def test_a_whole_idx_file_is_read(tmp_path):
    for name in ("a", "a.gz"):
        assert read_idx(idx(tmp_path / name, 2, 3, data=b"abcdef")).tolist() == [[97, 98, 99], [100, 101, 102]]


@pytest.mark.parametrize("read", [read_jsonl, read_entities, read_questions])
def test_a_line_without_end_is_refused(tmp_path, read):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte of zeros that takes no room
    with pytest.raises(UserError, match=rf"rows.jsonl:1 is longer than {LONGEST_LINE:,}"):
        read(path)


@pytest.mark.parametrize("read", [read_jsonl, read_entities, read_questions, lambda path: AnswerCache(path, "m")])
def test_a_pipe_and_a_device_are_no_files(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(UserError, match=f"{name} is no regular file"):
            read(tmp_path / name)
        with pytest.raises(UnreadableError):
            open_regular(tmp_path / name)


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a \\ud800 b"}\n{"text": "\\ud83d\\ude00 is one"}\n')
    assert [each.text for each in read_jsonl(path, on_bad_row="skip").examples] == ["\U0001f600 is one"]
    with pytest.raises(UserError, match=r"rows.jsonl:1: half of a surrogate pair"):
        read_jsonl(path)


@pytest.mark.parametrize("line", ["[1, 2]", '{"prompt": "x"}', '{"prompt": [], "completion": {}}', "[" * 90_000])
def test_questions_without_prompt_and_completion_name_file_and_line(tmp_path, line):
    path = tmp_path / "questions.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=r"questions.jsonl:1"):
        read_questions(path)


def test_answers_that_are_no_text_are_asked_again(tmp_path):
    path = tmp_path / "cache.jsonl"
    cache = AnswerCache(None, "m")
    rows = [{"key": cache.key(text), "answer": answer} for text, answer in (("a", ["x"]), ("b", "\ud800"), ("c", "C"))]
    path.write_text("\n".join(map(json.dumps, rows)))
    cache = AnswerCache(path, "m")
    assert [cache.get(text) for text in "abc"] == [None, None, "C"]


@pytest.fixture
def pictures(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for at in range(4):
            Image.new("RGB", (8, 8), (at, at, at)).save(tmp_path / name / f"{at}.png")
    return tmp_path


def png(width, height):
    """A picture of one colour, in as many bytes as its header and a few rows take."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_picture_that_unpacks_to_gigabytes_is_refused(pictures, side):
    (pictures / "a" / "0.png").write_bytes(png(side, side))
    with pytest.raises(UserError, match=r"0\.png cannot be read as an image"):
        load_image_folder(pictures, size=8)


def test_a_pipe_among_the_pictures_is_refused(pictures):
    os.mkfifo(pictures / "b" / "9.png")
    with pytest.raises(UserError, match=r"9\.png"):
        load_image_folder(pictures, size=8)


@pytest.mark.parametrize("label", [10**12, -1, 1.5, None])
def test_class_numbers_that_are_none_are_refused(monkeypatch, label):
    import datasets

    from permlab.data import hub

    rows = datasets.Dataset.from_dict({"image": ["x", "y"], "label": [label, label]})
    monkeypatch.setattr(hub, "load_rows", lambda *_: rows)
    monkeypatch.setattr(hub, "own_test_split", lambda *_: None)
    with pytest.raises(UserError, match="class number"):
        load_hub_images("somewhere")


def test_zeros_behind_a_gzipped_file_are_not_read_to_their_end(tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 5) + b"01234"))
    with path.open("r+b") as file:
        file.truncate(2 * 2**30)
    started = time.process_time()
    with pytest.raises(UserError, match="for the 5 that its header names"):
        read_idx(path)
    assert time.process_time() - started < 1
