"""What every set of labelled images is given as: `load_digits_images().share(0, 0.5).shape`.

Every reader gives one `ImageData`: float32 images in [0, 1], shifted and scaled by the training mean and deviation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from permlab.errors import UserError, check_range


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
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

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

    def few(self, count: int | None) -> ImageData:
        """At most `count` training and as many test images, of a shuffled order; all for None."""
        if count is None:
            return self
        kept = self.share(0, min(1.0, count / len(self.x_train)))
        order = torch.randperm(len(self.x_test), generator=torch.Generator().manual_seed(0))[:count]
        return replace(kept, x_test=self.x_test[order], y_test=self.y_test[order])

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


def normalised(data: ImageData) -> ImageData:
    """Shift and scale all images by one mean and deviation, those of the training images; `data` is changed."""
    mean, deviation = data.x_train.mean(), data.x_train.std().clamp_min(1e-6)
    data.x_train, data.x_test = (data.x_train - mean) / deviation, (data.x_test - mean) / deviation
    return data


def split_images(x: Tensor, y: Tensor, test_share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stratified split into (x_train, y_train, x_test, y_test).

    Raises:
        UserError: fewer images of a class than the split needs.
    """
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(np.arange(len(y)), test_size=test_share, random_state=seed, stratify=y.numpy())
    except ValueError as error:
        raise UserError(f"the images cannot be split into training and test sets: {error}") from None
    return x[train], y[train], x[test], y[test]


MOST_PIXELS = 50_000_000
"""Of one picture that is opened; a file of a few kilobytes can unpack to more than the memory holds."""


def picture_tensor(image: Any, size: int, channels: int) -> Tensor:
    """A PIL image as float32 [channels, size, size] in [0, 1].

    Raises:
        ValueError: more than `MOST_PIXELS`.
    """
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, at most {MOST_PIXELS:,} are opened")
    image = image.convert("L" if channels == 1 else "RGB").resize((size, size))
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array.reshape(size, size, channels).copy()).permute(2, 0, 1)
