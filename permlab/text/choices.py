"""Answers compared by log-probability: multiple choice, and the control of Berglund et al. with shuffled answers.

    right = choose(model, tokenizer, queries, choices=4); rows = likelihoods(model, tokenizer, queries)

`likelihoods` compares the log-probability of the true answer with that of another query's answer, with a paired t-test
(arXiv 2309.12288): a model that knows nothing of a fact cannot tell the two apart. `choose` asks the same as multiple
choice: the true answer among others of its group and kind, the likeliest is taken.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from permlab.data.examples import Query
from permlab.text.recall import encode_queries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def answer_log_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    batch_size: int = 128,
    chat: bool = False,
) -> list[float]:
    """Return the log-probability (nats, summed over tokens) of every query's answer after its prompt."""
    model.eval()
    pairs = encode_queries(tokenizer, queries, chat)
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    seed: int = 0,
    chat: bool = False,
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
        true, other = (
            torch.tensor(answer_log_probabilities(model, tokenizer, asked, chat=chat), dtype=torch.float64)
            for asked in (items, shuffled)
        )
        # As arXiv 2309.12288 does for its log-probabilities: does the model prefer the right answer at all?
        test = ttest_rel(true.numpy(), other.numpy()) if len(items) > 1 else None
        row: dict[str, Any] = {"direction": direction, "group": group, "asked": kind, "true": true.mean().item()}
        row |= {"shuffled": other.mean().item(), "difference": (true - other).mean().item()}
        row |= {"t": float(test.statistic) if test else None, "p": float(test.pvalue) if test else None}
        rows.append({**row, "queries": len(items)})
    return rows


def likelihood_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return, by direction, how much likelier the true answer is, and how many standard errors that is.

    `forward_likelihood_gain` is the mean difference in nats over the questions about facts that were trained one way,
    `forward_likelihood_t` that over its standard error (those of the rows add up as of independent samples).

    Args:
        rows: of `likelihoods`.
    """
    metrics = {}
    for direction in ("forward", "reverse"):
        own = [row for row in rows if row["direction"] == direction and row["group"] != "both"]
        count = sum(row["queries"] for row in own)
        if not count:
            continue
        mean = sum(row["queries"] * row["difference"] for row in own) / count
        metrics[f"{direction}_likelihood_gain"] = mean
        # The standard error of a row is its difference over its t.
        if all(row["t"] and math.isfinite(row["t"]) for row in own):
            error = math.sqrt(sum((row["queries"] * row["difference"] / row["t"]) ** 2 for row in own)) / count
            metrics[f"{direction}_likelihood_t"] = mean / error
    return metrics


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


def choose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    choices: int,
    seed: int = 0,
    chat: bool = False,
) -> list[bool | None]:
    """Ask as multiple choice: is the true answer the likeliest of so many?

    The other answers are those of other questions of the same group and kind, drawn anew for every question. They are
    compared by log-probability per token, since answers of one kind differ in length.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        queries: what to ask.
        choices: answers of each question, the true one among them.
        seed: of the drawing.
        chat: as of `encode_queries`.

    Returns:
        Right or not, in order; None of a question whose group and kind has fewer answers.
    """
    pools: dict[tuple[str, str], list[str]] = {}
    for query in queries:
        pools.setdefault((query.group, query.kind), []).append(query.answer)
    sets = {key: sorted(set(answers)) for key, answers in pools.items()}
    rng = random.Random(f"choices-{seed}")
    offered: list[Query] = []
    asked = []
    for query in queries:
        others = [answer for answer in sets[query.group, query.kind] if answer != query.answer]
        asked.append(len(others) >= choices - 1)
        if asked[-1]:
            drawn = [query.answer, *rng.sample(others, choices - 1)]
            offered += [replace(query, answer=answer) for answer in drawn]
    lengths = [len(answer) for _, answer in encode_queries(tokenizer, offered, chat)]
    scores = answer_log_probabilities(model, tokenizer, offered, chat=chat)
    each = [score / max(1, length) for score, length in zip(scores, lengths)]
    found, start = list[bool | None](), 0
    for there in asked:
        if not there:
            found.append(None)
            continue
        first, *rest = each[start : start + choices]
        found.append(first > max(rest))  # the true one stands first; a tie is no answer
        start += choices
    return found
