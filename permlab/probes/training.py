"""Train disentangled transformers, several seeds at once: `Training(model, Recipe(steps=300), seeds=[0, 1, 2]).run()`.

The seeds share every matrix product (leading dimension) and nothing else: the loss is a sum over seeds, Adam works
coordinate by coordinate, and the batch of a step depends on (seed, step) only. So a seed trained alone and the same
seed trained beside others follow the same path up to rounding, and a run continued from `state_dict` is exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from permlab.errors import check_choice, check_range
from permlab.probes.layout import Layout
from permlab.probes.problem import heldout_batch, row_accuracy, squared_error, training_batch
from permlab.probes.transformer import Transformer

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("one_cycle", "cosine", "constant")


def default_learning_rate(n: int) -> float:
    """Return the largest learning rate of the one-cycle schedule: 0.06 at n = 10, falling like 1/sqrt(n).

    Attention has to leave a plateau (all rows of Y_P averaged, error n/4 (1 - 1/n)): 0.03 stays on it for hundreds of
    steps at n = 10, and 0.1 never leaves it at n = 32.
    """
    return 0.06 * math.sqrt(10 / n)


def default_init_std(layout: Layout) -> float:
    """Return 0.02 under a causal mask, and 0.2 without one.

    Without a mask both solutions (see `mechanism`) are open to every row, and from nearly equal weights some rows
    start on one and some on the other and stay unsolved; a wide start settles it. Under a causal mask the wide start
    keeps the network on the plateau. At n = 10 (batch 128, rate 0.1, no decay, 12 seeds) a wide start solved 12 and a
    narrow one 8 without a mask; with scratch rows 0.1 solved 4 and 0.02 solved 11.
    """
    return 0.2 if layout.mask == "none" else 0.02


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: at most; the schedule is laid out for this many.
        batch: fresh examples per step and seed.
        learning_rate: the largest of the schedule; None takes `default_learning_rate`.
        optimizer: `adam`, or `sgd` without momentum.
        schedule: `one_cycle` (cosine up over 30 % of the steps, cosine down to 0), `cosine` (down to 0), `constant`.
        betas: of Adam; a short second-moment memory leaves the plateau sooner.
        weight_decay: decoupled (AdamW). It keeps attention that is still noise from saturating: with no mask, a batch
            of 128 and no decay, one seed in three kept a few rows unsolved for good.
        init_std: standard deviation of the normal initial weights; 0 starts at zero, None takes
            `default_init_std`.
        clip: largest absolute value of a gradient entry, None for no clipping.
        target_mse: stop once every seed's test error is at most this and all of its test rows are right; 0 never stops.
        test_every: steps between tests.
        test_examples: fixed test examples per seed, rounded up to a multiple of n.

    Raises:
        UserError: an unknown name or a number out of range.
    """

    steps: int = 600
    batch: int = 256
    learning_rate: float | None = None
    optimizer: str = "adam"
    schedule: str = "one_cycle"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.03
    init_std: float | None = None
    clip: float | None = None
    target_mse: float = 0.01
    test_every: int = 25
    test_examples: int = 256

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        for key in ("steps", "batch", "test_every", "test_examples"):
            check_range(key, getattr(self, key), low=1)
        check_range("target_mse", self.target_mse, low=0)
        if self.init_std is not None:
            check_range("init_std", self.init_std, low=0)
        check_range("weight_decay", self.weight_decay, low=0)
        for beta in self.betas:
            check_range("betas", beta, low=0, high=0.99999)

    def rate(self, step: int, n: int) -> float:
        """Return the learning rate of a step (0-based)."""
        top = default_learning_rate(n) if self.learning_rate is None else self.learning_rate
        if self.schedule == "constant":
            return top
        rise = 0.3 * self.steps if self.schedule == "one_cycle" else 0.0
        if step < rise:
            return top * (1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / rise)) / 2)
        return top * (1 + math.cos(math.pi * (step - rise) / (self.steps - rise))) / 2


@dataclass
class Evaluation:
    """Errors of every seed after `step` steps and `seconds` of training."""

    step: int
    seconds: float
    train_mse: list[float]
    test_mse: list[float]
    row_accuracy: list[float]


