"""Seeds of one training in several processes: `permlab task=inverse_permutation task.seeds=8 hardware.processes=2`.

Between two tests the seeds have nothing to do with each other. So the seeds that move are dealt out, with weights,
moments and schedule, trained up to the next test, and put together again: tests, rest, cooling and new attempts are
decided by all of them, in the process that asks. What is dealt out is what a checkpoint holds, a few rows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from permlab import processes
from permlab.probes.lengths import Part, Whole
from permlab.probes.network import Network
from permlab.probes.recipes import Recipe

if TYPE_CHECKING:
    from permlab.probes.training import Training


@dataclass
class Piece:
    """Some of the seeds of a training, until its next test."""

    kind: type[Training]
    model: Network
    recipe: Recipe
    seeds: list[int]
    device: torch.device
    problem: Whole | Part
    state: dict[str, Any]
    until: int


def divided(training: Training) -> bool:
    """Whether other processes can take some of the seeds that move."""
    return min(processes.count(), len(training.rules.live)) > 1


def train_apart(training: Training, until: int) -> Tensor:
    """Train the seeds that move up to step `until`, as so many `train_step`s; return the losses (steps, seeds)."""
    live, whole = training.rules.live, training.state_dict()
    rows = [part.tolist() for part in torch.arange(len(live)).tensor_split(min(processes.count(), len(live)))]
    pieces = [
        Piece(
            type(training),
            training.model,
            training.recipe,
            [training.seeds[live[row]] for row in part],
            training.device,
            training.problem,
            part_of(whole, part, live),
            until,
        )
        for part in rows
    ]
    states, losses = zip(*processes.apart(advanced, pieces))
    whole["weights"] = torch.cat([state["weights"] for state in states])
    whole["optimizer"] = {
        "state": {0: joined([state["optimizer"]["state"][0] for state in states])},
        "param_groups": states[0]["optimizer"]["param_groups"],
    }
    whole |= {"schedule": states[0]["schedule"], "step": until}
    whole["loss"] = whole["loss"].index_copy(0, torch.tensor(live), torch.cat(losses, dim=1)[-1])
    training.load_state_dict(whole)
    each: Tensor = whole["loss"].repeat(len(losses[0]), 1)
    return each.index_copy(1, torch.tensor(live), torch.cat(losses, dim=1))


def part_of(whole: dict[str, Any], rows: list[int], live: list[int]) -> dict[str, Any]:
    """Return the state of some of the seeds that move, as of a training of these alone."""
    count, moments = len(rows), whole["optimizer"]["state"].get(0, {})
    shape = whole["weights"].shape
    mine = {key: value[rows] if value.shape == shape else value for key, value in moments.items()}
    return whole | {
        "weights": whole["weights"][rows],
        "kept": whole["kept"][[live[row] for row in rows]],
        "rules": whole["rules"] | {"live": list(range(count)), "lowest": [0.0] * count, "kept": {}},
        "optimizer": whole["optimizer"] | {"state": {0: mine} if mine else {}},
        "loss": whole["loss"][[live[row] for row in rows]],
        "curve": [],
    }


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the moments of all: those of every seed one after the other, what they share once."""
    return {key: torch.cat([part[key] for part in parts]) if value.dim() else value for key, value in parts[0].items()}


def advanced(piece: Piece) -> tuple[dict[str, Any], Tensor]:
    """Train in a process of its own; return the state at the end and the losses (steps, seeds)."""
    training = piece.kind(piece.model, piece.recipe, piece.seeds, piece.device, piece.problem)
    training.load_state_dict(piece.state)
    with training.undisturbed():
        losses = training.steps_until(piece.until)
    return training.state_dict(), losses.cpu()
