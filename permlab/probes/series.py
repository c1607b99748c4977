"""Several networks, trained one after another: `dict(Series({"mine": Transformer(layout)}, Recipe(), [0]).train())`.

`state` is all that a stopped series needs to go on: the networks that are done, and the one that was being trained.
A series that goes on gives the numbers of one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from permlab.probes.lengths import Part, Whole
from permlab.probes.network import Network
from permlab.probes.recipes import Recipe
from permlab.probes.training import Evaluation, Training

OnTest = Callable[[str, Training, Evaluation], None]


class Series:
    """Trains every kind of network with the same recipe and the same seeds.

    Args:
        models: label -> network, in the order of training.
        recipe: how to train each of them.
        seeds: of each kind, trained as one computation.
        device: where to train.
        problems: label -> what it is trained on, where that is not the whole problem.
        state: of a stopped series with the same arguments; None starts a new one.
    """

    def __init__(
        self,
        models: Mapping[str, Network],
        recipe: Recipe,
        seeds: list[int],
        device: str | torch.device = "cpu",
        problems: Mapping[str, Whole | Part] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.models, self.recipe, self.seeds, self.device = dict(models), recipe, list(seeds), device
        self.problems = dict(problems or {})
        self._done: dict[str, dict[str, Any]] = dict(state["done"]) if state else {}
        self._label: str | None = state["label"] if state else None
        self._cut_off: dict[str, Any] | None = state["training"] if state else None
        self._current: Training | None = None

    @property
    def state(self) -> dict[str, Any]:
        """Tensors, numbers and lists only."""
        training = self._cut_off if self._current is None else self._current.state_dict()
        return {"done": self._done, "label": self._label, "training": training}

    @property
    def finished_steps(self) -> int:
        """Steps of the networks that are done."""
        return sum(state["step"] for state in self._done.values())

    @property
    def steps(self) -> int:
        """Steps of the networks that are done and of the one that was cut off."""
        return self.finished_steps + (self._cut_off["step"] if self._cut_off else 0)

    def train(self, on_test: OnTest | None = None) -> Iterator[tuple[str, Training]]:
        """Yield (label, training) once it is done; what was done before a stop is only loaded.

        Args:
            on_test: called with (label, training, test) after every test; may raise to stop, with `state` up to date.
        """
        for label, model in self.models.items():
            training = Training(model, self.recipe, self.seeds, self.device, self.problems.get(label))
            if label in self._done:
                training.load_state_dict(self._done[label])
            else:
                self._go_on(label, training, on_test)
            yield label, training

    def _go_on(self, label: str, training: Training, on_test: OnTest | None) -> None:
        if self._cut_off is not None and self._label == label:
            training.load_state_dict(self._cut_off)
        self._label, self._current, self._cut_off = label, training, None
        training.run(None if on_test is None else lambda one, test: on_test(label, one, test))
        self._label = self._current = None
        self._done[label] = training.state_dict()
