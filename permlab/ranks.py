"""The processes of one training: which of them this is, and what they tell each other (torch.distributed).

    count(), first()            # 1, True where there is one process
    told(lambda: decide())      # the answer of the first process, in all of them
    averaged(loss)              # the mean over processes

torch is imported inside the functions, and only where it has been already: without it there is one process.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
LOST = re.compile(r"gloo|nccl|connection (?:closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
"""In what torch.distributed says when another process has left."""


def _group() -> Any:
    """The module of torch.distributed where processes have met, else None."""
    found = sys.modules.get("torch.distributed")
    return found if found is not None and found.is_available() and found.is_initialized() else None


def count() -> int:
    """Return how many processes train together."""
    group = _group()
    return int(group.get_world_size()) if group else 1


def place() -> int:
    """Return the number of this process, from 0."""
    group = _group()
    return int(group.get_rank()) if group else 0


def first() -> bool:
    """Whether this is the process that writes, prints and decides."""
    return place() == 0


def told(value: Callable[[], T]) -> T:
    """Return what `value` gives in the first process, which alone calls it; the others wait for it."""
    group = _group()
    if group is None or count() == 1:
        return value()
    import torch

    carried: list[Any] = [value() if first() else None]
    group.broadcast_object_list(carried, src=0, device=torch.device("cpu"))
    found: T = carried[0]
    return found


def heard() -> Any:
    """Return what the first process tells next, in one of the others."""
    return told(lambda: None)


def collected(value: Any) -> list[Any]:
    """Return the values of all processes, in the first; an empty list in the others."""
    group = _group()
    if group is None or count() == 1:
        return [value]
    found: list[Any] | None = [None] * count() if first() else None
    group.gather_object(value, found, dst=0)
    return found or []


def averaged(value: Tensor) -> Tensor:
    """Return the mean over processes of a tensor that each of them has."""
    group = _group()
    if group is None or count() == 1:
        return value
    mean = value.detach().clone()
    group.all_reduce(mean)
    return mean / count()


def has_left(message: str) -> bool:
    """Whether an error of this process says that another one is gone."""
    return bool(LOST.search(message))
