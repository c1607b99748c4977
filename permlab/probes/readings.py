"""Where a Transformers architecture gives its answer: `check_combination("bert", "generate")` is refused."""

from __future__ import annotations

from permlab.errors import UserError, check_choice

READINGS = ("in_place", "filler", "generate")
FITTING = {
    "llama": READINGS,
    "gpt2": READINGS,
    "bert": ("in_place", "filler"),
    "t5": ("generate",),
}
"""Architecture -> readings it has: an encoder cannot generate, and the decoder of T5 has no input positions to read."""


def check_combination(architecture: str, reading: str) -> None:
    """Refuse a combination that does not exist.

    Raises:
        UserError: naming what the architecture can do.
    """
    check_choice("architecture", architecture, FITTING)
    check_choice("reading", reading, READINGS)
    if reading not in FITTING[architecture]:
        raise UserError(f"{architecture} has no reading '{reading}'; it has {', '.join(FITTING[architecture])}")
