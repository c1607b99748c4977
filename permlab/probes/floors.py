"""Exact lower bounds on the error: `mse_floor(Layout.variant("causal", n=10))` is 2.5.

Let output row j be allowed to know a set V_P of rows of P and a set V_Y of rows of Y_P (from `certificate.reachable`).
The best possible output is the posterior mean, bit by bit, and its error is the expected posterior variance. The
permutation s (row s(j) of Y_P is Y[j]) is uniform, the bits are independent of it and of each other, so what is seen of
Y_P says nothing about s, and one bit of Y[j] can be treated alone:

1. s(j) in V_P (probability |V_P|/n): the one in column j is seen, so s(j) is known. The bit is known if s(j) is in V_Y
   and is a fair coin otherwise: error 0 or 1/4.
2. s(j) not in V_P: s(j) is uniform over the u = n - |V_P| unseen rows U. Of these a = |U & V_Y| have a visible bit.
   The posterior mean is m = (sum of those bits)/u + (u - a)/(2u). The target is a bit, so the error is
   E[m (1 - m)] = 1/4 - Var m = 1/4 - a/(4 u^2).

    floor of row j = n/4 * [ |V_P \\ V_Y|/n + (u/n) (1 - a/u^2) ]           (n bits per row)

and the floor of the model is the mean over j. Under a causal mask a row that sees any of Y_P sees all of P, so for the
blocks that can be read the formula becomes (arXiv 2509.24125, theorem; the numbers are for n = 10)

    P rows                              n/4                        2.5
    Y_P rows                            (n - 1)/8                  1.125
    last n rows, k scratch rows after   (n - k)(n - k - 1)/(8 n)   0 from k = n - 1 on

so n - 1 scratch rows are needed and enough for exactness: the first output row may be the last row of Y_P, which
already sees everything. Scratch rows *before* the input see nothing and change no floor. Without a mask every floor
is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.probes.certificate import Reach, reachable
from permlab.probes.layout import Layout


def row_floors(reach: Reach) -> Tensor:
    """Return the least expected squared error of each output row, summed over its n bits: shape (n,), float64."""
    n = reach.string.shape[0]
    unseen = ~reach.permutation
    u = unseen.sum(1).double()
    a = (unseen & reach.string).sum(1).double()
    # Case 1 of the module docstring: the row of P is seen, its row of Y_P is not.
    known_row_unknown_bits = (reach.permutation & ~reach.string).sum(1).double() / n
    # Case 2: one of the u rows that P may have moved it to; a of them show a bit. Posterior variance 1/4 - a/(4 u^2).
    guess = torch.where(u > 0, u / n * (1 - a / u.clamp(min=1).square()), torch.zeros_like(u))
    # A fair bit has variance 1/4 and a row has n of them; the permutation being unknown costs no more than that.
    return n / 4 * (known_row_unknown_bits + guess)


def mse_floor(layout: Layout, depth: int = 2, mask: Tensor | None = None) -> float:
    """Return the least test error of any network with this mask: squared error per row, summed over its n bits.

    Args:
        layout: the rows and the block that is read.
        depth: number of attention layers; matters only for masks that are not transitive.
        mask: (T, T) boolean in place of the layout's own.
    """
    return float(row_floors(reachable(layout, depth, mask)).mean())


def row_accuracy_ceiling(layout: Layout) -> float:
    """Return the largest expected share of rows with all n bits right, under the layout's mask.

    A row whose source is visible (c of n rows are) can be right; any other is a guess of n fair coins, right with
    probability 2^-n. Holds because under both masks a row that sees any of Y_P sees all of P.
    """
    visible = reachable(layout, depth=1).string.double().mean(1)
    # Rounding at 1/2 makes an unseen row n fair coins: no cleverness beats 2^-n, so accuracy has a ceiling too.
    return float((visible + (1 - visible) * 2.0**-layout.n).mean())


def causal_floor(layout: Layout) -> float:
    """The closed forms of the module docstring for a causal mask, without following any paths: O(1)."""
    n = layout.n
    if not layout.masking.causal:
        return 0.0
    if not layout.block.sees_string:
        return n / 4  # every bit stays a fair coin, of variance 1/4
    # Scratch rows help by standing behind Y_P, where the causal mask hides nothing; in front they see nothing.
    behind = layout.after if layout.block.scratch else 0
    missing = max(0, n - behind)
    # The output rows still inside Y_P lack missing - 1, ..., 1, 0 of its rows, at 1/4 each in the mean over n rows.
    return missing * max(0, missing - 1) / (8 * n)
