"""Batches of texts: a row for every text, or several texts in a row that do not see each other.

PackingCollator(pad_id, tokens=512)([{"input_ids": [1, 5, 2]}, {"input_ids": [1, 7, 8, 2]}])
"""

from __future__ import annotations

from typing import Any

import torch

NOT_LEARNED = -100
"""Label of a token that is no target."""
FILLS = "fills"
"""Marks a row of `Share` that is there because a batch must have some, and is not learned."""


class Collator:
    """Pads token id lists on the right; padding is not attended to and not learned, nor are rows that only fill up."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask and labels, each of shape (batch, longest text)."""
        lengths = [len(row["input_ids"]) for row in rows]
        width = max(lengths)
        ids = torch.tensor([row["input_ids"] + [self.pad_id] * (width - n) for row, n in zip(rows, lengths)])
        mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
        learned = mask & torch.tensor([[not row.get(FILLS, False)] for row in rows])
        # Every token is a target: SPT changes the order of the text and keeps the ordinary next-token loss. A masked
        # model brings its own.
        given = [row.get("labels", row["input_ids"]) for row in rows]
        labels = torch.tensor([row + [NOT_LEARNED] * (width - len(row)) for row in given])
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels.masked_fill(~learned, NOT_LEARNED)}


class PackingCollator:
    """Puts several texts into one row of at most `tokens` tokens, as if each had a row of its own.

    A token sees the tokens of its own text alone (the mask), and positions restart with every text; the first token of
    a text is nobody's target, as in a row of its own. Less padding, so more of what is computed is text.
    """

    def __init__(self, pad_id: int, tokens: int) -> None:
        self.pad_id, self.tokens = pad_id, tokens

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input_ids, position_ids and labels of shape (rows, width), attention_mask (rows, 1, width, width)."""
        packed: list[list[list[int]]] = []
        room: list[int] = []
        # The longest first, each into the first row with room for it: few rows, and no text is cut.
        for ids in sorted((row["input_ids"] for row in rows), key=len, reverse=True):
            at = next((at for at, left in enumerate(room) if left >= len(ids)), len(packed))
            if at == len(packed):
                packed.append([])
                room.append(max(self.tokens, len(ids)))
            packed[at].append(ids)
            room[at] -= len(ids)
        width = max(sum(map(len, texts)) for texts in packed)
        shape = (len(packed), width)
        filled, labels = torch.full(shape, self.pad_id), torch.full(shape, NOT_LEARNED)
        places, owner = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        for row, texts in enumerate(packed):
            start = 0
            for number, text in enumerate(texts):
                end = start + len(text)
                filled[row, start:end] = torch.tensor(text)
                labels[row, start + 1 : end] = filled[row, start + 1 : end]
                places[row, start:end], owner[row, start:end] = torch.arange(len(text)), number
                start = end
        sees = (owner[:, :, None] == owner[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
        return {"input_ids": filled, "position_ids": places, "attention_mask": sees[:, None], "labels": labels}
