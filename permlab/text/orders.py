"""Unit orders: in which order the pieces of a training text are read, each time it is drawn.

    stream = OrderedTexts(examples, encode, Ordering(order="spt"), epochs=100, seed=0); stream[12345] -> token ids

`original` reads the text as it is. `spt` reads its semantic units in the original, reversed or a random order (SPT,
arXiv 2403.00758). `token_reverse`, `word_reverse`, `entity_reverse` and `random_segment` are the reversals of
Golovneva et al., arXiv 2403.13799: tokens, words, words with entities kept, segments of 1..k words. `word_permute` is
SPT on single words. What an order moves and how is in its row (`permlab.text.table.ORDERS`).

A position in the stream decides everything (its epoch, its text, its order) through counter-based random numbers, so
the same seed gives the same texts whatever the number of loader processes, and a resumed run needs no state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from permlab.data.examples import Example
from permlab.data.texts.joining import join_units
from permlab.text.pieces import ORIGINAL, Keys, is_closing, with_closing_apart, words_and_entities
from permlab.text.settings import Ordering
from permlab.text.table import BUDGETS, ORDERS, OrderRow


class Encoded:
    """The token ids of one text's pieces, at the start of a text and after another piece.

    Tokenizers split at white space first, so the ids of a joined text are the ids of its pieces; a text where that does
    not hold in the original order is encoded anew each time it is reordered (`pieces_fit` False).
    """

    __slots__ = ("following", "leading", "movable", "pieces", "pieces_fit", "whole")

    def __init__(
        self,
        pieces: list[str],
        whole: list[int],
        leading: list[list[int]],
        following: list[list[int]],
        movable: int | None = None,
    ) -> None:
        self.pieces, self.whole, self.leading, self.following = pieces, whole, leading, following
        self.movable = len(pieces) if movable is None else movable  # what stands behind them stays there
        self.pieces_fit = [i for ids in [*leading[:1], *following[1:]] for i in ids] == whole

    def arranged(self, order: Sequence[int]) -> list[int]:
        """Return the ids of the pieces read in `order`."""
        ids = list(self.leading[order[0]])
        for index in order[1:]:
            ids += self.following[index]
        return ids


Encode = Callable[[list[str]], list[list[int]]]
"""Texts -> token ids without special tokens."""


def encode_pieces(
    examples: Sequence[Example], order: OrderRow, encode: Encode, whole_entities: bool = False
) -> list[Encoded]:
    """Encode every text and its pieces in at most three calls of the tokenizer.

    Args:
        examples: with units where the order needs them.
        order: cuts the texts.
        encode: texts -> token ids.
        whole_entities: an order of words moves entities as one word.
    """
    wholes = encode([example.text for example in examples])
    if not order.target:  # it moves tokens: each is a piece that reads the same wherever it stands
        tokens = [[[token] for token in whole] for whole in wholes]
        return [Encoded([str(t) for t in whole], whole, own, own) for whole, own in zip(wholes, tokens)]
    cut = words_and_entities if whole_entities else order.load()
    pieces: list[list[str]] = [cut(example) for example in examples]
    movable = [len(parts) for parts in pieces]
    if order.closing_stays:
        pieces = [with_closing_apart(parts) for parts in pieces]
        movable = [len(parts) - is_closing(parts[-1]) for parts in pieces]
    flat = list(dict.fromkeys(piece for parts in pieces for piece in parts))
    # Behind another piece a tokenizer writes a space mark that it does not write at the start of a text.
    anchor = "x"
    skip = len(encode([anchor])[0])
    leading = dict(zip(flat, encode(flat)))
    following = {p: ids[skip:] for p, ids in zip(flat, encode([join_units([anchor, piece]) for piece in flat]))}
    return [
        Encoded(parts, whole, [leading[x] for x in parts], [following[x] for x in parts], count)
        for parts, whole, count in zip(pieces, wholes, movable)
    ]


class OrderedTexts:
    """All epochs of a corpus as one sequence of token id lists; position `epoch * len_epoch + i` is random access.

    Args:
        examples: texts with units where the order needs them.
        encode: texts -> token ids without special tokens.
        ordering: the orders to draw.
        epochs: passes over the data (halved, rounded up to texts, with budget `compute`).
        seed: decides every draw.
        bos, eos: ids put around every text, or None.
        max_tokens: longer texts are cut; `texts_cut` of them are.

    Raises:
        UserError: an unknown order or budget.
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
        row, budget = ORDERS[ordering.order], BUDGETS[ordering.budget]
        self.encode, self.ordering, self.seed = encode, ordering, seed
        self.arrange: Callable[[int, Keys, Ordering], list[int]] = row.load_arrangement()
        self.encoded = encode_pieces(examples, row, encode, ordering.whole_entities)
        self.before = [] if bos is None else [bos]
        self.after = [] if eos is None else [eos]
        self.room = max_tokens - len(self.before) - len(self.after)
        self.texts = len(self.encoded)
        self.texts_cut = sum(len(each.whole) > self.room for each in self.encoded)
        self.copies = budget.copies
        self.per_epoch = self.texts * self.copies
        # Compute-matched (2403.13799): the doubled set is read half as often, so a gain is not one of more training.
        self.total = max(1, round(epochs * self.per_epoch * budget.scale))
        self._widest = max(e.movable for e in self.encoded)
        self._plan = functools.lru_cache(maxsize=2)(self._plan_epoch)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, position: int) -> dict[str, list[int]]:
        epoch, place = divmod(position, self.per_epoch)
        shuffled, kinds, keys = self._plan(epoch)
        index, copy = divmod(int(shuffled[place]), self.copies)
        encoded = self.encoded[index]
        # Reverse training adds reversals to the originals (2 N texts); replacing them, as SPT does, keeps N.
        kind = ORIGINAL if self.copies == 2 and copy == 0 else int(kinds[index])
        return {"input_ids": self.before + self._read(encoded, kind, keys[index])[: self.room] + self.after}

    def _read(self, encoded: Encoded, kind: int, keys: Keys) -> list[int]:
        """Return the ids of one text in the drawn order."""
        count = encoded.movable
        if kind == ORIGINAL or count < 2:
            # The tokenizer's own ids: the original order must be ordinary training, also where pieces do not add up.
            return encoded.whole
        order = [*self.arrange(kind, keys[:count], self.ordering), *range(count, len(encoded.pieces))]
        if encoded.pieces_fit:
            return encoded.arranged(order)
        return self.encode([join_units([encoded.pieces[i] for i in order])])[0]

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Keys]:
        """Draw one epoch: the order of the copies, the kind per text, and sorting keys per piece."""
        # Philox is counter-based: (seed, number of the epoch) is all the state. Even numbers shuffle, odd ones draw.
        copies = np.random.Generator(np.random.Philox(key=[self.seed, 2 * epoch]))
        # SPT's release holds segmented, not permuted texts, which suggests new orders each epoch; static ablates it.
        drawn = epoch if self.ordering.dynamic else 0
        draws = np.random.Generator(np.random.Philox(key=[self.seed, 2 * drawn + 1]))
        shuffled = copies.permutation(self.per_epoch)
        # SPT reads each text in original, reversed or permuted order with a certain probability.
        kinds = draws.choice(3, size=self.texts, p=self.ordering.probabilities())
        # For every text, whatever its kind: settings that change the order of one leave the draws of the others alone.
        keys = draws.random((self.texts, self._widest), dtype=np.float32)
        return shuffled, kinds, keys
