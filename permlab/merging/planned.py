"""The arms of a comparison: `planned_arms(parse_arm("weight"), [parse_arm("activation")], controls=True)`.

Nothing heavy is imported here: a dry run names the arms without the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from permlab.merging.arm import Arm
from permlab.merging.table import COMBINES


@dataclass(frozen=True)
class Planned:
    """An arm to be judged: its role in the comparison and the multiply-accumulates it may use."""

    arm: Arm
    role: str
    budget: float = 1.0

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.arm.label + (f" at {self.budget:g}x" if self.budget > 1 else "")


def planned_arms(
    chosen: Arm, compare: Sequence[Arm] = (), *, controls: bool, budget: float = 1.0, batchnorm: bool = False
) -> list[Planned]:
    """Every arm once: the chosen one, those to compare, the controls that permute nothing or anything.

    Args:
        chosen, compare: the arm that a run is about, and more.
        controls: add them.
        budget: of the arms that can spend one.
        batchnorm: the networks have running statistics, so that measuring them again is a control too.
    """

    def spent(arm: Arm) -> float:
        return budget if COMBINES[arm.combine].partial else 1.0

    arms = [Planned(chosen, "configured", spent(chosen))]
    arms += [Planned(arm, "compare", spent(arm)) for arm in compare]
    if controls:
        # Naive averaging and a meaningless permutation frame what a matching can claim.
        added = [Planned(Arm("identity"), "control"), Planned(Arm("random"), "control")]
        # The same treatment without the permutation: what the permutation itself is worth.
        same = [each for each in arms if not COMBINES[each.arm.combine].matches]
        added += [replace(each, arm=replace(each.arm, match="identity")) for each in same]
        added += [Planned(each.arm, "") for each in same if each.budget > 1]
        if batchnorm:
            # A reset alone can beat a matching without one, so it is reported by itself.
            added.append(Planned(Arm("identity", "average", "reset"), "control"))
        arms += [replace(each, role="control") for each in added]
    seen: dict[str, Planned] = {}
    for each in arms:
        seen.setdefault(each.label, each)
    return list(seen.values())
