from __future__ import annotations

import gzip
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from permlab.data.hub import load_hub_images
from permlab.data.images import load_digits_images, load_image_folder, load_mnist, read_idx
from permlab.errors import UserError


def write_idx(path, array):
    raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def test_digits_are_split_once_and_for_all():
    one, two = load_digits_images(), load_digits_images()
    assert one.shape == (1, 8, 8) and one.classes == 10
    assert len(one.x_train) + len(one.x_test) == 1797
    assert torch.equal(one.x_test, two.x_test) and not torch.equal(one.x_test, load_digits_images(seed=1).x_test)
    assert abs(float(one.x_train.mean())) < 1e-5 and float(one.x_train.std()) == pytest.approx(1, abs=1e-4)


def test_subset_and_share():
    data = load_digits_images()
    half = data.subset(range(5))
    assert set(half.y_train.tolist()) == set(range(5)) and half.classes == 10
    first, second = data.share(0, 0.5), data.share(0.5, 1)
    assert len(first.x_train) + len(second.x_train) == len(data.x_train)
    with pytest.raises(UserError):
        data.share(0.5, 0.5)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folders(tmp_path, suffix):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 6, 6)), np.arange(40) % 4
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", labels)
    assert np.array_equal(read_idx(tmp_path / f"train-images-idx3-ubyte{suffix}"), images)
    one = load_mnist(tmp_path)
    assert (len(one.x_train), len(one.x_test), one.classes) == (32, 8, 4) and "only the train half" in one.note
    write_idx(tmp_path / f"t10k-images.idx3-ubyte{suffix}", images[:10])
    write_idx(tmp_path / f"t10k-labels.idx1-ubyte{suffix}", labels[:10])
    both = load_mnist(tmp_path)
    assert (len(both.x_train), len(both.x_test)) == (40, 10) and both.y_test.tolist() == labels[:10].tolist()


@pytest.mark.slow
def test_mnist_test_digits(shared_data):
    data = load_mnist(shared_data("mnist"))
    # The folder has the 10,000 test digits, which are then split, or the training digits as well.
    assert data.shape == (1, 28, 28) and (len(data.x_train), len(data.x_test)) in ((8000, 2000), (60000, 10000))
    assert data.classes == 10 and torch.isfinite(data.x_train).all()


def test_broken_idx_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        load_mnist(tmp_path / "missing")
    with pytest.raises(UserError, match="no pair of IDX files"):
        load_mnist(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(3))
    for content in (b"", b"\x00\x00\x08\x03\x00\x00\x00\x09", b"PK\x03\x04" * 9):
        (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(UserError, match="not a complete IDX file"):
            load_mnist(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((4, 2, 2)))
    with pytest.raises(UserError, match="do not belong together"):
        load_mnist(tmp_path)


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9, 3), value, dtype=np.uint8)).save(path)


def test_image_folders(tmp_path):
    for label, value in (("cat", 10), ("dog", 200)):
        for i in range(5):
            picture(tmp_path / "flat" / label / f"{i}.png", value)
            picture(tmp_path / "split" / "train" / label / f"{i}.png", value)
        picture(tmp_path / "split" / "val" / label / "0.png", value)
    flat = load_image_folder(tmp_path / "flat", size=8)
    assert flat.labels == ["cat", "dog"] and (len(flat.x_train), len(flat.x_test)) == (8, 2)
    assert ((flat.x_train.mean((1, 2, 3)) > 0) == (flat.y_train == 1)).all()
    split = load_image_folder(tmp_path / "split", size=8, channels=1)
    assert split.shape == (1, 8, 8) and (len(split.x_train), len(split.x_test)) == (10, 2)
    (tmp_path / "flat" / "cat" / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        load_image_folder(tmp_path / "flat", size=8)
    with pytest.raises(UserError, match="0 class folder"):
        load_image_folder(tmp_path / "flat" / "dog")


def test_hub_sets_from_disk(tmp_path):
    for split in ("train", "test"):
        for label in ("a", "b"):
            for i in range(3):
                picture(tmp_path / split / label / f"{i}.png", 50 if label == "a" else 180)
    data = load_hub_images(str(tmp_path), size=8)
    assert data.note.endswith("split train, tested on test")
    assert data.labels == ["a", "b"] and (len(data.x_train), len(data.x_test)) == (6, 6)
    assert ((data.x_train.mean((1, 2, 3)) > 0) == (data.y_train == 1)).all()
    # What is trained on is never tested on: then a share is kept.
    cut = load_hub_images(str(tmp_path), size=8, split="test", test_share=0.5)
    assert (len(cut.x_train), len(cut.x_test)) == (3, 3) and cut.note.endswith("split test, 50% for testing")
    shutil.rmtree(tmp_path / "test")
    cut = load_hub_images(str(tmp_path), size=8)
    assert (len(cut.x_train), len(cut.x_test)) == (4, 2) and cut.note.endswith("25% for testing")
    with pytest.raises(UserError, match="no column 'picture'"):
        load_hub_images(str(tmp_path), image_column="picture")
    with pytest.raises(UserError, match="holds no pictures"):
        load_hub_images(str(tmp_path), image_column="label")
    with pytest.raises(UserError, match="does not exist"):
        load_hub_images(str(tmp_path / "missing"))
