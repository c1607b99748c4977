"""Image data cut or changed: `label_split(data, 2)` for other labels, `domain(data, "rotated")` for other inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from torch import Tensor
from torch.nn import functional

from permlab.data.images import ImageData
from permlab.errors import UserError, check_range
from permlab.merging.table import DOMAINS


def label_split(data: ImageData, parts: int | Sequence[Sequence[int]]) -> list[ImageData]:
    """The data cut by labels: into `parts` runs of neighbouring classes of nearly equal length, or the given lists.

    Raises:
        UserError: more parts than classes, an empty or unknown label list.
    """
    if isinstance(parts, int):
        check_range("parts", parts, 1, data.classes)
        bounds = [round(k * data.classes / parts) for k in range(parts + 1)]
        parts = [list(range(low, high)) for low, high in pairwise(bounds)]
    for labels in parts:
        unknown = [label for label in labels if not 0 <= label < data.classes]
        if unknown or not labels:
            raise UserError(f"labels {list(labels)}: give class numbers from 0 to {data.classes - 1}")
    return [data.subset(labels) for labels in parts]


def domain(data: ImageData, kind: str) -> ImageData:
    """The same images and labels in another domain, for networks that share labels but not inputs.

    Args:
        data: any image set.
        kind: a name of `permlab.merging.table.DOMAINS`.

    Raises:
        UserError: an unknown kind, or a quarter turn of images that are not square.
    """
    row = DOMAINS[kind]
    if row.square and data.shape[1] != data.shape[2]:
        raise UserError(f"domain={kind} needs square images, but they are {data.shape[1]} x {data.shape[2]}")
    change = row.load()
    return replace(data, x_train=change(data.x_train), x_test=change(data.x_test), note=f"{data.note}; {kind} images")


def original(images: Tensor) -> Tensor:
    """Images [N, C, H, W] as they are."""
    return images


def inverted(images: Tensor) -> Tensor:
    """The sign turned: images are normalised."""
    return -images


def rotated(images: Tensor) -> Tensor:
    """A quarter turn to the left."""
    return images.rot90(1, (2, 3)).contiguous()


def blurred(images: Tensor) -> Tensor:
    """The mean of 3 x 3 neighbours, edges repeated."""
    return functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
