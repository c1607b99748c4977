"""IDX files of MNIST, FashionMNIST or KMNIST: `load_mnist("folder/of/idx").classes`."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.data.checks import check_image_folder, check_test_share
from permlab.errors import UserError, check_range, first_line
from permlab.storage.plain import open_regular

if TYPE_CHECKING:
    import numpy as np

    from permlab.data.images.image_set import ImageData

SMALL, PACKED = 2**25, 50
"""A gzipped file unpacks to at most so many bytes, or so many times its own size; pictures reach 3 times, labels 4."""


@dataclass
class MnistConfig:
    """A folder with IDX files of MNIST, FashionMNIST or alike, gzipped or not."""

    name: str = "mnist"
    kind: str = "mnist"
    path: str | None = None
    """Folder with {train,t10k}-images-idx3-ubyte[.gz] and labels; with t10k alone those images are split."""
    test_share: float = 0.25
    """Share kept for testing where the folder has no training files of its own."""


def check_mnist(config: MnistConfig) -> None:
    """Check that the folder is given and there."""
    check_test_share(config)
    check_image_folder(config)


def load_idx_folder(config: MnistConfig) -> ImageData:
    """Read the images of a configuration."""
    return load_mnist(str(config.path), config.test_share)


def read_idx(path: Path) -> np.ndarray:
    """The array of one IDX file, gzipped or not.

    Raises:
        UserError: the file is no complete IDX file of bytes.
    """
    import numpy as np

    try:
        with open_regular(path) as stored, ExitStack() as opened:
            file: Any = opened.enter_context(gzip.GzipFile(fileobj=stored)) if path.suffix == ".gz" else stored
            zero, kind, axes = struct.unpack(">HBB", file.read(4))
            if zero or kind != 8 or not 1 <= axes <= 4:
                raise ValueError("it does not start with the IDX mark for bytes")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            # The header is believed as far as the file can hold what it says: nothing larger is unpacked.
            wanted, size = math.prod(shape), os.fstat(stored.fileno()).st_size
            most = max(SMALL, PACKED * size) if path.suffix == ".gz" else size
            if not 0 < wanted <= most:
                raise ValueError(f"its header names {wanted:,} bytes, the file has {size:,}")
            if path.suffix == ".gz" and size > SMALL + wanted:
                # Zeros behind the end count as padding, and would be read to their end.
                raise ValueError(f"it has {size:,} bytes for the {wanted:,} that its header names")
            raw = file.read(wanted + 1)
        if len(raw) != wanted:
            raise ValueError(f"it holds {'fewer' if len(raw) < wanted else 'more'} than the {wanted:,} bytes it names")
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path} is not a complete IDX file ({first_line(error, 120)}): get it again") from None


def load_mnist(path: str | Path, test_share: float = 0.2, seed: int = 0) -> ImageData:
    """A folder of IDX files: MNIST, FashionMNIST, KMNIST.

    With both halves (train-*, t10k-*) the usual split is used; with one half only, that half is split.

    Raises:
        UserError: the folder or its files are missing or broken.
    """
    import numpy as np
    import torch

    from permlab.data.images.image_set import ImageData, normalised, split_images

    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{path} is not a folder: it must hold IDX files such as train-images-idx3-ubyte.gz")
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
        check_range("test_share", test_share, 0, 1, open_interval=True)
        half = next(iter(halves))
        parts = split_images(*halves[half], test_share, seed)
        note = f"IDX files, only the {half} half is there: {test_share:.0%} of it for testing"
    names = [str(i) for i in range(int(max(parts[1].max(), parts[3].max())) + 1)]
    return normalised(ImageData("mnist", *parts, names, note))


def _find_idx(folder: Path, half: str, part: str) -> Path | None:
    """`train-images-idx3-ubyte`, with a dot in place of the second dash and with .gz as they circulate."""
    axes = 3 if part == "images" else 1
    for stem in (f"{half}-{part}-idx{axes}-ubyte", f"{half}-{part}.idx{axes}-ubyte"):
        for name in (stem, f"{stem}.gz"):
            if (folder / name).is_file():
                return folder / name
    return None
