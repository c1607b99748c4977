"""Scores of state dicts on cached batches: `evaluate(model, state, batches).loss`, `temperature(logits, labels)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from permlab.errors import UserError
from permlab.matching.activation import as_inputs
from permlab.symmetry.functional import call


@dataclass(frozen=True)
class Score:
    """Mean loss (nats per sample or token) and accuracy (0 to 1) over `count` samples or tokens."""

    loss: float
    accuracy: float
    count: int

    @property
    def perplexity(self) -> float:
        """exp(loss), for language models."""
        # exp overflows float64 a little above 709.
        return math.exp(min(self.loss, 700.0))


Scorer = Callable[[nn.Module, Mapping[str, Tensor], Any], tuple[Tensor, Tensor, int]]
"""(model, state, batch) -> (summed loss, number correct, count); the loss is differentiable in the state."""


def classification_score(model: nn.Module, state: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor, int]:
    """Cross-entropy and hits of one (inputs, labels) batch, or a mapping with "labels"."""
    labels = batch["labels"] if isinstance(batch, Mapping) else batch[1]
    logits = logits_in(call(model, state, as_inputs(batch)))
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    return loss, (logits.argmax(-1) == labels).sum(), len(labels)


def language_score(model: nn.Module, state: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor, int]:
    """Next-token cross-entropy and hits of a mapping with "input_ids" (and "labels", -100 where nothing counts)."""
    # Position t is scored on token t + 1.
    labels = batch.get("labels", batch["input_ids"])[:, 1:]
    logits = logits_in(call(model, state, as_inputs(batch)))[:, :-1]
    counted = labels != -100
    loss = functional.cross_entropy(logits[counted], labels[counted], reduction="sum")
    return loss, (logits.argmax(-1) == labels)[counted].sum(), int(counted.sum())


def logits_in(result: Any) -> Tensor:
    """The logits of a forward result: the result itself, or its `logits`."""
    return result if isinstance(result, Tensor) else result.logits


def batches_of(x: Tensor, y: Tensor | None = None, size: int = 512) -> list[Any]:
    """Tensors cut into batches once, for use by every arm: [(x, y), ...] or [x, ...]."""
    return list(x.split(size)) if y is None else list(zip(x.split(size), y.split(size)))


def rebatched(batches: Sequence[tuple[Tensor, Tensor]], size: int) -> list[tuple[Tensor, Tensor]]:
    """The same (inputs, labels) in the same order, in equal batches of at most `size`."""
    x, y = (torch.cat(values) for values in zip(*batches))
    return batches_of(x, y, -(-len(x) // -(-len(x) // size)))


def noise_batches(shape: Sequence[int], count: int = 1024, size: int = 256, seed: int = 0) -> list[Tensor]:
    """Uniform noise with mean 0 and deviation 1 in place of data; `shape` is that of one sample."""
    generator = torch.Generator().manual_seed(seed)
    # Uniform noise on an interval of width 1 has variance 1 / 12.
    return list(((torch.rand(count, *shape, generator=generator) - 0.5) * math.sqrt(12)).split(size))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The module in eval mode, and as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def evaluate(
    model: nn.Module, state: Mapping[str, Tensor], batches: Sequence[Any], scorer: Scorer = classification_score
) -> Score:
    """Loss and accuracy of `state` over all batches, in eval mode.

    Raises:
        UserError: no batches.
    """
    loss, correct, count = 0.0, 0, 0
    with eval_mode(model):
        for batch in batches:
            one, hits, samples = scorer(model, state, batch)
            loss, correct, count = loss + float(one), correct + int(hits), count + samples
    if not count:
        raise UserError("there is nothing to evaluate on: give at least one batch")
    return Score(loss / count, correct / count, count)


@torch.no_grad()
def logits_of(model: nn.Module, state: Mapping[str, Tensor], batches: Sequence[Any]) -> Tensor:
    """Outputs [N, classes] of `state` over all batches, in eval mode."""
    with eval_mode(model):
        return torch.cat([logits_in(call(model, state, as_inputs(batch))) for batch in batches])


def labels_of(batches: Sequence[Any]) -> Tensor:
    """Labels [N] of (inputs, labels) batches."""
    return torch.cat([batch["labels"] if isinstance(batch, Mapping) else batch[1] for batch in batches])


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Cross-entropy and accuracy of logits [N, C]."""
    # float64: barriers are small differences of losses.
    loss = functional.cross_entropy(logits.double(), labels)
    return Score(float(loss), float((logits.argmax(1) == labels).double().mean()), len(labels))


