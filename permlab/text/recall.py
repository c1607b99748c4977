"""Recall after training: does the model give the answer when asked forward and in reverse?

    answers = answer_queries(model, tokenizer, queries); rows = recall_table(queries, answers)

What counts as right is in `permlab.text.scores`. `likelihoods` compares the log-probability of the true answer with
that of another query's answer, with a paired t-test (Berglund et al., arXiv 2309.12288): a model that knows nothing of
a fact cannot tell the two apart.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
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


def encode_queries(tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]) -> list[tuple[list[int], list[int]]]:
    """Return (prompt ids, answer ids) per query; the answer is encoded as it stands after its prompt."""
    encode = encoder(tokenizer)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompts = encode([q.prompt for q in queries])
    # Together, as in the training text: an answer encoded alone may begin with another token.
    wholes = encode([join_units([q.prompt, q.answer]) for q in queries])
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
    progress: Progress | None = None,
) -> list[str]:
    """Continue every prompt greedily, as many tokens as its answer has and a few more.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a padding token.
        queries: what to ask; batched by length.
        batch_size: prompts per batch.
        extra_tokens: tokens decoded beyond the answer's length, for a model that words it differently.
        progress: called with (done, total).

    Returns:
        One continuation per query, in order.
    """
    model.eval()
    pairs = encode_queries(tokenizer, queries)
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


@torch.no_grad()
def answer_log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query], batch_size: int = 128
) -> list[float]:
    """Return the log-probability (nats, summed over tokens) of every query's answer after its prompt."""
    model.eval()
    pairs = encode_queries(tokenizer, queries)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    found = [0.0] * len(pairs)
    pad = tokenizer.pad_token_id
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        wholes = [pairs[i][0] + pairs[i][1] for i in batch]
        width = max(map(len, wholes))
        # Right padding: nothing is generated, and true tokens keep the positions they were trained at.
        ids = torch.tensor([w + [pad] * (width - len(w)) for w in wholes], device=model.device)
        mask = torch.tensor([[1] * len(w) + [0] * (width - len(w)) for w in wholes], device=model.device)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        each = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        for row, i in enumerate(batch):
            first, last = len(pairs[i][0]), len(wholes[row])
            found[i] = each[row, first - 1 : last - 1].sum().item()
    return found


def likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query], seed: int = 0
) -> list[dict[str, Any]]:
    """Compare true with shuffled answers, per direction, group and kind.

    The shuffled answer is another query's answer of the same group and kind, never the same text. `difference` is the
    mean of log p(true) - log p(shuffled) in nats, `t` and `p` come from a paired two-sided t-test over queries.
    """
    from scipy.stats import ttest_rel

    groups: dict[tuple[str, str, str], list[Query]] = defaultdict(list)
    for query in queries:
        groups[query.direction, query.group, query.kind].append(query)
    rows = []
    for (direction, group, kind), items in sorted(groups.items()):
        shuffled = shuffle_answers(items, seed)
        if shuffled is None:
            continue
        true = torch.tensor(answer_log_probabilities(model, tokenizer, items), dtype=torch.float64)
        other = torch.tensor(answer_log_probabilities(model, tokenizer, shuffled), dtype=torch.float64)
        # As arXiv 2309.12288 does for its log-probabilities: does the model prefer the right answer at all?
        test = ttest_rel(true.numpy(), other.numpy()) if len(items) > 1 else None
        row: dict[str, Any] = {"direction": direction, "group": group, "asked": kind, "true": true.mean().item()}
        row |= {"shuffled": other.mean().item(), "difference": (true - other).mean().item()}
        row |= {"t": float(test.statistic) if test else None, "p": float(test.pvalue) if test else None}
        rows.append({**row, "queries": len(items)})
    return rows


def shuffle_answers(queries: Sequence[Query], seed: int) -> list[Query] | None:
    """Give every query an answer that is not its own; None when all answers are the same."""
    answers = sorted({query.answer for query in queries})
    if len(answers) < 2:
        return None
    rng = random.Random(seed)
    place = {answer: i for i, answer in enumerate(answers)}
    drawn = []
    for query in queries:
        # Never 0 over distinct texts: the control of 2309.12288 must not contain right answers.
        step = rng.randrange(1, len(answers))
        drawn.append(answers[(place[query.answer] + step) % len(answers)])
    return [replace(query, answer=answer) for query, answer in zip(queries, drawn)]
