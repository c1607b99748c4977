"""Train disentangled transformers, several seeds at once: `Training(model, Recipe(steps=300), seeds=[0, 1, 2]).run()`.

The seeds share every matrix product (leading dimension) and nothing else: the loss is a sum over seeds, Adam works
coordinate by coordinate, and the batch of a step depends on (seed, step) only. So a seed trained alone and the same
seed trained beside others follow the same path up to rounding, and a run continued from `state_dict` is exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from permlab.diverged import check_losses
from permlab.probes.layout import Layout
from permlab.probes.problem import heldout_batch, row_accuracy, squared_error, training_batch
from permlab.probes.recipes import Optimization, Recipe
from permlab.probes.table import OPTIMIZERS, SCHEDULES
from permlab.probes.transformer import Transformer
from permlab.threads import for_work


def default_init_std(layout: Layout) -> float:
    """Return 0.02 under a causal mask, and 0.2 without one (`table.MASKS`).

    Without a mask both solutions (see `mechanism`) are open to every row, and from nearly equal weights some rows
    start on one and some on the other and stay unsolved; a wide start settles it. Under a causal mask the wide start
    keeps the network on the plateau. At n = 10 (batch 128, rate 0.1, no decay, 12 seeds) a wide start solved 12 and a
    narrow one 8 without a mask; with scratch rows 0.1 solved 4 and 0.02 solved 11.
    """
    return layout.masking.init_std


@dataclass
class Evaluation:
    """Errors of every seed after `step` steps and `seconds` of training."""

    step: int
    seconds: float
    train_mse: list[float]
    test_mse: list[float]
    row_accuracy: list[float]


class Training:
    """A batch of networks, one per seed, and everything needed to continue training them.

    Args:
        model: shapes; its layout is the problem.
        recipe: how to train; what it leaves open depends on n (`Recipe.resolved`).
        seeds: one network each.
        device: where to train.

    Raises:
        UserError: a recipe with an unknown name or a number out of range.
    """

    def __init__(
        self, model: Transformer, recipe: Recipe, seeds: list[int], device: str | torch.device = "cpu"
    ) -> None:
        recipe.check()
        self.model, self.recipe, self.seeds, self.device = model, recipe, list(seeds), torch.device(device)
        found = recipe.resolved(model.layout.n)
        self.steps, self.batch, self.learning_rate = found.steps, found.batch, found.learning_rate
        spread = default_init_std(model.layout) if recipe.init_std is None else recipe.init_std
        self.weights = model.initial(self.seeds, spread).to(self.device).requires_grad_()
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS[recipe.optimizer].load()(
            self.weights, recipe, self.learning_rate
        )
        share = SCHEDULES[recipe.schedule].load()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: share(step, self.steps))
        self.step, self.seconds, self.last_loss = 0, 0.0, torch.zeros(len(self.seeds))
        self.curve: list[Evaluation] = []
        self._unchecked: list[Tensor] = []
        self._tests = self._stack([heldout_batch(model.layout, recipe.test_examples, seed) for seed in self.seeds])

    def _stack(self, pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = zip(*pairs)
        return torch.stack(x).to(self.device), torch.stack(y).to(self.device)

    def train_step(self) -> None:
        """One optimiser step for every seed."""
        layout, recipe = self.model.layout, self.recipe
        x, y = self._stack([training_batch(layout, self.batch, seed, self.step) for seed in self.seeds])
        self.optimizer.zero_grad(set_to_none=True)
        loss = squared_error(self.model.forward(self.model.unpack(self.weights), x), y)
        loss.sum().backward()  # a sum: the seeds share no weight, so each gets its own gradient
        if recipe.clip is not None and self.weights.grad is not None:
            # Entry by entry, as the released script clips gradients to [-1, 1]; a clipped norm would couple the seeds.
            self.weights.grad.clamp_(-recipe.clip, recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        self.last_loss = loss.detach()
        self._unchecked.append(self.last_loss)
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
        self._check([result.test_mse])
        self.curve.append(result)
        return result

    def _check(self, losses: Sequence[Sequence[float]]) -> None:
        """Stop before a diverged network is measured or checkpointed; `losses` end with those of this step."""
        names = [f"seed {seed}" for seed in self.seeds]
        remedy = f"lower learning_rate={self.learning_rate:g}"
        check_losses(losses, self.step - len(losses) + 1, remedy, members=names)

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the last test met the target for every seed."""
        return self.step >= self.steps or (bool(self.curve) and all(self.solved(self.curve[-1])))

    def solved(self, test: Evaluation) -> list[bool]:
        """Whether each seed meets the target in a test."""
        target = self.recipe.target_mse
        return [mse <= target and rows == 1.0 for mse, rows in zip(test.test_mse, test.row_accuracy)]

    def steps_to_target(self) -> list[int | None]:
        """First tested step at which each seed met the target, None where it never did."""
        hits = [[test.step for test in self.curve if self.solved(test)[k]] for k in range(len(self.seeds))]
        return [steps[0] if steps else None for steps in hits]

    def run(self, callback: Callable[[Training, Evaluation], None] | None = None) -> Evaluation:
        """Train until `finished` and return the last test; `callback` gets every test and may raise to stop.

        Raises:
            DivergedError: a network's loss left the finite numbers.
        """
        # Attention that has decided is full of denormal numbers, which the processor takes ten times longer for.
        torch.set_flush_denormal(True)
        try:
            # Each parameter meets every row of every example once forward and twice backward.
            with for_work(3.0 * self.weights.numel() * self.batch * self.model.layout.length):
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
        until = min(self.steps, (self.step // every + 1) * every)
        while self.step < until:
            self.train_step()
        if self._unchecked:
            # All at once: reading every step's loss would make a GPU wait for each.
            losses = torch.stack(self._unchecked).tolist()
            self._unchecked.clear()
            self._check(losses)
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moments, step, time and curve; tensors, numbers and lists only."""
        return {
            "weights": self.weights.detach().cpu().clone(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
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
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.seconds, self.last_loss = state["step"], state["seconds"], state["loss"].to(self.device)
        self.curve = [Evaluation(**entry) for entry in state["curve"]]


# ---- targets of `table.OPTIMIZERS` -----------------------------------------------------------------------------------


def adam(weights: Tensor, recipe: Optimization, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with the recipe's betas and decay."""
    betas = (recipe.betas[0], recipe.betas[1])
    return torch.optim.AdamW([weights], lr=learning_rate, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def sgd(weights: Tensor, recipe: Optimization, learning_rate: float) -> torch.optim.Optimizer:
    """Gradient descent without momentum."""
    return torch.optim.SGD([weights], lr=learning_rate, weight_decay=recipe.weight_decay)
