"""The numbers that one tensor is merged with: `numbers_of(setting, count=2)("model.layers.0.mlp.up_proj.weight")`.

Most merges have the same numbers for all tensors, those of a `Setting`; a recipe may give every tensor its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from permlab.errors import UserError, check_range

if TYPE_CHECKING:
    from permlab.merging.setting import Setting


@dataclass(frozen=True)
class Numbers:
    """What one tensor of all networks is merged with.

    Attributes:
        weights: one per network; empty is what the method has without.
        densities: share of its change that every network keeps.
        scale: factor on the merged change (lambda).
        gammas: share of the largest entries of every change that is dropped.
        epsilons: how far the share that is kept moves with the rank of an entry, either way.
        normalize: weights are divided by their sum; None is what the method does.
    """

    weights: tuple[float, ...] = ()
    densities: tuple[float, ...] = ()
    gammas: tuple[float, ...] = ()
    epsilons: tuple[float, ...] = ()
    scale: float = 1.0
    normalize: bool | None = None

    def factors(self, count: int, normalize: bool) -> list[float]:
        """One factor per network, divided by their sum where the method or the user says so.

        Args:
            count: number of networks.
            normalize: what the method does where nothing is said.
        """
        weights = list(self.weights) or [1.0] * count
        if not (normalize if self.normalize is None else self.normalize):
            return weights
        total = sum(weights)
        return [weight / total for weight in weights] if total else weights


Find: TypeAlias = Callable[[str], Numbers]
"""Name of a tensor -> what it is merged with."""


def numbers_of(setting: Setting, count: int) -> Find:
    """Return the numbers of every tensor: those of a recipe, or the setting's for all.

    Raises:
        UserError: not one number per network, or one that is out of range.
    """
    if setting.numbers is not None:
        return setting.numbers
    densities = tuple(setting.densities) or (setting.density,) * count
    for name, given in (("weights", setting.weights), ("densities", densities)):
        if given and len(given) != count:
            raise UserError(f"{len(given)} {name} given for {count} models: give one per model")
    gammas, epsilons = (setting.gamma,) * count, (setting.epsilon,) * count
    found = Numbers(tuple(setting.weights), densities, gammas, epsilons, setting.scale, setting.normalize)
    check_numbers(found)
    return lambda name: found


def check_numbers(numbers: Numbers) -> None:
    """Refuse numbers that no method can use.

    Raises:
        UserError: naming the number.
    """
    for density in numbers.densities:
        check_range("density", density, 0, 1)
        if density == 0:
            raise UserError("density=0 would drop every change: give a share above 0, such as 0.2")
    for gamma in numbers.gammas:
        check_range("gamma", gamma, 0, 1)
    for epsilon in numbers.epsilons:
        check_range("epsilon", epsilon, 0, 1)
