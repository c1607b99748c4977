"""Image data cut or changed: `label_split(data, 2)` for other labels, `domain(data, "rotated")` for other inputs.

`uneven_split(data, 2, 0.8)` gives every network all labels, most images of its own ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional

from permlab.data.images import ImageData
from permlab.errors import UserError, check_range
from permlab.merging.table import DOMAINS


def class_runs(data: ImageData, parts: int, least: int = 1) -> list[Sequence[int]]:
    """The class numbers cut into `parts` runs of neighbours of nearly equal length.

    Raises:
        UserError: fewer parts than `least`, or more than classes.
    """
    check_range("parts", parts, least, data.classes)
    bounds = [round(k * data.classes / parts) for k in range(parts + 1)]
    return [range(low, high) for low, high in pairwise(bounds)]


def label_split(data: ImageData, parts: int | Sequence[Sequence[int]]) -> list[ImageData]:
    """The data cut by labels: into `parts` runs of neighbouring classes of nearly equal length, or the given lists.

    Raises:
        UserError: more parts than classes, an empty or unknown label list.
    """
    if isinstance(parts, int):
        parts = class_runs(data, parts)
    for labels in parts:
        unknown = [label for label in labels if not 0 <= label < data.classes]
        if unknown or not labels:
            raise UserError(f"labels {list(labels)}: give class numbers from 0 to {data.classes - 1}")
    return [data.subset(labels) for labels in parts]


def uneven_split(data: ImageData, parts: int, share: float, seed: int = 0) -> list[ImageData]:
    """All training images dealt out to `parts` networks, each with more of its own classes; the test images stay.

    The classes are cut into runs as in `label_split`. Of every class its own network gets `share`, the others equal
    parts of the rest: with two networks and 0.8 the split-data training of arXiv 2209.04836.

    Args:
        data: any image set.
        parts: networks.
        share: strictly between 0 and 1; 1 / parts deals out every class evenly.
        seed: of the order in which the images of a class are dealt.

    Raises:
        UserError: a number out of range.
    """
    check_range("share", share, 0, 1, open_interval=True)
    runs = class_runs(data, parts, least=2)
    generator = torch.Generator().manual_seed(seed)
    dealt: list[list[Tensor]] = [[] for _ in range(parts)]
    for own, labels in enumerate(runs):
        shares = [share if part == own else (1 - share) / (parts - 1) for part in range(parts)]
        ends = list(accumulate(shares))
        for label in labels:
            rows = (data.y_train == label).nonzero().flatten()
            rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            cuts = [round(end * len(rows)) for end in ends[:-1]]
            for part, some in enumerate(rows.tensor_split(cuts)):
                dealt[part].append(some)
    note = f"{data.note}; {share:g} of the images of its classes, the rest of the others'"
    chosen = [torch.cat(each) for each in dealt]
    return [replace(data, x_train=data.x_train[each], y_train=data.y_train[each], note=note) for each in chosen]


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
