"""The questions after training: `ask(config, run, model, tokenizer, corpus)` makes the tables and headline numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data import Corpus, Query, limit_queries
from permlab.models.table import OBJECTIVES
from permlab.runs.run import Run
from permlab.tasks.spt.before import asker
from permlab.tasks.spt.figures import recall_bars
from permlab.text.choices import choose, likelihood_metrics, likelihoods
from permlab.text.masked import covered_first
from permlab.text.scores import headline_queries, headline_wording, is_right, recall_metrics, recall_table

if TYPE_CHECKING:
    from permlab.tasks.spt import SptConfig

CONVERGED = 0.9
"""Forward recall below which a model has not learned what its reverse recall is judged on."""


def ask(config: Config[SptConfig], run: Run, model: Any, tokenizer: Any, corpus: Corpus) -> None:
    """Ask every question and report accuracy, BLEU and likelihoods."""
    settings = config.task.evaluation
    masked = OBJECTIVES[config.model.objective].masked
    queries = limit_queries(corpus.queries + (covered_first(corpus) if masked else []), settings.limit)
    if not queries:
        run.say("the dataset has no questions; nothing to ask")
        return
    with run.progress("asking", len(queries)) as bar:
        answers = asker(config, corpus)(
            model,
            tokenizer,
            queries,
            batch_size=settings.batch_size,
            chat=settings.chat,
            progress=lambda done, total: bar.update(done),
        )
    run.check_stop()
    rows = recall_table(queries, answers)
    run.table("recall", rows, title=f"recall after training with order={config.task.order}")
    answered = [
        {**asdict(query), "continuation": answer, "right": is_right(answer, query.answer)}
        for query, answer in zip(queries, answers, strict=True)
    ]
    run.table("answers", answered, show=False)
    metrics = recall_metrics(queries, answers)
    if not masked:
        metrics |= compare(config, run, model, tokenizer, queries)
    run.summary(**metrics)
    run.figure("recall", recall_bars(rows))
    known = metrics.get("forward_accuracy")
    if known is not None and known < CONVERGED and headline_wording(queries, direction="forward") == "trained":
        run.warn(
            f"not converged: {known:.2f} of the facts are recalled in the direction they were trained in, so the "
            "reverse figures say little; raise task.train.epochs"
        )


def compare(
    config: Config[SptConfig], run: Run, model: Any, tokenizer: Any, queries: Sequence[Query]
) -> dict[str, float]:
    """Compare answers by log-probability, as far as that is wanted; returns the numbers of the headline."""
    settings, asked, metrics = config.task.evaluation, headline_queries(queries), dict[str, float]()
    if settings.likelihood:
        columns = ["direction", "group", "asked", "difference", "t", "p"]
        compared = likelihoods(model, tokenizer, asked, config.seed, settings.chat)
        run.table("likelihood", compared, title="log-probability, true minus shuffled answer (nats)", columns=columns)
        metrics |= likelihood_metrics(compared)
    if settings.choices:
        chosen = choose(model, tokenizer, asked, settings.choices, config.seed, settings.chat)
        for direction in ("forward", "reverse"):
            own = [
                right for query, right in zip(asked, chosen) if query.direction == direction and query.group != "both"
            ]
            if found := [right for right in own if right is not None]:
                metrics[f"{direction}_choice_accuracy"] = sum(found) / len(found)
                run.say(
                    f"{direction}: {metrics[f'{direction}_choice_accuracy']:.3f} right of {settings.choices} choices"
                )
            if len(found) < len(own):
                run.warn(f"{len(own) - len(found)} {direction} questions have fewer than {settings.choices} choices")
    return metrics
