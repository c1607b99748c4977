"""Which architecture answers where: `parse_combination("bert/generate")` is refused, an encoder cannot generate."""

from __future__ import annotations

from permlab.errors import UserError
from permlab.probes.table import ARCHITECTURES, READINGS


def combinations() -> list[str]:
    """Return every `architecture/reading` there is."""
    return [f"{name}/{reading}" for name, row in ARCHITECTURES.items() for reading in row.readings]


def parse_combination(text: str) -> tuple[str, str]:
    """Read `architecture/reading`.

    Raises:
        UserError: an unknown part, or a reading that the architecture does not have.
    """
    architecture, _, reading = text.partition("/")
    check_combination(architecture, reading)
    return architecture, reading


def check_combination(architecture: str, reading: str) -> None:
    """Refuse a combination that does not exist.

    Raises:
        UserError: naming what the architecture can do.
    """
    row = ARCHITECTURES.check("architecture", architecture)
    READINGS.check("reading", reading)
    if reading not in row.readings:
        raise UserError(f"{architecture} has no reading '{reading}'; it has {', '.join(row.readings)}")


def theorem(architecture: str, reading: str) -> str:
    """Whether the impossibility theorem (arXiv 2509.24125) speaks about a combination, and what it says."""
    if READINGS[reading].generates:
        return "no: answers after the input"
    if not ARCHITECTURES[architecture].causal:
        return "yes: no mask, possible"
    return "yes: impossible" if READINGS[reading].in_place else "yes: scratch rows, possible"
