"""scikit-learn's handwritten digits: `load_digits_images().shape` is (1, 8, 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from permlab.data.checks import check_test_share
from permlab.errors import check_choice, check_range
from permlab.keys import choice

if TYPE_CHECKING:
    from permlab.data.images.image_set import ImageData

PIXELS = ("normalised", "raw")


@dataclass
class DigitsConfig:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; they come with scikit-learn."""

    name: str = "digits"
    kind: str = "digits"
    test_share: float = 0.25
    """Share of the images kept for testing, the same for every seed."""
    pixels: str = choice("normalised", PIXELS)
    """normalised: shifted and scaled by mean and deviation of the training images; raw: from 0 to 1."""


def check_digits(config: DigitsConfig) -> None:
    """Check the share of the test images and what is done to the pixels."""
    check_test_share(config)
    check_choice("dataset.pixels", config.pixels, PIXELS)


def load_digits(config: DigitsConfig) -> ImageData:
    """Read the images of a configuration."""
    return load_digits_images(config.test_share, pixels=config.pixels)


def load_digits_images(test_share: float = 0.25, seed: int = 0, pixels: str = "normalised") -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels (they ship with scikit-learn; no download)."""
    check_choice("pixels", pixels, PIXELS)
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from permlab.data.images.image_set import ImageData, normalised, split_images

    check_range("test_share", test_share, 0, 1, open_interval=True)
    bunch = load_digits()
    x = torch.from_numpy(bunch.images.astype(np.float32) / 16)[:, None]
    y = torch.from_numpy(bunch.target.astype(np.int64))
    note = f"scikit-learn digits, {test_share:.0%} for testing"
    data = ImageData("digits", *split_images(x, y, test_share, seed), [str(i) for i in range(10)], note)
    return normalised(data) if pixels == "normalised" else replace(data, note=f"{note}, pixels from 0 to 1")
