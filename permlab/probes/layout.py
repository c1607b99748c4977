"""Where everything stands in the sequence: `Layout.variant("scratch", n=10).output_rows`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from permlab.errors import UserError
from permlab.probes.table import MASKS, POSITIONS, READOUTS, VARIANTS, MaskRow, ReadoutRow

if TYPE_CHECKING:
    from torch import Tensor


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
        MASKS.check("mask", self.mask)
        READOUTS.check("readout", self.readout)
        if self.n < 2:
            raise UserError(f"n={self.n} leaves nothing to permute: n must be at least 2")
        if self.before < 0 or self.after < 0:
            raise UserError(f"scratch rows cannot be negative (before={self.before}, after={self.after})")
        if self.block.scratch and self.after == 0:
            raise UserError(
                f"readout={self.readout} is outside the sequence: there are no scratch rows after the input; "
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
        row = VARIANTS.check("variant", name)
        rows = n if scratch is None else scratch
        if (row.before or row.after) and rows < 1:
            raise UserError(f"variant={name} needs scratch rows, but scratch={rows}: give 1 or more, or variant=causal")
        return cls(
            n=n,
            before=rows if row.before else 0,
            after=rows if row.after else 0,
            mask=row.mask,
            readout=readout or ("scratch" if row.after else "permutation"),
        )

    @classmethod
    def parse(cls, label: str, n: int, scratch: int | None = None) -> Layout:
        """Read `variant` or `variant/readout`, as in `causal/string`; `n` and `scratch` as in `variant`.

        Raises:
            UserError: an unknown part, or a combination that leaves the sequence.
        """
        variant, _, readout = label.partition("/")
        return cls.variant(variant, n, scratch, readout or None)

    @classmethod
    def swept(cls, n: int, position: str, count: int) -> Layout:
        """Return one point of a sweep over `count` scratch rows: the last n rows are read, whatever they hold.

        With k < n rows after the input those are the last n - k rows of Y_P and all scratch rows; with rows before the
        input only (or none), they are the rows of Y_P.

        Raises:
            UserError: a position outside `table.POSITIONS`, or a negative count.
        """
        row = POSITIONS.check("position", position)
        # n - 1 rows behind the input are the least with floor 0: the first output row may be the last of Y_P.
        after = count if row.after else 0
        return cls(n, count if row.before else 0, after, "causal", "scratch" if after else "string")

    @property
    def masking(self) -> MaskRow:
        """What is known about its mask."""
        return MASKS[self.mask]

    @property
    def block(self) -> ReadoutRow:
        """What is known about the block that is read."""
        return READOUTS[self.readout]

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
        rows: slice = self.block.load()(self)
        return rows

    def visible(self) -> Tensor:
        """Return the (T, T) boolean mask; entry (r, c) says that row r may attend to row c."""
        import torch

        ones = torch.ones(self.length, self.length, dtype=torch.bool)
        # The only difference between the impossibility theorem of 2509.24125 and its two-layer construction.
        return ones.tril() if self.masking.causal else ones

    def describe(self) -> str:
        """One phrase for tables and legends, such as `causal, 10 scratch rows after, scratch readout`."""
        sides = [f"{k} scratch rows {side}" for k, side in ((self.before, "before"), (self.after, "after")) if k]
        return ", ".join([self.masking.title, *sides, f"{self.readout} readout"])


# ---- targets of `table.READOUTS` -------------------------------------------------------------------------------------


def read_permutation(layout: Layout) -> slice:
    """The n rows that hold P."""
    return layout.permutation_rows


def read_string(layout: Layout) -> slice:
    """The n rows that hold Y_P."""
    return layout.string_rows


def read_last(layout: Layout) -> slice:
    """The last n rows of the sequence: scratch rows where there are n of them."""
    return slice(layout.length - layout.n, layout.length)
