"""Train disentangled transformers, several seeds at once: `Training(model, Recipe(steps=300), seeds=[0, 1, 2]).run()`.

The seeds share every matrix product (leading dimension) and nothing else: the loss is a sum over seeds, Adam works
coordinate by coordinate, and the batch of a step depends on (seed, step) only. So a seed trained alone and the same
seed trained beside others follow the same path up to rounding, and a run continued from `state_dict` is exact.

With `Recipe.patience` a training lasts until its errors stop falling (`Training.settle`). A seed that reaches the floor
leaves the computation with the weights it has then. Once no error has fallen for `patience` steps, the learning rate
goes down to 0 over as many steps, which ends the attempt; where the floor is 0, seeds above it begin again from other
weights, `restarts` times. Success rates are those of first attempts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from permlab.diverged import check_losses
from permlab.probes.apart import divided, train_apart
from permlab.probes.floors import mse_floor
from permlab.probes.lengths import Part, Whole
from permlab.probes.network import Network
from permlab.probes.recipes import Recipe
from permlab.probes.table import OPTIMIZERS, SCHEDULES
from permlab.seeding import derived_seed
from permlab.threads import for_work

FALLEN = 0.99
"""An error has fallen when it is below this share of the lowest before it."""


@dataclass
class Evaluation:
    """Errors of every seed after `step` steps and `seconds` of training."""

    step: int
    seconds: float
    train_mse: list[float]
    test_mse: list[float]
    row_accuracy: list[float]


@dataclass
class Rules:
    """What `Training.settle` remembers.

    Attributes:
        live: places in `seeds` of the networks that move.
        lowest: lowest error of each seed in this attempt, by steps of 1 - `FALLEN`.
        kept: of each seed that rests, the error, row accuracy and number of its best attempt.
        attempt: number of this attempt, from 1.
        started: step of its start.
        fell: last step at which an error fell.
        cooling: steps into the attempt at which the learning rate began to go down; None before.
    """

    live: list[int]
    lowest: list[float]
    kept: dict[int, tuple[float, float, int]] = field(default_factory=dict)
    attempt: int = 1
    started: int = 0
    fell: int = 0
    cooling: int | None = None

    def begin_again(self, live: list[int], step: int) -> None:
        """The next attempt of the networks `live`, at `step`."""
        self.live, self.lowest = live, [math.inf] * len(self.lowest)
        self.attempt, self.started, self.fell, self.cooling = self.attempt + 1, step, step, None

    def cooled(self, step: int, patience: int | None) -> float:
        """Factor of the learning rate `step` steps into the attempt: 1, then down to 0 over `patience` steps."""
        return 1.0 if self.cooling is None or not patience else max(0.0, 1 - (step - self.cooling) / patience)

    def end(self, steps: int, patience: int | None) -> int:
        """The step at which the attempt ends: after `steps` steps at most."""
        return self.started + (steps if self.cooling is None else min(steps, self.cooling + (patience or 0)))


class Training:
    """A batch of networks, one per seed, and everything needed to continue training them.

    Args:
        model: shapes; its layout is the problem.
        recipe: how to train; what it leaves open depends on n (`Recipe.resolved`).
        seeds: one network each.
        device: where to train.
        problem: what is drawn; whole problems when None.

    Raises:
        UserError: a recipe with an unknown name or a number out of range.
    """

    def __init__(
        self,
        model: Network,
        recipe: Recipe,
        seeds: list[int],
        device: str | torch.device = "cpu",
        problem: Whole | Part | None = None,
    ) -> None:
        recipe.check()
        self.model, self.recipe, self.seeds, self.device = model, recipe, list(seeds), torch.device(device)
        self.problem = problem or Whole()
        found = recipe.resolved(model.layout.n)
        self.steps, self.batch = found.steps, found.batch
        self.learning_rate = found.learning_rate * (model.rate if recipe.learning_rate is None else 1.0)
        self.floor = mse_floor(model.layout, model.depth)
        self.step, self.seconds, self.last_loss = 0, 0.0, torch.zeros(len(self.seeds), device=self.device)
        self.curve: list[Evaluation] = []
        self.rules = Rules(list(range(len(self.seeds))), [math.inf] * len(self.seeds))
        self._start(self._fresh())
        self._kept = self._moving.detach().clone()
        self._unchecked: list[Tensor] = []

    @functools.cached_property
    def _tests(self) -> tuple[Tensor, Tensor]:
        layout, examples = self.model.layout, self.recipe.test_examples
        return self._stack([self.problem.held_out(layout, examples, seed) for seed in self.seeds])

    def _fresh(self) -> Tensor:
        """Initial weights of the networks that move; those of a later attempt are others."""
        spread = self.model.init_std if self.recipe.init_std is None else self.recipe.init_std
        seeds, attempt = [self.seeds[k] for k in self.rules.live], self.rules.attempt
        if attempt > 1:
            seeds = [derived_seed("attempt", seed, attempt) % 2**32 for seed in seeds]
        return self.model.initial(seeds, spread).to(self.device)

    def _start(self, weights: Tensor) -> None:
        """Begin an attempt: an optimiser without memory, and the schedule from its start."""
        self._moving = weights.requires_grad_()
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS[self.recipe.optimizer].load()(
            self._moving, self.recipe, self.learning_rate
        )
        share = SCHEDULES[self.recipe.schedule or ("one_cycle" if self.recipe.patience is None else "warmup")].load()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: share(step, self.steps) * self.rules.cooled(step, self.recipe.patience)
        )

    @property
    def weights(self) -> Tensor:
        """Weights of every seed, (seeds, size): of those at rest, the ones they were left with."""
        if len(self.rules.live) == len(self.seeds):
            return self._moving
        whole = self._kept.clone()
        whole[self.rules.live] = self._moving.detach()
        return whole

    def _stack(self, pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = zip(*pairs)
        return torch.stack(x).to(self.device), torch.stack(y).to(self.device)

    def train_step(self) -> None:
        """One optimiser step for every seed that moves."""
        layout, recipe, live = self.model.layout, self.recipe, self.rules.live
        x, y = self._stack([self.problem.training(layout, self.batch, self.seeds[k], self.step) for k in live])
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.problem.error(self.model.forward(self.model.unpack(self._moving), x), y)
        loss.sum().backward()  # a sum: the seeds share no weight, so each gets its own gradient
        if recipe.clip is not None and self._moving.grad is not None:
            # Entry by entry, as the released script clips gradients to [-1, 1]; a clipped norm would couple the seeds.
            self._moving.grad.clamp_(-recipe.clip, recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        self.last_loss = self.last_loss.index_copy(0, torch.tensor(live, device=self.device), loss.detach())
        self._unchecked.append(self.last_loss)
        self.step += 1

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Measure every seed on its fixed test examples and append the result to `curve`.

        A seed at rest keeps the numbers it came to rest with.
        """
        x, y = (part[self.rules.live] for part in self._tests)
        output = self.model.forward(self.model.unpack(self._moving), x)
        before = self.curve[-1] if self.curve else None
        mse = before.test_mse.copy() if before else [math.nan] * len(self.seeds)
        rows = before.row_accuracy.copy() if before else [math.nan] * len(self.seeds)
        errors, shares = self.problem.error(output, y).tolist(), self.problem.accuracy(output, y).tolist()
        for k, error, share in zip(self.rules.live, errors, shares):
            mse[k], rows[k] = error, share
        self._check([mse])
        self.curve.append(Evaluation(self.step, self.seconds, self.last_loss.tolist(), mse, rows))
        return self.curve[-1]

    def settle(self) -> None:
        """Apply the rules of `Recipe.patience` to the last test: bring seeds to rest, cool down, begin again."""
        patience, rules = self.recipe.patience, self.rules
        if patience is None:
            return
        last = self.curve[-1]
        for k in rules.live:
            if last.test_mse[k] < FALLEN * rules.lowest[k]:
                rules.lowest[k], rules.fell = last.test_mse[k], self.step
        reached = self.reached(last)
        self._rest([k for k in rules.live if reached[k]])
        if rules.cooling is None and self.step - rules.fell >= patience:
            rules.cooling = self.step - rules.started
        if rules.live and self.step >= rules.end(self.steps, patience):
            self._rest(list(rules.live))
            if rules.attempt <= self.recipe.restarts and self.floor == 0:
                rules.begin_again([k for k, done in enumerate(self.reached(last)) if not done], self.step)
                self._start(self._fresh())

    def _rest(self, seeds: list[int]) -> None:
        """Take seeds (places in `seeds`) out of the computation, each with the better of this and earlier attempts."""
        rules, last = self.rules, self.curve[-1]
        for k in seeds:
            mine = (last.test_mse[k], last.row_accuracy[k], rules.attempt)
            if k not in rules.kept or mine[0] < rules.kept[k][0]:
                self._kept[k], rules.kept[k] = self._moving[rules.live.index(k)].detach(), mine
            last.test_mse[k], last.row_accuracy[k], _ = rules.kept[k]
        if not seeds:
            return
        left = [row for row, k in enumerate(rules.live) if k not in seeds]
        old, moments = self._moving, self.optimizer.state.pop(self._moving, {})
        self._moving = old.detach()[left].requires_grad_()
        self.optimizer.param_groups[0]["params"] = [self._moving]
        self.optimizer.state[self._moving] = {
            name: part[left] if part.shape == old.shape else part for name, part in moments.items()
        }
        rules.live = [rules.live[row] for row in left]

    def _check(self, losses: Sequence[Sequence[float]]) -> None:
        """Stop before a diverged network is measured or checkpointed; `losses` end with those of this step."""
        names = [f"seed {seed}" for seed in self.seeds]
        remedy = f"lower learning_rate={self.learning_rate:g}"
        check_losses(losses, self.step - len(losses) + 1, remedy, members=names)

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the last test met the target for every seed; with patience, if all rest."""
        if self.recipe.patience is not None:
            return not self.rules.live
        return self.step >= self.steps or (self.floor == 0 and bool(self.curve) and all(self.reached(self.curve[-1])))

    def reached(self, test: Evaluation) -> list[bool]:
        """Whether each seed is within the target of the floor in a test; where that is 0, with all rows right."""
        least = self.floor + self.recipe.target_mse
        return [mse <= least and (self.floor > 0 or rows == 1.0) for mse, rows in zip(test.test_mse, test.row_accuracy)]

    def first_attempts(self) -> list[bool]:
        """Whether each seed reached the floor in its first attempt: the rate of these is the rate of training."""
        done = self.reached(self.curve[-1])
        return [ok and attempt == 1 for ok, attempt in zip(done, self.attempts)]

    @property
    def attempts(self) -> list[int]:
        """Number of the attempt, from 1, whose weights each seed has."""
        return [self.rules.kept[k][2] if k in self.rules.kept else 1 for k in range(len(self.seeds))]

    def steps_to_target(self) -> list[int | None]:
        """First tested step at which each seed met the target, None where it never did."""
        hits = [[test.step for test in self.curve if self.reached(test)[k]] for k in range(len(self.seeds))]
        return [steps[0] if steps else None for steps in hits]

    def run(self, callback: Callable[[Training, Evaluation], None] | None = None) -> Evaluation:
        """Train until `finished` and return the last test; `callback` gets every test and may raise to stop.

        Raises:
            DivergedError: a network's loss left the finite numbers.
        """
        with self.undisturbed():
            while not self.finished:
                self._train_until_test()
                result = self.evaluate()
                self.settle()
                if callback is not None:
                    callback(self, result)
        return self.curve[-1]

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Train with the threads that there is work for, and without denormal numbers."""
        # Attention that has decided is full of them, and the processor takes ten times longer.
        torch.set_flush_denormal(True)
        try:
            # Each parameter meets every row of every example once forward and twice backward.
            with for_work(3.0 * self.weights.numel() * self.batch * self.model.layout.length):
                yield
        finally:
            torch.set_flush_denormal(False)

    def steps_until(self, until: int) -> Tensor:
        """Train up to a step; return the losses (steps, seeds) since losses were read last."""
        while self.step < until:
            self.train_step()
        losses = torch.stack(self._unchecked) if self._unchecked else torch.zeros(0, len(self.seeds))
        self._unchecked.clear()
        return losses

    def _train_until_test(self) -> None:
        started, every, end = time.perf_counter(), self.recipe.test_every, self.rules.end
        until = min(end(self.steps, self.recipe.patience), (self.step // every + 1) * every)
        losses = train_apart(self, until) if divided(self) else self.steps_until(until)
        self._check(losses.tolist())  # all at once: reading every step's loss would make a GPU wait for each
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moments, step, time and curve; tensors, numbers and lists only."""
        return {
            "weights": self._moving.detach().cpu().clone(),
            "kept": self._kept.cpu().clone(),
            "rules": dataclasses.asdict(self.rules),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.last_loss.cpu(),
            "curve": [vars(test).copy() for test in self.curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a training with the same model, recipe and seeds."""
        self.rules = Rules(**state["rules"])
        self._kept = state["kept"].to(self.device)
        self._start(state["weights"].to(self.device).clone())
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.seconds, self.last_loss = state["step"], state["seconds"], state["loss"].to(self.device)
        self.curve = [Evaluation(**entry) for entry in state["curve"]]
