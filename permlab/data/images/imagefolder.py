"""One folder of pictures per class: `load_image_folder("flowers", size=32).labels`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from permlab.data.checks import check_image_folder, check_pictures, check_test_share
from permlab.errors import UserError, check_range, first_line
from permlab.storage.plain import open_regular

if TYPE_CHECKING:
    from torch import Tensor

    from permlab.data.images.image_set import ImageData

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass
class ImageFolderConfig:
    """One folder of pictures per class, with or without train/ and test/ above."""

    name: str = "imagefolder"
    kind: str = "imagefolder"
    path: str | None = None
    """The folder."""
    side: int = 32
    """Pictures are scaled to side x side pixels."""
    channels: int = 3
    """3 (colour) | 1 (grey)"""
    test_share: float = 0.25
    """Share kept for testing where the folder has no train/ and test/."""


def check_imagefolder(config: ImageFolderConfig) -> None:
    """Check that the folder is given and there, and how pictures are scaled."""
    check_test_share(config)
    check_pictures(config)
    check_image_folder(config)


def load_class_folders(config: ImageFolderConfig) -> ImageData:
    """Read the pictures of a configuration."""
    return load_image_folder(str(config.path), size=config.side, channels=config.channels, test_share=config.test_share)


def load_image_folder(
    path: str | Path, *, size: int = 32, channels: int = 3, test_share: float = 0.2, seed: int = 0
) -> ImageData:
    """One folder per class, images inside; with `train/` and `test/` (or `val/`) on top, that split is used.

    Raises:
        UserError: no folder, no class folders, no readable images, or a class in the test half only.
    """
    import torch
    from PIL import Image, UnidentifiedImageError

    from permlab.data.images.image_set import ImageData, normalised, picture_tensor, split_images

    check_range("size", size, 4)
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{path} is not a folder: it must hold one folder of images per class")
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
                        with open_regular(file) as stored, warnings.catch_warnings():
                            warnings.simplefilter("ignore")  # of damaged tags, and of sizes that are refused below
                            with Image.open(stored) as image:
                                x.append(picture_tensor(image, size, channels))
                    except UnidentifiedImageError:
                        raise UserError(f"{file} cannot be read as an image: remove or mend it") from None
                    except Exception as error:  # every decoder has errors of its own
                        reason = first_line(error, 120)
                        raise UserError(f"{file} cannot be read as an image ({reason}): remove or mend it") from None
                    y.append(labels.index(entry.name))
        if not x:
            raise UserError(f"{half} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        return torch.stack(x), torch.tensor(y)

    parts = (*read(train), *read(test)) if test else split_images(*read(train), test_share, seed)
    note = "image folder, its own split" if test else f"image folder, {test_share:.0%} for testing"
    return normalised(ImageData(root.name, *parts, labels, note))
