"""Recall after training: does the model give the answer when asked forward and in reverse?

    answers = answer_queries(model, tokenizer, queries); rows = recall_table(queries, answers)

What counts as right is in `permlab.text.scores`; answers are compared by log-probability in `permlab.text.choices`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from permlab.data.examples import Query
from permlab.data.texts.joining import join_units

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]


def encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[list[int]]]:
    """Return texts -> token ids without special tokens."""

    def encode(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return found

    return encode


def encode_queries(
    tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query], chat: bool = False
) -> list[tuple[list[int], list[int]]]:
    """Return (prompt ids, answer ids) per query; the answer is encoded as it stands after its prompt.

    Args:
        tokenizer: of the model.
        queries: what is asked.
        chat: each prompt is what a user says, in the tokenizer's chat template, and the answer begins the reply.
    """
    encode = encoder(tokenizer)
    if chat:
        turns = [[{"role": "user", "content": query.prompt}] for query in queries]
        said = [str(tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True)) for t in turns]
        return list(zip(encode(said), encode([query.answer for query in queries])))
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompts = encode([q.prompt for q in queries])
    # Together, as in the training text: an answer encoded alone may begin with another token.
    wholes = encode([join_units([q.prompt, q.answer] if q.prompt else [q.answer]) for q in queries])
    pairs = []
    for prompt, whole in zip(prompts, wholes):
        # A tokenizer may merge across the border: then the prompt ends where both encodings still agree.
        shared = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), len(prompt))
        pairs.append((bos + whole[:shared], whole[shared:]))
    return pairs


@torch.no_grad()
def answer_queries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    *,
    batch_size: int = 128,
    extra_tokens: int = 2,
    chat: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Continue every prompt greedily, as many tokens as its answer has and a few more.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a padding token.
        queries: what to ask; batched by length.
        batch_size: prompts per batch.
        extra_tokens: tokens decoded beyond the answer's length, for a model that words it differently.
        chat: as of `encode_queries`.
        progress: called with (done, total).

    Returns:
        One continuation per query, in order.
    """
    model.eval()
    pairs = encode_queries(tokenizer, queries, chat)
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), len(pairs[i][0])))
    answers = [""] * len(pairs)
    generate: Any = model.generate  # its declared type is that of a tensor's attribute
    pad = tokenizer.pad_token_id
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(pairs[i][0]) for i in batch)
        # Left padding: every continuation of the batch starts in the same column.
        ids = torch.tensor([[pad] * (width - len(pairs[i][0])) + pairs[i][0] for i in batch])
        mask = torch.tensor([[0] * (width - len(pairs[i][0])) + [1] * len(pairs[i][0]) for i in batch])
        made: torch.Tensor = generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max(len(pairs[i][1]) for i in batch) + extra_tokens,
            # Greedy, as 2309.12288 decodes at temperature 0: recall is what the model holds most likely.
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
        )
        texts = tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
        for i, text in zip(batch, texts):
            answers[i] = text
        if progress:
            progress(min(start + batch_size, len(order)), len(order))
    return answers
