"""General text between the texts that are trained, against forgetting: `Mixed(stream, pieces, ratio=0.5, seed=0)`.

As the ordered stream, it decides everything by the position, so that a resumed run needs no state.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from permlab.text.forgetting import Blocks
from permlab.text.orders import OrderedTexts


class Mixed:
    """A stream with pieces of general text spread evenly between its texts; the texts and their order stay the same.

    Args:
        stream: what is to be learned.
        pieces: token ids of general text, at least one; read in a new order each time all were read.
        ratio: share of pieces among all that is read, 0 <= ratio < 1.
        seed: decides the order of the pieces.
    """

    def __init__(self, stream: OrderedTexts, pieces: Blocks, ratio: float, seed: int) -> None:
        self.stream, self.pieces, self.seed = stream, pieces, seed
        self.added = pieces_needed(len(stream), ratio)
        self._shuffled = functools.lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        return len(self.stream) + self.added

    def __getitem__(self, position: int) -> dict[str, list[int]]:
        # The number of pieces up to a position grows by one wherever its share of them passes a whole number.
        before, behind = (at * self.added // len(self) for at in (position, position + 1))
        if behind == before:
            return self.stream[position - before]
        reading, place = divmod(before, len(self.pieces))
        return {"input_ids": self.pieces[self._shuffled(reading)[place]]}

    def _shuffle(self, reading: int) -> np.ndarray[Any, Any]:
        draws = np.random.Generator(np.random.Philox(key=[self.seed, reading]))
        return draws.permutation(len(self.pieces))


def pieces_needed(texts: int, ratio: float) -> int:
    """Return how many pieces stand beside so many texts."""
    return round(texts * ratio / (1 - ratio))
