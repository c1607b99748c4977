"""`datasets` in: local folders are read for real; an unreachable hub is one line with the remedy."""

from __future__ import annotations

import os
import subprocess
import sys

import datasets
import pytest

from permlab.data.hub import read_hub
from permlab.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_saved_dataset_and_dictionary(tmp_path):
    data = datasets.Dataset.from_dict({"body": ["one", "two ", "three"], "label": [1, 2, 3]})
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "both"))
    corpus = read_hub(str(tmp_path / "one"), text_column="body", limit=2)
    assert [example.text for example in corpus.examples] == ["one", "two"]
    assert corpus.examples[1].source.endswith("one[train]:2")
    assert len(read_hub(str(tmp_path / "both"), split="test", text_column="body").examples) == 1
    with pytest.raises(UserError, match=r"no split 'tset'; did you mean 'test'\? \(splits: train, test\)"):
        read_hub(str(tmp_path / "both"), split="tset", text_column="body")
    with pytest.raises(UserError, match=r"no column 'boddy'; did you mean 'body'"):
        read_hub(str(tmp_path / "one"), text_column="boddy")


def test_folder_of_data_files_and_split_slices(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": null}\n')
    assert [example.text for example in read_hub(str(folder), split="train[:2]").examples] == ["a", "b"]
    with pytest.raises(UserError, match=r"files\[train\]:3: 'text' empty or not a string"):
        read_hub(str(folder))
    assert len(read_hub(str(folder), on_bad_row="skip").rejected) == 1
    with pytest.raises(UserError, match="check split"):
        read_hub(str(folder), split="validation")


def test_missing_paths_are_not_taken_for_hub_ids(tmp_path):
    for path in (str(tmp_path / "none"), "./none", "a/b/c"):
        with pytest.raises(UserError, match="does not exist"):
            read_hub(path)


@pytest.mark.slow
def test_offline_hub_is_one_line(tmp_path):
    code = (
        "from permlab.data.hub import read_hub\nfrom permlab.errors import UserError\n"
        "try:\n    read_hub('some-owner/some-data')\nexcept UserError as error:\n    print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "some-owner/some-data cannot be fetched: the hub is not reachable" in done.stdout
    assert done.stdout.count("\n") == 1
