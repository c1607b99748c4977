"""Train sequence models on a word problem: `Training(Model(...), words, Recipe(), seeds).run()`.

Every network draws words of its own; none depends on which others are trained beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from permlab.diverged import check_losses, check_weights
from permlab.seeding import derived_seed
from permlab.state_tracking.models import Model
from permlab.state_tracking.settings import Recipe
from permlab.state_tracking.words import Numbers, Words


class Training:
    """Networks, their optimizer and the place in the data."""

    def __init__(self, model: Model, words: Words, recipe: Recipe, seeds: Sequence[int]) -> None:
        self.model, self.words, self.recipe, self.seeds = model, words, recipe, list(seeds)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        )
        self.done = 0
        self._unchecked: list[Tensor] = []

    def rate(self, step: int) -> float:
        """The learning rate of a step, over its top."""
        warm = max(1, self.recipe.steps // 10)
        share = min(1.0, max(0.0, (step - warm) / max(1, self.recipe.steps - warm)))
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + float(np.cos(np.pi * share)))

    def longest(self, step: int) -> int:
        """Symbols of the longest word of a step."""
        short, grown = self.recipe.shortest, self.recipe.growth * self.recipe.steps
        share = min(1.0, (step + 1) / grown) if grown else 1.0
        return short + round(share * (self.recipe.length - short))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Words and products [S, B, T] of a step; the length is the same for all networks."""
        draw = np.random.default_rng(derived_seed(0, "length", step) % 2**63)
        length = int(draw.integers(self.recipe.shortest, self.longest(step) + 1))
        drawn = [
            self.words.draw(self.recipe.batch, length, derived_seed(seed, "train", step) % 2**63) for seed in self.seeds
        ]
        symbols, states = (torch.from_numpy(np.stack(part)) for part in zip(*drawn))
        return symbols, states

    def step(self) -> Tensor:
        """One step; returns the losses [S]."""
        symbols, states = self.batch(self.done)
        device = next(self.model.parameters()).device
        logits = self.model(symbols.to(device))
        losses = (
            nn.functional.cross_entropy(logits.flatten(0, 2), states.to(device).flatten(), reduction="none")
            .view(len(self.seeds), -1)
            .mean(1)
        )
        self.optimizer.zero_grad(set_to_none=True)
        # The sum's gradient is each network's own.
        losses.sum().backward()
        self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self.rate(self.done)
        self.optimizer.step()
        self.done += 1
        self._unchecked.append(losses.detach())
        return losses.detach()

    def check(self) -> None:
        """Stop where the losses since the last call, or the weights, have left the finite numbers.

        Raises:
            DivergedError: naming the step and the seed.
        """
        remedy = f"lower learning_rate={self.recipe.learning_rate:g}"
        losses, self._unchecked = [each.tolist() for each in self._unchecked], []
        names = [f"seed {seed}" for seed in self.seeds]
        check_losses(losses, self.done - len(losses) + 1, remedy, members=names)
        check_weights(self.model.parameters(), self.done, remedy)

    @torch.no_grad()
    def _clip(self) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = torch.stack([each.flatten(1).square().sum(1) for each in gradients]).sum(0).sqrt()
        factors = (self.recipe.clip / norms.clamp(min=self.recipe.clip)).nan_to_num(0.0)
        for each in gradients:
            each.mul_(factors.view(-1, *[1] * (each.dim() - 1)))

    def state(self) -> dict[str, Any]:
        """What `load` continues from."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "done": self.done}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = int(state["done"])


def repeated_accuracy(model: Model, words: Words, length: int) -> npt.NDArray[np.float64]:
    """[S]: share of right products in the second half of `Words.repeated`, against `Words.ceiling`."""
    shares: npt.NDArray[np.float64] = right(model, *words.repeated(length))[:, 0, length // 2 :].mean(1)
    return shares


def accuracy(model: Model, words: Words, count: int, length: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """[S, length]: share of right products at every position, of words that all networks read.

    Args:
        model: networks.
        words: the word problem.
        count: words.
        length: symbols of each.
        seed: of the words; training words derive from other numbers.
    """
    drawn = words.draw(count, length, derived_seed(seed, "test", length) % 2**63)
    shares: npt.NDArray[np.float64] = right(model, *drawn).mean(1)
    return shares


@torch.no_grad()
def right(model: Model, symbols: Numbers, states: Numbers) -> npt.NDArray[np.bool_]:
    """[S, B, T]: whether every network gives the products `states` [B, T] of words `symbols` [B, T]."""
    weights = model.head.weight
    shown = torch.from_numpy(symbols).to(weights.device).expand(len(weights), -1, -1)
    found: npt.NDArray[np.bool_] = (model(shown).argmax(-1).cpu() == torch.from_numpy(states)).numpy()
    return found


def reach(curve: npt.NDArray[np.float64], least: float = 0.9) -> int:
    """How far a network follows: the positions before the accuracy falls below `least` for the first time."""
    below = np.flatnonzero(curve < least)
    return int(below[0]) if below.size else len(curve)
