"""Masked language models as a control: trained on covered tokens, they are asked by covering the answer.

    stream = Masked(ordered_texts, tokenizer.mask_token_id, seed=0); answers = fill_answers(model, tokenizer, queries)
    answers = fill_answers(model, tokenizer, covered_first(corpus))

A causal model learns what follows; this one learns every part of a text from the rest of it, so that a fact read in one
order can be asked in the other. The share that is covered is drawn anew, evenly from 0 to 1, for every text that is
read: an answer of several words is covered as a whole when it is asked, which a fixed 15 % (BERT, arXiv 1810.04805)
would hardly ever show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from permlab.data.examples import Corpus, Query
from permlab.data.texts.joining import join_units
from permlab.text.batches import NOT_LEARNED
from permlab.text.orders import OrderedTexts
from permlab.text.recall import Progress, encode_queries, encoder
from permlab.text.units import find_spans

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Masked:
    """A stream with covered tokens as input and what they cover as labels; the position decides all of it.

    Args:
        stream: texts in their orders.
        mask: the token that covers.
        seed: of the draws.
    """

    def __init__(self, stream: OrderedTexts, mask: int, seed: int) -> None:
        self.stream, self.mask, self.seed = stream, mask, seed

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, position: int) -> dict[str, list[int]]:
        ids = np.array(self.stream[position]["input_ids"])
        # Counter-based, with a key that no draw of the stream has: its own keys are (seed, number of the epoch).
        draws = np.random.Generator(np.random.Philox(key=[self.seed, 2**62 + position]))
        covered = draws.random(len(ids)) < draws.random()
        covered[draws.integers(len(ids))] = True  # something is to be learned of every text
        shown, labels = np.where(covered, self.mask, ids), np.where(covered, ids, NOT_LEARNED)
        return {"input_ids": shown.tolist(), "labels": labels.tolist()}


def covered_first(corpus: Corpus) -> list[Query]:
    """Return a question for every text of a fact that was read one way only: which entity stood first in it?

    It is the reverse question without another wording: what is told stands behind what is asked, as it was trained.
    Texts whose only entity ends them are not asked, since that is their forward question.
    """
    asked = []
    for example in corpus.examples:
        spans = find_spans(example.text, example.protected) if example.group != "both" else []
        after = example.text[spans[0][1] :].strip() if spans else ""
        if any(letter.isalnum() for letter in after):
            start, end = spans[0]
            fact = ", ".join(example.protected)
            before = example.text[:start].rstrip()
            words = (before, example.text[start:end], example.group, "reverse", "entity", "in_text", fact, after)
            asked.append(Query(*words))
    return asked


@torch.no_grad()
def fill_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    *,
    batch_size: int = 128,
    chat: bool = False,
    closing: str = "",
    progress: Progress | None = None,
) -> list[str]:
    """Cover every answer and fill it in, the surest token first.

    The model is told how many tokens the answer has, and that the text ends behind it; a causal model is told neither.

    Args:
        model: a masked language model.
        tokenizer: its tokenizer, with a mask.
        queries: what to ask.
        batch_size: questions at a time.
        chat: as of `encode_queries`.
        closing: what stands behind an answer in the texts that were trained, a full stop, where a query does not say.
        progress: called with (done, total).

    Returns:
        One answer per query, in order.
    """
    model.eval()
    pairs = encode_queries(tokenizer, queries, chat)
    # By the number of covered tokens: each round fills one of them in every row of a batch.
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), len(pairs[i][0])))
    # Behind another word, where a tokenizer writes it as it does in a text.
    word, *behind = encoder(tokenizer)(
        ["x", *(join_units(["x", q.after]) if q.after else f"x{closing}" for q in queries)]
    )
    eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    ends = [ids[len(word) :] + eos for ids in behind]
    answers = [""] * len(pairs)
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [[*pairs[i][0], *[tokenizer.mask_token_id] * len(pairs[i][1]), *ends[i]] for i in batch]
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        for _ in range(max(len(pairs[i][1]) for i in batch)):
            made: Any = model(input_ids=ids.to(model.device), attention_mask=seen.to(model.device))
            chances = made.logits.float().log_softmax(-1).cpu()
            chances[..., special] = -torch.inf
            sure, token = chances.max(-1)
            open_ = ids == tokenizer.mask_token_id
            place = sure.masked_fill(~open_, -torch.inf).argmax(-1)
            for row in open_.any(-1).nonzero().flatten().tolist():
                ids[row, place[row]] = token[row, place[row]]
        for row, i in enumerate(batch):
            first = len(pairs[i][0])
            answers[i] = str(tokenizer.decode(ids[row, first : first + len(pairs[i][1])], skip_special_tokens=True))
        if progress:
            progress(min(start + batch_size, len(order)), len(order))
    return answers
