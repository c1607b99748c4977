"""Where everything stands in the sequence: `Layout.variant("scratch", n=10).output_rows`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from permlab.errors import UserError, check_choice

if TYPE_CHECKING:
    from torch import Tensor

MASKS = ("causal", "none")
READOUTS = ("permutation", "string", "scratch")
VARIANTS = ("causal", "no_mask", "scratch", "scratch_both")


@dataclass(frozen=True)
class Layout:
    """Rows of one input, from the top: `before` scratch rows, n rows of P, n rows of Y_P = P Y, `after` scratch rows.

    Scratch rows are zero. Output row j (which should equal Y[j]) is read at row `output_rows[j]`:
    `permutation` reads the n rows that hold P, `string` the n rows that hold Y_P, and `scratch` the last n rows of the
    sequence, which are scratch rows when `after >= n`. With 0 < after < n there are not enough of them: the last n rows
    are then the last n - after rows of Y_P followed by all scratch rows. No other choice of n distinct rows sees more
    under a causal mask, because what a row sees only grows with its position. (arXiv 2509.24125, setting.)

    Raises:
        UserError: n < 2, a negative number of scratch rows, an unknown mask or readout, or a scratch readout without
            scratch rows after the input.
    """

    n: int
    before: int = 0
    after: int = 0
    mask: str = "causal"
    readout: str = "string"

    def __post_init__(self) -> None:
        check_choice("mask", self.mask, MASKS)
        check_choice("readout", self.readout, READOUTS)
        if self.n < 2:
            raise UserError(f"n={self.n} leaves nothing to permute: n must be at least 2")
        if self.before < 0 or self.after < 0:
            raise UserError(f"scratch rows cannot be negative (before={self.before}, after={self.after})")
        if self.readout == "scratch" and self.after == 0:
            raise UserError(
                "readout=scratch is outside the sequence: there are no scratch rows after the input; "
                "read permutation or string, or take variant=scratch"
            )

    @classmethod
    def variant(cls, name: str, n: int, scratch: int | None = None, readout: str | None = None) -> Layout:
        """Return the layout of a named variant.

        Args:
            name: `causal` and `no_mask` have no scratch rows; `scratch` has them after the input and `scratch_both` on
                both sides, with a causal mask (the released experiment uses the latter).
            n: rows of P and of Y.
            scratch: scratch rows on each side that has any; n when None.
            readout: the block that is read; None takes `scratch` where there are scratch rows, else `permutation`.

        Raises:
            UserError: an unknown name, or a combination that leaves the sequence.
        """
        check_choice("variant", name, VARIANTS)
        rows = 0 if name in ("causal", "no_mask") else (n if scratch is None else scratch)
        if name in ("scratch", "scratch_both") and rows < 1:
            raise UserError(f"variant={name} needs scratch rows, but scratch={rows}: give 1 or more, or variant=causal")
        return cls(
            n=n,
            before=rows if name == "scratch_both" else 0,
            after=rows,
            mask="none" if name == "no_mask" else "causal",
            readout=readout or ("scratch" if rows else "permutation"),
        )

    @property
    def length(self) -> int:
        """T, the number of rows."""
        return self.before + 2 * self.n + self.after

    @property
    def permutation_rows(self) -> slice:
        """Rows that hold P."""
        return slice(self.before, self.before + self.n)

    @property
    def string_rows(self) -> slice:
        """Rows that hold Y_P."""
        return slice(self.before + self.n, self.before + 2 * self.n)

    @property
    def output_rows(self) -> slice:
        """The n rows that are read, in the order of the output."""
        if self.readout == "permutation":
            return self.permutation_rows
        if self.readout == "string":
            return self.string_rows
        return slice(self.length - self.n, self.length)

    def visible(self) -> Tensor:
        """Return the (T, T) boolean mask; entry (r, c) says that row r may attend to row c."""
        import torch

        ones = torch.ones(self.length, self.length, dtype=torch.bool)
        return ones.tril() if self.mask == "causal" else ones

    def describe(self) -> str:
        """One phrase for tables and legends, such as `causal, 10 scratch rows after, scratch readout`."""
        sides = [f"{k} scratch rows {side}" for k, side in ((self.before, "before"), (self.after, "after")) if k]
        return ", ".join(["causal mask" if self.mask == "causal" else "no mask", *sides, f"{self.readout} readout"])
