"""What is measured before a model is trained, and again after it: answers, and the loss on general text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data import Corpus, limit_queries
from permlab.models.table import WEIGHTS
from permlab.runs.run import Run
from permlab.text.forgetting import Blocks, loss_per_token, own_text, read_general, text_blocks
from permlab.text.recall import answer_queries
from permlab.text.scores import headline_queries, recall_metrics

if TYPE_CHECKING:
    from permlab.tasks.spt import SptConfig


class Asked:
    """Forward and reverse recall of the headline questions, at any time of the training."""

    def __init__(self, config: Config[SptConfig], model: Any, tokenizer: Any, corpus: Corpus) -> None:
        self._settings, self._model, self._tokenizer = config.task.evaluation, model, tokenizer
        self.queries = headline_queries(limit_queries(corpus.queries, self._settings.limit))

    def __call__(self) -> dict[str, float]:
        """Return forward_accuracy and reverse_accuracy, those of them that are asked; the model's mode stays."""
        training = self._model.training
        answers = answer_queries(self._model, self._tokenizer, self.queries, batch_size=self._settings.batch_size)
        self._model.train(training)
        metrics = recall_metrics(self.queries, answers)
        return {key: metrics[key] for key in ("forward_accuracy", "reverse_accuracy") if key in metrics}


class Kept:
    """The loss on general text, which a pretrained model should keep; text that a model of ours never read is none."""

    def __init__(self, config: Config[SptConfig], run: Run, model: Any, tokenizer: Any) -> None:
        given = config.task.general
        self._blocks, self._own = Blocks(), given.path is None
        if not given.sequences or (self._own and not WEIGHTS[config.model.weights].pretrained):
            return
        sizes = {"sequences": given.sequences, "tokens": min(given.tokens, context_of(model) or given.tokens)}
        self._blocks = (
            own_text(model, tokenizer, **sizes, seed=config.seed)
            if given.path is None
            else text_blocks(tokenizer, read_general(given.path, given.split), **sizes)
        )
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


def ask_before(config: Config[SptConfig], run: Run, asked: Asked) -> None:
    """Ask an untrained model where that is wanted: a pretrained one may know, or guess, some answers."""
    wanted = config.task.evaluation.before
    if asked.queries and (WEIGHTS[config.model.weights].pretrained if wanted is None else wanted):
        found = asked()
        run.summary(**{f"{key}_before": value for key, value in found.items()})
        run.say("before training: " + ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in found.items()))
        run.check_stop()
