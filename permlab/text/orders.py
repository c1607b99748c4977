"""Unit orders: in which order the pieces of a training text are read, each time it is drawn.

    stream = OrderedTexts(examples, encode, Ordering(order="spt"), epochs=100, seed=0); stream[12345] -> token ids

`original` reads the text as it is. `spt` reads its semantic units in the original, reversed or a random order (SPT,
arXiv 2403.00758). `token_reverse`, `word_reverse`, `entity_reverse` and `random_segment` are the reversals of
Golovneva et al., arXiv 2403.13799: tokens, words, words with entities kept, segments of 1..k words. `word_permute` is
SPT on single words.

A position in the stream decides everything (its epoch, its text, its order) through counter-based random numbers, so
the same seed gives the same texts whatever the number of loader processes, and a resumed run needs no state.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from permlab.data.examples import Example
from permlab.data.texts.joining import join_units

WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]+")
ORIGINAL, REVERSED, PERMUTED = 0, 1, 2


@dataclass(frozen=True)
class Ordering:
    """Which orders are drawn, and how often.

    `p_original`, `p_reversed`, `p_permuted` hold for spt and word_permute and sum to 1; the reversals read the
    reversed order with probability `p_reordered`. `budget`: `replace` draws one order per text and epoch, so that
    texts, tokens and steps equal those of `original`; `data` reads every text once as it is and once reordered per
    epoch; `compute` does the same in half the epochs. `dynamic` draws anew in every epoch.
    """

    order: str = "spt"
    p_original: float = 1 / 3
    p_reversed: float = 1 / 3
    p_permuted: float = 1 / 3
    p_reordered: float = 0.5
    max_segment: int = 2
    dynamic: bool = True
    budget: str = "replace"

    def probabilities(self) -> tuple[float, float, float]:
        """Return the probabilities of reading a text as it is, reversed, or permuted."""
        if self.order == "original":
            return 1.0, 0.0, 0.0
        if self.order in ("spt", "word_permute"):
            mixed = (self.p_original, self.p_reversed, self.p_permuted)
        else:
            mixed = (1 - self.p_reordered, self.p_reordered, 0.0)
        if self.budget == "replace":
            return mixed
        # The original is read anyway; the other copy is never the original.
        rest = mixed[1] + mixed[2]
        return 0.0, mixed[1] / rest, mixed[2] / rest


def pieces_of(example: Example, order: str) -> list[str]:
    """Return what an order moves: units, words, or words with protected strings kept whole."""
    if order == "spt":
        return list(example.units or (example.text,))
    return split_words(example.text, example.protected if order == "entity_reverse" else ())


def split_words(text: str, protected: Sequence[str] = ()) -> list[str]:
    """Split a text into words and punctuation; protected strings stay one piece."""
    kept = sorted((re.escape(p) for p in protected if p), key=len, reverse=True)
    pattern = re.compile("|".join([*kept, WORD.pattern])) if kept else WORD
    return pattern.findall(text)


class Encoded:
    """The token ids of one text's pieces, at the start of a text and after another piece.

    Tokenizers split at white space first, so the ids of a joined text are the ids of its pieces; a text where that does
    not hold in the original order is encoded anew each time it is reordered (`pieces_fit` False).
    """

    __slots__ = ("following", "leading", "pieces", "pieces_fit", "whole")

    def __init__(
        self, pieces: list[str], whole: list[int], leading: list[list[int]], following: list[list[int]]
    ) -> None:
        self.pieces, self.whole, self.leading, self.following = pieces, whole, leading, following
        self.pieces_fit = leading[0] + [i for ids in following[1:] for i in ids] == whole

    def arranged(self, order: Sequence[int]) -> list[int]:
        """Return the ids of the pieces read in `order`."""
        ids = list(self.leading[order[0]])
        for index in order[1:]:
            ids += self.following[index]
        return ids


Encode = Callable[[list[str]], list[list[int]]]


def encode_pieces(examples: Sequence[Example], order: str, encode: Encode) -> list[Encoded]:
    """Encode every text and its pieces in three calls of the tokenizer."""
    pieces = [pieces_of(example, order) for example in examples]
    flat = list(dict.fromkeys(piece for parts in pieces for piece in parts))
    anchor = "x"
    skip = len(encode([anchor])[0])
    leading = dict(zip(flat, encode(flat)))
    following = {p: ids[skip:] for p, ids in zip(flat, encode([join_units([anchor, piece]) for piece in flat]))}
    wholes = encode([example.text for example in examples])
    return [Encoded(p, w, [leading[x] for x in p], [following[x] for x in p]) for p, w in zip(pieces, wholes)]


class OrderedTexts:
    """All epochs of a corpus as one sequence of token id lists; position `epoch * len_epoch + i` is random access.

    Args:
        examples: texts with units where the order needs them.
        encode: texts -> token ids without special tokens.
        ordering: the orders to draw.
        epochs: passes over the data (halved, rounded up to texts, with budget `compute`).
        seed: decides every draw.
        bos, eos: ids put around every text, or None.
        max_tokens: longer texts are cut.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encode: Encode,
        ordering: Ordering,
        *,
        epochs: float,
        seed: int,
        bos: int | None = None,
        eos: int | None = None,
        max_tokens: int = 512,
    ) -> None:
        self.encode, self.ordering, self.seed = encode, ordering, seed
        self.encoded = encode_pieces(examples, ordering.order, encode)
        self.before = [] if bos is None else [bos]
        self.after = [] if eos is None else [eos]
        self.room = max_tokens - len(self.before) - len(self.after)
        self.texts = len(self.encoded)
        self.copies = 1 if ordering.budget == "replace" else 2
        self.per_epoch = self.texts * self.copies
        scale = 0.5 if ordering.budget == "compute" else 1.0
        self.total = max(1, round(epochs * self.per_epoch * scale))
        self._widest = max(len(e.pieces) for e in self.encoded)
        self._plan = functools.lru_cache(maxsize=2)(self._plan_epoch)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, position: int) -> dict[str, list[int]]:
        epoch, place = divmod(position, self.per_epoch)
        shuffled, kinds, keys = self._plan(epoch)
        index, copy = divmod(int(shuffled[place]), self.copies)
        encoded = self.encoded[index]
        kind = ORIGINAL if self.copies == 2 and copy == 0 else int(kinds[index])
        return {"input_ids": self.before + self._read(encoded, kind, keys[index])[: self.room] + self.after}

    def _read(self, encoded: Encoded, kind: int, keys: np.ndarray) -> list[int]:
        """Return the ids of one text in the drawn order."""
        if kind == ORIGINAL or len(encoded.pieces) < 2:
            return encoded.whole
        if self.ordering.order == "token_reverse":
            return encoded.whole[::-1]
        order = arrangement(kind, keys[: len(encoded.pieces)], self._segment())
        if encoded.pieces_fit:
            return encoded.arranged(order)
        return self.encode([join_units([encoded.pieces[i] for i in order])])[0]

    def _segment(self) -> int:
        return self.ordering.max_segment if self.ordering.order == "random_segment" else 1

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw one epoch: the order of the copies, the kind per text, and sorting keys per piece."""
        copies = np.random.Generator(np.random.Philox(key=[self.seed, 2 * epoch]))
        drawn = epoch if self.ordering.dynamic else 0
        draws = np.random.Generator(np.random.Philox(key=[self.seed, 2 * drawn + 1]))
        shuffled = copies.permutation(self.per_epoch)
        kinds = draws.choice(3, size=self.texts, p=self.ordering.probabilities())
        keys = draws.random((self.texts, self._widest), dtype=np.float32)
        return shuffled, kinds, keys


def arrangement(kind: int, keys: np.ndarray, max_segment: int = 1) -> list[int]:
    """Return piece indices in reading order: reversed (in segments of 1..max_segment) or sorted by random keys."""
    count = len(keys)
    if kind == PERMUTED:
        return np.argsort(keys, kind="stable").tolist()
    if kind == ORIGINAL:
        return list(range(count))
    segments, start = [], 0
    while start < count:
        length = 1 + int(keys[start] * max_segment) if max_segment > 1 else 1
        segments.append(range(start, min(start + length, count)))
        start += length
    return [index for segment in reversed(segments) for index in segment]
