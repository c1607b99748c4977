"""Configuration of the image datasets: `permlab task=merge dataset=mnist dataset.path=FOLDER`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DigitsConfig:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; they come with scikit-learn."""

    name: str = "digits"
    kind: str = "digits"
    test_share: float = 0.25
    """Share of the images kept for testing, the same for every seed."""


@dataclass
class MnistConfig:
    """A folder with IDX files of MNIST, FashionMNIST or alike, gzipped or not."""

    name: str = "mnist"
    kind: str = "mnist"
    path: str | None = None
    """Folder with {train,t10k}-images-idx3-ubyte[.gz] and labels; with t10k alone those images are split."""
    test_share: float = 0.25
    """Share kept for testing where the folder has no training files of its own."""


@dataclass
class ImageFolderConfig:
    """One folder of pictures per class, with or without train/ and test/ above."""

    name: str = "imagefolder"
    kind: str = "imagefolder"
    path: str | None = None
    side: int = 32
    """Pictures are scaled to side x side pixels."""
    channels: int = 3
    """3 (colour) | 1 (grey)"""
    test_share: float = 0.25
    """Share kept for testing where the folder has no train/ and test/."""


IMAGE_DATASETS = ("digits", "mnist", "imagefolder", "hub")
"""Dataset kinds that give labelled images; `hub` needs image and label columns."""
