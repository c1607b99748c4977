"""Ways to merge networks, by name: `parse_arm("activation/least_squares+reset").label`.

An arm is a matching, a way to combine what was matched, and what is done to the statistics afterwards, written
`match[/combine][+renorm]`. `permlab.merging.arms` carries them out; nothing heavy is imported here, because
configurations are checked with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.errors import UserError, check_choice

MATCHES = {
    "identity": "no permutation",
    "random": "random permutation",
    "weight": "weight matching",
    "activation": "activation matching",
    "straight_through": "straight-through",
    "zip": "ZipIt",
}
COMBINES = {
    "average": "",
    "least_squares": ", least squares",
    "regmean": ", RegMean",
    "zip": "",
    "task_arithmetic": ", task arithmetic",
    "ties": ", TIES",
}
RENORMS = ("none", "reset", "rescale", "reshift")


@dataclass(frozen=True)
class Arm:
    """match / combine + renorm; see `MATCHES`, `COMBINES`, `RENORMS`."""

    match: str
    combine: str = "average"
    renorm: str = "none"

    @property
    def label(self) -> str:
        """Its name in tables and figures: "weight matching, least squares + reset"."""
        ancestral = self.combine in ("task_arithmetic", "ties")
        words = COMBINES[self.combine].removeprefix(", ") if ancestral else MATCHES[self.match] + COMBINES[self.combine]
        return words + ("" if self.renorm == "none" else f" + {self.renorm}")

    @property
    def text(self) -> str:
        """As `parse_arm` reads it."""
        return (
            self.match
            + ("" if self.combine == "average" else f"/{self.combine}")
            + ("" if self.renorm == "none" else f"+{self.renorm}")
        )


def parse_arm(text: str) -> Arm:
    """Read `match[/combine][+renorm]`.

    Raises:
        UserError: an unknown part, or parts that do not fit together.
    """
    rest, _, renorm = text.partition("+")
    match, _, combine = rest.partition("/")
    arm = Arm(match.strip(), combine.strip() or ("zip" if match.strip() == "zip" else "average"), renorm or "none")
    check_arm(arm)
    return arm


def check_arm(arm: Arm) -> None:
    """Refuse arms whose parts do not exist or do not fit together.

    Raises:
        UserError: naming the part.
    """
    check_choice("match", arm.match, MATCHES)
    check_choice("combine", arm.combine, COMBINES)
    check_choice("renorm", arm.renorm, RENORMS)
    if (arm.match == "zip") != (arm.combine == "zip"):
        raise UserError(
            f"{arm.text}: ZipIt merges units inside one network too, so match=zip and combine=zip go together only"
        )
    if arm.combine in ("task_arithmetic", "ties") and arm.match != "identity":
        raise UserError(
            f"{arm.text}: {arm.combine} adds up changes since a common ancestor, which a permutation tears apart; "
            "use match=identity"
        )
    if arm.combine == "zip" and arm.renorm in ("rescale", "reshift"):
        raise UserError(
            f"{arm.text}: a zipped unit has no fixed pair to take statistics from; use renorm none or reset"
        )
