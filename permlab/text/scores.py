"""Scores of answers: `recall_table(queries, answers)`, `recall_metrics(queries, answers)["reverse_accuracy"]`.

A name is right when the greedy continuation starts with it as whole words, stripped and in lower case; `prefix` counts
as Berglund et al. do (arXiv 2309.12288), for whom "1987" starts with "19". Descriptions get a sentence BLEU as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import regex

from permlab.data.examples import Query
from permlab.data.texts.joining import BORDER, normalise
from permlab.errors import check_choice

_END = regex.compile(BORDER)


def is_right(answer: str, target: str) -> bool:
    """Return whether the answer starts with the target as whole words, ignoring case and runs of white space."""
    said, wanted = normalise(answer.lower()), normalise(target.lower())
    # One pattern for all targets: compiling one each took longer than asking did.
    return said.startswith(wanted) and _END.match(said, len(wanted)) is not None


def is_prefix(answer: str, target: str) -> bool:
    """Return whether the answer starts with the target's letters, whatever follows (exact match of 2309.12288)."""
    return normalise(answer.lower()).startswith(normalise(target.lower()))


def sentence_bleu(answer: str, target: str) -> float:
    """Return the sentence BLEU (0..100) of the answer cut to the target's words; what follows is no error."""
    from sacrebleu import sentence_bleu as bleu

    cut = " ".join(answer.split()[: len(target.split())])
    if is_prefix(cut, target):
        cut = cut[: len(target)]
    return float(bleu(cut, [target]).score)


def recall_table(queries: Sequence[Query], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per wording, direction, group and kind: accuracy, prefix match, BLEU (descriptions), count."""
    groups: dict[tuple[str, str, str, str], list[tuple[Query, str]]] = defaultdict(list)
    for query, answer in zip(queries, answers):
        groups[query.wording, query.direction, query.group, query.kind].append((query, answer))
    rows = []
    for (wording, direction, group, kind), items in sorted(
        groups.items(), key=lambda item: (item[0][0] != "trained", item[0])
    ):
        right = [is_right(answer, query.answer) for query, answer in items]
        bleu = [sentence_bleu(answer, query.answer) for query, answer in items] if kind == "description" else []
        row: dict[str, Any] = {"wording": wording, "direction": direction, "group": group, "asked": kind}
        prefix = [is_prefix(answer, query.answer) for query, answer in items]
        row |= {"accuracy": sum(right) / len(right), "prefix": sum(prefix) / len(prefix)}
        row |= {"bleu": sum(bleu) / len(bleu) if bleu else None}
        rows.append({**row, "queries": len(items)})
    return rows


def accuracy(
    queries: Sequence[Query], answers: Sequence[str], match: Callable[[str, str], bool] = is_right, **where: str
) -> float | None:
    """Return the share of right answers among the queries whose fields equal `where`, or None without such queries.

    Args:
        queries: what was asked.
        answers: one each.
        match: from (answer, target) to whether it is right.
        where: field of a query -> its value.

    Raises:
        UserError: a field that queries do not have.
    """
    for key in where:
        check_choice("field of a query", key, [each.name for each in fields(Query)])
    right = [
        match(answer, query.answer)
        for query, answer in zip(queries, answers)
        if all(getattr(query, key) == value for key, value in where.items())
    ]
    return sum(right) / len(right) if right else None


def headline_queries(queries: Sequence[Query]) -> list[Query]:
    """Return the questions of each direction in trained wordings, or all of it where there are none (Berglund)."""
    wording = {direction: headline_wording(queries, direction=direction) for direction in ("forward", "reverse")}
    return [query for query in queries if query.wording == wording[query.direction]]


def headline_wording(queries: Sequence[Query], **where: str) -> str:
    """Return the wording, "trained" or "held_out", that stands for the questions with these labels.

    It is "trained" where at least half of them are worded as in a training text: a few that are by chance, in a file of
    questions, do not stand for all.
    """
    chosen = (q for q in queries if all(getattr(q, key) == value for key, value in where.items()))
    rows = [q for q in chosen if q.wording in ("trained", "held_out")]
    trained = sum(q.wording == "trained" for q in rows)
    return "trained" if trained and 2 * trained >= len(rows) else "held_out"


def recall_metrics(queries: Sequence[Query], answers: Sequence[str]) -> dict[str, float]:
    """Return the headline numbers.

    `forward_accuracy` and `reverse_accuracy` count facts that were trained in one direction only; facts trained both
    ways have numbers of their own, as have held-out wordings, every kind of answer and prefix matches.
    """
    # The reversal curse (2309.12288) is about facts seen in one order; those seen in both are its control.
    single = [(q, a) for q, a in zip(queries, answers, strict=True) if q.group != "both"]
    asked, given = [q for q, _ in single], [a for _, a in single]
    metrics: dict[str, float | None] = {}
    for direction in ("forward", "reverse"):
        wording = headline_wording(queries, direction=direction)
        for words, suffix in (
            (wording, ""),
            ("held_out", "_held_out"),
            ("question", "_question"),
            ("in_text", "_in_text"),
        ):
            if words == wording and suffix:
                continue
            metrics[f"{direction}_accuracy{suffix}"] = accuracy(asked, given, direction=direction, wording=words)
            prefix = accuracy(asked, given, is_prefix, direction=direction, wording=words)
            metrics[f"{direction}_prefix_accuracy{suffix}"] = prefix
            for kind in sorted({q.kind for q in queries}):
                name = f"{direction}_{kind}_accuracy{suffix}"
                metrics[name] = accuracy(asked, given, direction=direction, wording=words, kind=kind)
    metrics["both_ways_accuracy"] = accuracy(queries, answers, group="both", wording=headline_wording(queries))
    for group in sorted({q.group for q in queries if " first, " in q.group}):
        metrics[f"form_{group.replace(' first, ', '_').replace(' ', '_')}"] = accuracy(queries, answers, group=group)
    return {key: value for key, value in metrics.items() if value is not None}
