"""What is measured before a model is trained, and again after it: answers, and the loss on general text."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data import Corpus, limit_queries
from permlab.errors import UserError
from permlab.models.table import OBJECTIVES, WEIGHTS
from permlab.runs.run import Run
from permlab.seeding import derived_seed
from permlab.text.forgetting import Blocks, loss_per_token, own_text, read_general, text_blocks
from permlab.text.scores import headline_queries, recall_metrics

if TYPE_CHECKING:
    from permlab.tasks.spt import SptConfig


def with_base(config: Config[SptConfig], run: Run) -> Config[SptConfig]:
    """Return the configuration with the small pretrained base as its model, where that is wanted; trains it once."""
    if not config.task.base.pretrain:
        return config
    from permlab.pretraining import BaseSettings, pretrained_base, read_record

    settings = BaseSettings(corpus=config.task.base.corpus)
    with run.progress("pretraining the base", 1) as bar:

        def progress(done: int, steps: int, loss: float) -> None:
            run.check_stop()
            bar.total = steps  # known from here on
            bar.update(done, loss=loss)

        folder = pretrained_base(settings, Path(config.run.root) / "bases", device=run.device, progress=progress)
    record = read_record(folder)
    run.say(f"base {folder}: {record['tokens_read']} tokens read, loss {record['loss_held_out']:.3f} on held-out text")
    model = replace(config.model, path=str(folder), weights="pretrained", tokenizer="pretrained")
    return replace(config, model=model)


MOST_OWN = 512
"""Pieces that a model writes for its own training: more cost more than the training does."""


def asker(config: Config[SptConfig], corpus: Corpus) -> Any:
    """Return what asks the model: from (model, tokenizer, queries, ...) to answers, see `answer_queries`."""
    row = OBJECTIVES[config.model.objective]
    if not row.masked:
        return row.load_answers()
    closed = all(example.text.endswith(".") for example in corpus.examples)
    return partial(row.load_answers(), closing="." if closed else "")


class Asked:
    """Forward and reverse recall of the headline questions, at any time of the training."""

    def __init__(self, config: Config[SptConfig], model: Any, tokenizer: Any, corpus: Corpus) -> None:
        self._settings, self._model, self._tokenizer = config.task.evaluation, model, tokenizer
        self._answer = asker(config, corpus)
        self.queries = headline_queries(limit_queries(corpus.queries, self._settings.limit))

    def __call__(self) -> dict[str, float]:
        """Return forward_accuracy and reverse_accuracy, those of them that are asked; the model's mode stays."""
        training = self._model.training
        given = self._settings
        answers = self._answer(self._model, self._tokenizer, self.queries, batch_size=given.batch_size, chat=given.chat)
        self._model.train(training)
        metrics = recall_metrics(self.queries, answers)
        return {key: metrics[key] for key in ("forward_accuracy", "reverse_accuracy") if key in metrics}


class Kept:
    """The loss on general text, which a pretrained model should keep; text that a model of ours never read is none.

    `pool`: further pieces of it, to be trained on between the texts.
    """

    def __init__(self, config: Config[SptConfig], run: Run, model: Any, tokenizer: Any, pieces: int = 0) -> None:
        given = config.task.general
        self._blocks, self._own = Blocks(), given.path is None
        self.pool = Blocks()
        if not (given.sequences or pieces) or (self._own and not WEIGHTS[config.model.weights].pretrained):
            return
        tokens = min(given.tokens, context_of(model) or given.tokens)
        if given.path is None:
            self._blocks = own_text(model, tokenizer, sequences=given.sequences, tokens=tokens, seed=config.seed)
            seed = derived_seed(config.seed, "general text") % 2**63
            self.pool = own_text(model, tokenizer, sequences=min(pieces, MOST_OWN), tokens=tokens, seed=seed)
        else:
            texts = read_general(given.path, given.split)
            found = text_blocks(tokenizer, texts, sequences=given.sequences + pieces, tokens=tokens)
            self._blocks, self.pool = found[: given.sequences], found[given.sequences :]
            if pieces and not self.pool:
                raise UserError(
                    f"task.general.path={given.path} holds {len(found)} pieces, all of which are scored: lower "
                    "task.general.sequences, or give a longer text"
                )
        if not self._blocks:
            return
        self._before = loss_per_token(model, self._blocks)
        run.summary(general_loss_before=self._before)
        run.check_stop()

    def report(self, run: Run, model: Any) -> None:
        """Score the trained model, and say what it forgot."""
        if not self._blocks:
            return
        after = loss_per_token(model, self._blocks)
        run.summary(general_loss=after, forgotten=after - self._before)
        text = "text that the model wrote before training" if self._own else "the general text"
        was, now = (math.exp(min(loss, 700.0)) for loss in (self._before, after))
        run.say(f"perplexity of {text}: {was:.2f}, now {now:.2f} ({after - self._before:+.3f} nats a token)")


def context_of(model: Any) -> int | None:
    """Return how many tokens a model can read, or None where it does not say."""
    context = getattr(model.config, "max_position_embeddings", None)
    return context if isinstance(context, int) else None


class Harness:
    """Tasks of lm-evaluation-harness before training and after it."""

    def __init__(self, config: Config[SptConfig], run: Run, model: Any, tokenizer: Any) -> None:
        self._given, self._seed, self._tokenizer = config.task.evaluation, config.seed, tokenizer
        self.report(run, model, "_before")

    def report(self, run: Run, model: Any, suffix: str = "") -> None:
        """Score the model."""
        given = self._given
        if not given.harness:
            return
        from permlab.text.harness import harness_scores

        options: dict[str, Any] = {"batch_size": given.batch_size, "limit": given.harness_limit, "seed": self._seed}
        found = harness_scores(model, self._tokenizer, given.harness, **options)
        run.summary(**{f"harness_{name}{suffix}": value for name, value in found.items()})
        run.say("; ".join(f"{name} {value:.3f}" for name, value in found.items()))
        run.check_stop()


def ask_before(config: Config[SptConfig], run: Run, asked: Asked) -> None:
    """Ask an untrained model where that is wanted: a pretrained one may know, or guess, some answers."""
    wanted = config.task.evaluation.before
    if asked.queries and (WEIGHTS[config.model.weights].pretrained if wanted is None else wanted):
        found = asked()
        run.summary(**{f"{key}_before": value for key, value in found.items()})
        run.say("before training: " + ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in found.items()))
        run.check_stop()
