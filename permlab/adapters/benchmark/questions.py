"""What a benchmark of adapters consists of: questions in groups, one group per adapter.

>>> benchmark = knowledge(groups=3, seed=0)
>>> benchmark.groups[0].test.ids.shape          # (questions, tokens); the answer is marked in .answer

Every benchmark has a pretraining set for the base model, one group of questions per adapter (train, validation, test),
and where it makes sense questions on what the base knew before (`kept`). `table.BENCHMARKS` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

PAD, BEGIN, UNKNOWN, SEPARATOR = 0, 1, 2, 3
SPECIAL = 4
"""The first token that means something of its own."""


@dataclass(frozen=True)
class Questions:
    """`ids` (n, tokens) int64, padded on the right with 0; `answer` (n, tokens) bool marks what has to be predicted."""

    ids: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, index: Tensor | slice) -> Questions:
        """A part of the questions."""
        return Questions(self.ids[index], self.answer[index])


@dataclass(frozen=True)
class Group:
    """Questions of one adapter. `chance`: score of the best constant answer (0 where there is none to speak of).

    `replay`: questions of the base, mixed half and half into the training of the adapter, or None.
    """

    name: str
    train: Questions
    validation: Questions
    test: Questions
    chance: float = 0.0
    replay: Questions | None = None


@dataclass(frozen=True)
class Benchmark:
    """What the base is trained on, what the adapters are, and how answers are scored.

    `metric`: a name of `table.ANSWER_METRICS`. `kept`: questions the base
    can answer. `fresh`: tokens the base cannot tell apart (labels), to be spread by `training.spread_embeddings`.
    """

    name: str
    vocabulary: int
    base: Questions
    groups: list[Group]
    metric: str
    kept: Group | None = None
    fresh: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Longest sequence."""
        return max(self.base.ids.shape[1], *(group.train.ids.shape[1] for group in self.groups))
