"""Answers counted three ways: `answers_of(answer_probabilities(model, questions), questions, candidates).exact`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.adapters.benchmark.questions import Questions
from permlab.adapters.training import share_of_answers


@dataclass(frozen=True)
class Answers:
    """Scores of `count` questions.

    Attributes:
        exact: share whose every token is the first choice among all tokens.
        log_probability: mean over questions of the log-probability of the right answer, nats.
        choice: share whose right answer begins most probably among the candidates.
    """

    exact: float
    log_probability: float
    choice: float
    count: int


def answers_of(probabilities: Tensor, questions: Questions, candidates: Tensor) -> Answers:
    """Score answers.

    Args:
        probabilities: (answer tokens, vocabulary) at the marked positions, as `training.answer_probabilities`.
        questions: what was asked.
        candidates: (answers,) first tokens of the answers that may be given, all different.
    """
    row, column = questions.answer.nonzero(as_tuple=True)
    wanted = questions.ids[row, column]
    right = probabilities.argmax(dim=-1) == wanted
    logs = probabilities.gather(1, wanted[:, None])[:, 0].clamp_min(1e-30).log().double()
    count = len(questions)
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, row, logs)
    # `nonzero` goes along the rows: the first token of an answer is where the row changes.
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = row[1:] != row[:-1]
    chosen = candidates[probabilities[first][:, candidates].argmax(dim=-1)]
    return Answers(
        exact=share_of_answers(right, row, count),
        log_probability=float(total.mean()),
        choice=float((chosen == wanted[first]).double().mean()),
        count=count,
    )
