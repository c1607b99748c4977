"""Folders and weight files: whole or not there, and refused in one line when they are torn."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from permlab.errors import UserError
from permlab.storage.files import read_object
from permlab.storage.folders import replacing_folder
from permlab.storage.hashes import sha256_of
from permlab.storage.hub import is_hub_id, trouble
from permlab.storage.shards import read_weights
from permlab.storage.tensors import DamagedFile, OpenTensors, SafetensorsStream, read_header


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "m") as part:
        (part / "half").write_text("x")
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []
    with replacing_folder(tmp_path / "deep" / "m") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("x")
        assert not (tmp_path / "deep" / "m").exists()
    assert (tmp_path / "deep" / "m" / "inner" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m"]


def test_a_folder_is_replaced_only_if_told(tmp_path):
    out = tmp_path / "m"
    out.mkdir()
    with replacing_folder(out) as part:  # an empty one is taken over
        (part / "old").write_text("keep")
    with pytest.raises(UserError, match="exists already and is not overwritten"), replacing_folder(out):
        pass
    with pytest.raises(RuntimeError), replacing_folder(out, replace=True):
        raise RuntimeError("killed")
    assert (out / "old").read_text() == "keep"
    with replacing_folder(out, replace=True) as part:
        (part / "new").write_text("y")
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="not overwritten"), replacing_folder(tmp_path / "file", replace=True):
        pass


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}


DAMAGED = {
    "empty": b"",
    "short": b"abc",
    "text": b"no safetensors file at all, but longer than eight bytes",
    "absurd length": struct.pack("<Q", 1 << 60) + b"x" * 100,
    "a list": with_header([]),
    "deep": with_header(b"[" * 100_000 + b"]" * 100_000),
    "unknown type": with_header(entry(dtype="F99"), b"0000"),
    "type is a number": with_header(entry(dtype=4), b"0000"),
    "negative shape": with_header(entry(shape=[-1]), b"0000"),
    "shape and bytes disagree": with_header(entry(shape=[3]), b"0000"),
    "overflow": with_header(entry(shape=[1 << 40, 1 << 40]), b"0000"),
    "torn": with_header(entry(), b"00"),
    "longer than stated": with_header(entry(), b"000000"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_headers_are_one_line(case, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGED[case])
    with pytest.raises(DamagedFile, match=r"model.safetensors is truncated or no safetensors file") as refusal:
        read_header(path)
    assert "\n" not in str(refusal.value)


def test_headers_and_tensors_and_hashes(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"w": torch.arange(6.0).reshape(2, 3).bfloat16(), "steps": torch.tensor([3])}
    save_file(tensors, path)
    header = read_header(path)
    assert {name: (info.dtype, info.shape, info.size) for name, info in header.items()} == {
        "w": ("BF16", (2, 3), 6),
        "steps": ("I64", (1,), 1),
    }
    opened = OpenTensors(header)
    assert all(torch.equal(opened[name], value) for name, value in tensors.items())
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert sha256_of([path, path]) == done.stdout.split()[0]
    assert read_weights(tmp_path, "model.safetensors") == header
    assert read_weights(tmp_path, "other.safetensors") is None


@pytest.mark.parametrize(
    "index, line",
    [
        ("{", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"w": "../a.safetensors"}}', "points to ../a.safetensors, which is no"),
        ('{"weight_map": {"w": 3}}', "points to 3, which is no"),
        ('{"weight_map": {"w": "a.bin"}}', "points to a.bin, which is no"),
        ('{"weight_map": {"w": "gone.safetensors"}}', "names gone.safetensors, which is missing"),
        ('{"weight_map": {"v": "a.safetensors"}}', "has no tensor v, which the index says it has"),
    ],
)
def test_bad_indices_are_one_line(index, line, tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=line) as refusal:
        read_weights(tmp_path, "model.safetensors")
    assert "\n" not in str(refusal.value)


def test_objects_of_the_user(tmp_path):
    (tmp_path / "c.json").write_text('{"a": 1}')
    assert read_object(tmp_path / "c.json") == {"a": 1}
    for text in ("[]", "{", "[" * 100_000):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(UserError, match="is not a JSON object"):
            read_object(tmp_path / "c.json")


def test_hub_ids_are_what_cannot_be_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_id("owner/name") and is_hub_id("owner/name-1.5_b")
    for path in ("runs/new", "./owner/name", "owner", "a/b/c", "owner/model.bin", "owner/model.safetensors", "/a/b"):
        assert not is_hub_id(path), path


def test_headers_need_no_torch():
    code = (
        "import sys, permlab.storage.folders, permlab.storage.hub, permlab.storage.shards, permlab.storage.tensors\n"
        "import permlab.models.checkpoints\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stream_with_holes_is_refused(tmp_path):
    shapes = {"a": ((2, 3), torch.float32), "b": ((4,), torch.bfloat16)}
    with (
        pytest.raises(ValueError, match="1 tensors were never written, a among them"),
        SafetensorsStream(tmp_path / "x.safetensors", shapes) as stream,
    ):
        stream.put("b", torch.ones(4))
    with SafetensorsStream(tmp_path / "y.safetensors", shapes) as stream:
        stream.put("b", torch.arange(4.0))
        stream.put("a", torch.arange(6.0).reshape(2, 3))
    found = load_file(tmp_path / "y.safetensors")
    assert torch.equal(found["a"], torch.arange(6.0).reshape(2, 3)) and found["b"].dtype == torch.bfloat16


def test_what_kept_a_download_away_has_one_name_for_all_libraries():
    import datasets
    import httpx
    from huggingface_hub import errors

    found = {
        "gated": [errors.GatedRepoError],
        "missing": [errors.RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError],
        "unreachable": [errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.ConnectError, TimeoutError],
        "": [errors.RevisionNotFoundError, ValueError],
    }
    for word, kinds in found.items():
        assert {trouble(kind.__new__(kind)) for kind in kinds} == {word}