def ensemble_logits(logits: Sequence[Tensor], *, of: str = "logits") -> Tensor:
    """The mean over models of their logits, or the logarithm of their mean probabilities (`of="probabilities"`)."""
    stacked = torch.stack(list(logits))
    if of == "logits":
        return stacked.mean(0)
    return stacked.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def disagreement(first: Tensor, second: Tensor) -> float:
    """Share of samples on which two models' arg-max predictions differ; logits [N, C] each."""
    return float((first.argmax(1) != second.argmax(1)).double().mean())


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 that minimises the cross-entropy of logits / T (calibration, as in arXiv 2510.08023).

    The loss is convex in 1 / T; T is confined to [0.01, 1000].
    """
    from scipy.optimize import minimize_scalar

    values = logits.detach().double().cpu()
    labels = labels.cpu()

    def loss(log_inverse: float) -> float:
        return float(functional.cross_entropy(values * math.exp(log_inverse), labels))

    # Over log 1/T: T stays positive, and both directions are searched on one scale.
    found = minimize_scalar(loss, bounds=(-math.log(1000), math.log(100)), method="bounded", options={"xatol": 1e-6})
    return math.exp(-float(found.x))


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected gap between confidence and accuracy over bins of equal width (arXiv 1706.04599, equation 3)."""
    confidence, chosen = logits.double().softmax(1).max(1)
    hits = (chosen == labels).double()
    at = (confidence * bins).ceil().long() - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, at, hits - confidence)
    return float(gaps.abs().sum() / len(labels))


# ---- how a subject is scored -----------------------------------------------------------------------------------------

Ensemble = Callable[[nn.Module, Sequence[Mapping[str, Tensor]], Sequence[Any]], Score]
"""(model, states, batches) -> score of the mean of the networks' answers: what running all of them gives."""


def classification_ensemble(model: nn.Module, states: Sequence[Mapping[str, Tensor]], batches: Sequence[Any]) -> Score:
    """Score of the mean of the networks' logits."""
    return score_logits(ensemble_logits([logits_of(model, state, batches) for state in states]), labels_of(batches))


@torch.no_grad()
def language_ensemble(model: nn.Module, states: Sequence[Mapping[str, Tensor]], batches: Sequence[Any]) -> Score:
    """Score of the mean of the networks' probabilities of the next token, batch by batch."""
    loss, correct, count = 0.0, 0, 0
    with eval_mode(model):
        for batch in batches:
            labels = batch.get("labels", batch["input_ids"])[:, 1:]
            counted = labels != -100
            logits = [logits_in(call(model, state, as_inputs(batch)))[:, :-1][counted] for state in states]
            # Logits of language models have no common zero; their probabilities can be averaged.
            mean, wanted = ensemble_logits(logits, of="probabilities"), labels[counted]
            loss -= float(mean.gather(1, wanted[:, None]).sum())
            correct, count = correct + int((mean.argmax(1) == wanted).sum()), count + len(wanted)
    return Score(loss / count, correct / count, count)


@dataclass(frozen=True)
class Scoring:
    """How networks of a kind are scored: one on a batch, all together, and whether perplexities mean something."""

    scorer: Scorer
    ensemble: Ensemble
    perplexity: bool = False


CLASSIFIERS = Scoring(classification_score, classification_ensemble)
LANGUAGE_MODELS = Scoring(language_score, language_ensemble, perplexity=True)
