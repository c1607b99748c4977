"""scikit-learn's handwritten digits: `load_digits_images().shape` is (1, 8, 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from permlab.errors import check_range

if TYPE_CHECKING:
    from permlab.data.images.image_set import ImageData


@dataclass
class DigitsConfig:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; they come with scikit-learn."""

    name: str = "digits"
    kind: str = "digits"
    test_share: float = 0.25
    """Share of the images kept for testing, the same for every seed."""


def load_digits(config: DigitsConfig) -> ImageData:
    """Read the images of a configuration."""
    return load_digits_images(config.test_share)


def load_digits_images(test_share: float = 0.25, seed: int = 0) -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels (they ship with scikit-learn; no download)."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from permlab.data.images.image_set import ImageData, normalised, split_images

    check_range("test_share", test_share, 0, 1, open_interval=True)
    bunch = load_digits()
    x = torch.from_numpy(bunch.images.astype(np.float32) / 16)[:, None]
    y = torch.from_numpy(bunch.target.astype(np.int64))
    note = f"scikit-learn digits, {test_share:.0%} for testing"
    return normalised(ImageData("digits", *split_images(x, y, test_share, seed), [str(i) for i in range(10)], note))