class Training:
    """A batch of networks, one per seed, and everything needed to continue training them."""

    def __init__(
        self, model: Transformer, recipe: Recipe, seeds: list[int], device: str | torch.device = "cpu"
    ) -> None:
        self.model, self.recipe, self.seeds, self.device = model, recipe, list(seeds), torch.device(device)
        spread = default_init_std(model.layout) if recipe.init_std is None else recipe.init_std
        self.weights = model.initial(self.seeds, spread).to(self.device).requires_grad_()
        options: dict[str, Any] = {"lr": 0.0}
        decay = {"weight_decay": recipe.weight_decay}
        if recipe.optimizer == "adam":
            options |= {"betas": recipe.betas, "fused": True}
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW([self.weights], **decay, **options)
        else:
            self.optimizer = torch.optim.SGD([self.weights], **decay, **options)
        self.step, self.seconds, self.last_loss = 0, 0.0, torch.zeros(len(self.seeds))
        self.curve: list[Evaluation] = []
        self._tests = self._stack([heldout_batch(model.layout, recipe.test_examples, seed) for seed in self.seeds])

    def _stack(self, pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = zip(*pairs)
        return torch.stack(x).to(self.device), torch.stack(y).to(self.device)

    def train_step(self) -> None:
        """One optimiser step for every seed."""
        layout, recipe = self.model.layout, self.recipe
        x, y = self._stack([training_batch(layout, recipe.batch, seed, self.step) for seed in self.seeds])
        self.optimizer.zero_grad(set_to_none=True)
        loss = squared_error(self.model.forward(self.model.unpack(self.weights), x), y)
        loss.sum().backward()
        if recipe.clip is not None and self.weights.grad is not None:
            self.weights.grad.clamp_(-recipe.clip, recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step, layout.n)
        self.optimizer.step()
        self.last_loss = loss.detach()
        self.step += 1

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Measure every seed on its fixed test examples and append the result to `curve`."""
        x, y = self._tests
        output = self.model.forward(self.model.unpack(self.weights), x)
        result = Evaluation(
            step=self.step,
            seconds=self.seconds,
            train_mse=self.last_loss.tolist(),
            test_mse=squared_error(output, y).tolist(),
            row_accuracy=row_accuracy(output, y).tolist(),
        )
        self.curve.append(result)
        return result

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the last test met the target for every seed."""
        return self.step >= self.recipe.steps or (bool(self.curve) and all(self.solved(self.curve[-1])))

    def solved(self, test: Evaluation) -> list[bool]:
        """Whether each seed meets the target in a test."""
        target = self.recipe.target_mse
        return [mse <= target and rows == 1.0 for mse, rows in zip(test.test_mse, test.row_accuracy)]

    def steps_to_target(self) -> list[int | None]:
        """First tested step at which each seed met the target, None where it never did."""
        hits = [[test.step for test in self.curve if self.solved(test)[k]] for k in range(len(self.seeds))]
        return [steps[0] if steps else None for steps in hits]

    def run(self, callback: Callable[[Training, Evaluation], None] | None = None) -> Evaluation:
        """Train until `finished` and return the last test; `callback` gets every test and may raise to stop."""
        # Attention that has decided is full of denormal numbers, which the processor takes ten times longer for.
        torch.set_flush_denormal(True)
        try:
            while not self.finished:
                self._train_until_test()
                result = self.evaluate()
                if callback is not None:
                    callback(self, result)
        finally:
            torch.set_flush_denormal(False)
        return self.curve[-1]

    def _train_until_test(self) -> None:
        started, every = time.perf_counter(), self.recipe.test_every
        until = min(self.recipe.steps, (self.step // every + 1) * every)
        while self.step < until:
            self.train_step()
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moments, step, time and curve; tensors, numbers and lists only."""
        return {
            "weights": self.weights.detach().cpu().clone(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.last_loss.cpu(),
            "curve": [vars(test).copy() for test in self.curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a training with the same model, recipe and seeds."""
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.last_loss = state["step"], state["seconds"], state["loss"].to(self.device)
        self.curve = [Evaluation(**entry) for entry in state["curve"]]
