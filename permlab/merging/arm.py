"""Arms, the ways to merge networks, by name: `parse_arm("activation/least_squares+reset").label`.

An arm is a matching, a way to combine what was matched, and what is done to the statistics afterwards, written
`match[/combine][+renorm]`. `permlab.merging.merge_arm` carries them out; nothing heavy is imported here, because
configurations are checked with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from permlab.errors import UserError
from permlab.matching.table import MATCHES
from permlab.merging.table import COMBINES, RENORMS


@dataclass(frozen=True)
class Arm:
    """match / combine + renorm: names of `MATCHES`, `COMBINES` and `RENORMS`."""

    match: str
    combine: str = "average"
    renorm: str = "none"

    @property
    def label(self) -> str:
        """Its name in tables and figures: "weight matching, least squares + reset".

        What goes without saying is left out: how a matching is usually combined, and the only matching that a way to
        combine goes with.
        """
        match, combine = MATCHES[self.match], COMBINES[self.combine]
        words = match.title if self.combine == match.combine else f"{match.title}, {combine.title}"
        if len(combine.matches) == 1:
            words = combine.title
        return words + (f" + {self.renorm}" if RENORMS[self.renorm].changes else "")

    @property
    def text(self) -> str:
        """As `parse_arm` reads it."""
        return (
            self.match
            + ("" if self.combine == MATCHES[self.match].combine else f"/{self.combine}")
            + (f"+{self.renorm}" if RENORMS[self.renorm].changes else "")
        )

    @property
    def slug(self) -> str:
        """Its label as part of a metric's name: weight_matching_least_squares_reset."""
        return slug(self.label)


def slug(label: str) -> str:
    """A label as part of a metric's name: "weight matching + reset" -> weight_matching_reset."""
    return re.sub(r"[^a-z0-9.]+", "_", label.lower()).strip("_")


def parse_arm(text: str) -> Arm:
    """Read `match[/combine][+renorm]`.

    Raises:
        UserError: an unknown part, or parts that do not fit together.
    """
    rest, _, renorm = text.partition("+")
    match, _, combine = (part.strip() for part in rest.partition("/"))
    usual = MATCHES.check("match", match).combine
    arm = Arm(match, combine or usual, renorm.strip() or "none")
    check_arm(arm)
    return arm


def check_arm(arm: Arm) -> None:
    """Refuse arms whose parts do not exist or do not fit together.

    Raises:
        UserError: naming the part.
    """
    match = MATCHES.check("match", arm.match)
    combine = COMBINES.check("combine", arm.combine)
    renorm = RENORMS.check("renorm", arm.renorm)
    if combine.matches and arm.match not in combine.matches:
        allowed = " or ".join(combine.matches)
        raise UserError(f"{arm.text}: combine={arm.combine} {combine.reason}; use match={allowed}")
    if match.zips and arm.match not in combine.matches:
        raise UserError(
            f"{arm.text}: {match.title} merges units inside one network too: match={arm.match} and "
            f"combine={match.combine} go together"
        )
    if match.zips and renorm.pairs:
        raise UserError(
            f"{arm.text}: a zipped unit has no fixed pair to take statistics from; use renorm none or reset"
        )
