"""Image sets for `permlab task=merge`: `data = load_digits_images()`, or `load_mnist("folder/of/idx")`.

Every reader gives one `ImageData`: float32 images in [0, 1], shifted and scaled by the training mean and deviation.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from permlab.data.hub import load_rows
from permlab.errors import UserError, check_range

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass
class ImageData:
    """A classification set: `x_*` float32 [N, C, H, W], `y_*` int64 [N]; `note` says how it was split."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    labels: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return tuple(self.x_train.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    def subset(self, labels: Iterable[int]) -> ImageData:
        """Only the images of some classes; class numbers stay as they are."""
        wanted = torch.tensor(sorted(labels), device=self.y_train.device)
        train, test = torch.isin(self.y_train, wanted), torch.isin(self.y_test, wanted)
        return ImageData(
            self.name, self.x_train[train], self.y_train[train], self.x_test[test], self.y_test[test], self.labels,
            f"{self.note}; classes {wanted.tolist()} only",
        )  # fmt: skip

    def share(self, start: float, stop: float, seed: int = 0) -> ImageData:
        """The training images from `start` to `stop` (fractions) of a shuffled order; the test images stay.

        Raises:
            UserError: the fractions are not 0 <= start < stop <= 1, or nothing is left.
        """
        check_range("share", start, 0, stop)
        check_range("share", stop, 0, 1)
        count = len(self.x_train)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        chosen = order[round(start * count) : round(stop * count)]
        if not len(chosen):
            raise UserError(f"a share from {start:g} to {stop:g} of {count} training images holds none: widen it")
        return ImageData(
            self.name, self.x_train[chosen], self.y_train[chosen], self.x_test, self.y_test, self.labels,
            f"{self.note}; training share {start:g} to {stop:g}",
        )  # fmt: skip


def _normalise(data: ImageData) -> ImageData:
    mean, deviation = data.x_train.mean(), data.x_train.std().clamp_min(1e-6)
    data.x_train, data.x_test = (data.x_train - mean) / deviation, (data.x_test - mean) / deviation
    return data


def _split(x: Tensor, y: Tensor, test_share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stratified split into (x_train, y_train, x_test, y_test)."""
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(np.arange(len(y)), test_size=test_share, random_state=seed, stratify=y.numpy())
    except ValueError as error:
        raise UserError(f"the images cannot be split into training and test sets: {error}") from None
    return x[train], y[train], x[test], y[test]


def load_digits_images(test_share: float = 0.25, seed: int = 0) -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels (they ship with scikit-learn; no download)."""
    from sklearn.datasets import load_digits

    check_range("dataset.test_share", test_share, 0, 1, open_interval=True)
    bunch = load_digits()
    x = torch.from_numpy(bunch.images.astype(np.float32) / 16)[:, None]
    y = torch.from_numpy(bunch.target.astype(np.int64))
    note = f"scikit-learn digits, {test_share:.0%} for testing"
    return _normalise(ImageData("digits", *_split(x, y, test_share, seed), [str(i) for i in range(10)], note))


def read_idx(path: Path) -> np.ndarray:
    """The array of one IDX file, gzipped or not.

    Raises:
        UserError: the file is no complete IDX file of bytes.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read()
        zero, kind, axes = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes])
        if zero or kind != 8:
            raise ValueError("it does not start with the IDX mark for bytes")
        return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UserError(f"{path} is not a complete IDX file ({error}): get it again") from None


def load_mnist(path: str | Path, test_share: float = 0.2, seed: int = 0) -> ImageData:
    """A folder of IDX files: MNIST, FashionMNIST, KMNIST.

    With both halves (train-*, t10k-*) the usual split is used; with one half only, that half is split.

    Raises:
        UserError: the folder or its files are missing or broken.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(
            f"dataset.path={path} is not a folder: it must hold IDX files such as train-images-idx3-ubyte.gz"
        )
    halves = {}
    for half in ("train", "t10k"):
        images, labels = (_find_idx(folder, half, part) for part in ("images", "labels"))
        if images and labels:
            x, y = read_idx(images), read_idx(labels)
            if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
                raise UserError(f"{images.name} and {labels.name} do not belong together: {x.shape} and {y.shape}")
            halves[half] = (
                torch.from_numpy(x.astype(np.float32) / 255)[:, None],
                torch.from_numpy(y.astype(np.int64)),
            )
    if not halves:
        raise UserError(f"no pair of IDX files (train- or t10k-images-idx3-ubyte and -labels-idx1-ubyte) in {folder}")
    if len(halves) == 2:
        parts, note = (*halves["train"], *halves["t10k"]), "IDX files, usual split"
    else:
        check_range("dataset.test_share", test_share, 0, 1, open_interval=True)
        half = next(iter(halves))
        parts = _split(*halves[half], test_share, seed)
        note = f"IDX files, only the {half} half is there: {test_share:.0%} of it for testing"
    names = [str(i) for i in range(int(max(parts[1].max(), parts[3].max())) + 1)]
    return _normalise(ImageData("mnist", *parts, names, note))


def _find_idx(folder: Path, half: str, part: str) -> Path | None:
    """`train-images-idx3-ubyte`, with a dot in place of the second dash and with .gz as they circulate."""
    axes = 3 if part == "images" else 1
    for stem in (f"{half}-{part}-idx{axes}-ubyte", f"{half}-{part}.idx{axes}-ubyte"):
        for name in (stem, f"{stem}.gz"):
            if (folder / name).is_file():
                return folder / name
    return None


def _to_tensor(image: Any, size: int, channels: int) -> Tensor:
    """A PIL image as float32 [channels, size, size] in [0, 1]."""
    image = image.convert("L" if channels == 1 else "RGB").resize((size, size))
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array.reshape(size, size, channels).copy()).permute(2, 0, 1)


def load_image_folder(
    path: str | Path, *, size: int = 32, channels: int = 3, test_share: float = 0.2, seed: int = 0
) -> ImageData:
    """One folder per class, images inside; with `train/` and `test/` (or `val/`) on top, that split is used.

    Raises:
        UserError: no folder, no class folders, no readable images, or a class in the test half only.
    """
    from PIL import Image, UnidentifiedImageError

    check_range("dataset.size", size, 4)
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"dataset.path={path} is not a folder: it must hold one folder of images per class")
    train = root / "train" if (root / "train").is_dir() else root
    test = next((root / name for name in ("test", "val") if train != root and (root / name).is_dir()), None)
    labels = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
    if len(labels) < 2:
        raise UserError(f"{train} holds {len(labels)} class folder(s): it needs one folder of images per class")

    def read(half: Path) -> tuple[Tensor, Tensor]:
        x, y = [], []
        for entry in sorted(half.iterdir()):
            if not entry.is_dir():
                continue
            if entry.name not in labels:
                raise UserError(f"{entry} is a class that {train} does not have")
            for file in sorted(entry.iterdir()):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    try:
                        with Image.open(file) as image:
                            x.append(_to_tensor(image, size, channels))
                    except (UnidentifiedImageError, OSError) as error:
                        raise UserError(f"{file} cannot be read as an image ({error}): remove or mend it") from None
                    y.append(labels.index(entry.name))
        if not x:
            raise UserError(f"{half} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        return torch.stack(x), torch.tensor(y)

    parts = (*read(train), *read(test)) if test else _split(*read(train), test_share, seed)
    note = "image folder, its own split" if test else f"image folder, {test_share:.0%} for testing"
    return _normalise(ImageData(root.name, *parts, labels, note))


def load_hub_images(
    name: str,
    *,
    subset: str | None = None,
    split: str = "train",
    test_split: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    size: int = 32,
    channels: int = 3,
    limit: int | None = None,
    test_share: float = 0.25,
    seed: int = 0,
) -> ImageData:
    """Any image set of the `datasets` library: a hub id, a folder of data files, or one of `save_to_disk`.

    Args:
        split, test_split: training and test images; without a test split, `test_share` of `split` is kept for testing.
        limit: rows used per split.
        label_column: class numbers or names.

    Raises:
        UserError: the set cannot be loaded, has no such split or columns, or an image that cannot be read.
    """
    parts = [load_rows(name, each, subset) for each in (split, test_split) if each]
    for rows in parts:
        for column in (image_column, label_column):
            if column not in rows.column_names:
                raise UserError(f"{name} has no column '{column}' (columns: {', '.join(rows.column_names)})")
    parts = [rows.select(range(min(len(rows), limit or len(rows)))) for rows in parts]
    names = _class_names(parts, label_column)
    halves: list[Tensor] = []
    for rows in parts:
        try:
            halves.append(torch.stack([_to_tensor(image, size, channels) for image in rows[image_column]]))
        except AttributeError:
            raise UserError(f"column '{image_column}' of {name} holds no pictures: set dataset.image_column") from None
        found = rows[label_column]
        halves.append(torch.tensor([names.index(v) if isinstance(v, str) else int(v) for v in found]))
    if len(parts) == 1:
        halves = list(_split(*halves, test_share, seed))
    note = f"{name}, split {split}" + (f", tested on {test_split}" if test_split else f", {test_share:.0%} for testing")
    return _normalise(ImageData(Path(name).name, *halves, names, note))


def _class_names(parts: list[Any], column: str) -> list[str]:
    """Class names: from the column's type, the sorted names themselves, or the numbers up to the largest."""
    known = getattr(parts[0].features[column], "names", None)
    if known:
        return list(known)
    values = {value for rows in parts for value in rows[column]}
    if any(isinstance(value, str) for value in values):
        return sorted(map(str, values))
    return [str(number) for number in range(int(max(values)) + 1)]
