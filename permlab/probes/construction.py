"""Explicit weights that undo a permutation: `construction_error(Layout.variant("no_mask", n=64), beta=40)` is 1e-15.

Two layers, one head (arXiv 2509.24125, constructive part), with inverse temperature beta.

Layer 1. Output row j asks for content coordinate j with strength beta, and every row that is not a row of P pays
2 beta. The row i of P with its one in column j scores beta, other rows of P score 0 and any other row at most -beta,
so row j copies the one-hot position of row i.
Layer 2. The copied position of P's row i scores beta with the position of Y_P's row i; rows that hold neither P nor Y_P
pay beta. Row j copies the content Y_P[i] = Y[j], and W is the identity on it. Both errors are of order n exp(-beta).

When the mask hides some rows of Y_P, the row that is needed may be missing; the best output is then 1/2 for every bit
(`floors`). The same two layers reach that optimum: in layer 2 the rows of P score beta/2, so they are read, all n of
them equally, exactly when the row that matches is hidden. Their content averages to 1/n whatever P is, and W adds
1/2 - 1/n for the positions of P. The error then approaches the floor like n exp(-beta/2): the floor of every block that
sees all of P is attained by two layers and one head, whatever training finds. A block that sees no Y_P needs no
attention at all: W outputs 1/2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.probes.certificate import reachable
from permlab.probes.layout import Layout
from permlab.probes.problem import sample, squared_error
from permlab.probes.transformer import Transformer


def _hidden(layout: Layout) -> tuple[bool, bool]:
    """Whether (some rows of Y_P, all rows of Y_P) are hidden from some output row."""
    reach = reachable(layout, depth=1)
    return not bool(reach.string.all()), not bool(reach.string.any())


def construction_weights(layout: Layout, beta: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Write the construction as dense weights of the general network, for comparison with trained ones.

    Args:
        layout: any rows, mask and readout.
        beta: inverse temperature.
        dtype: of the result.

    Returns:
        (1, size) weights for `Transformer(layout, depth=2, heads=1)`.
    """
    model = Transformer(layout, depth=2, heads=1)
    flat = torch.zeros(1, model.size, dtype=dtype)
    first, second, w = (part[0] for part in model.unpack(flat))
    n, length = layout.n, layout.length
    p, y, out = layout.permutation_rows, layout.string_rows, layout.output_rows
    fallback, blind = _hidden(layout)
    at = {layer: dict(model.blocks(layer)) for layer in (0, 1, 2)}
    if blind:
        w[at[2]["I"].start + out.start : at[2]["I"].start + out.stop] = 0.5
        return flat
    # Layer 1 (arXiv 2509.24125, constructive part): row j asks for content coordinate j; rows outside P pay 2 beta.
    position = at[0]["I"].start
    query = slice(position + out.start, position + out.stop)
    first[query, 0, at[0]["X"]] = beta * torch.eye(n, dtype=dtype)
    outside = torch.ones(length, dtype=dtype)
    outside[p] = 0
    first[query, 0, at[0]["I"]] = -2 * beta * outside
    # Layer 2: the position that layer 1 copied from P's row i scores with the position of Y_P's row i.
    copied, position = at[1]["A1"].start, at[1]["I"].start
    second[copied + p.start : copied + p.stop, 0, position + y.start : position + y.stop] = beta * torch.eye(
        n, dtype=dtype
    )
    second[position + out.start : position + out.stop, 0, at[1]["I"]] = _second_constant(layout, beta, fallback, dtype)
    w[at[2]["A2 X"]] = torch.eye(n, dtype=dtype)  # the content that layer 2 read is the answer
    if fallback:
        w[at[2]["A2"].start + p.start : at[2]["A2"].start + p.stop] = 0.5 - 1 / n
    return flat


def _second_constant(layout: Layout, beta: float, fallback: bool, dtype: torch.dtype) -> Tensor:
    """Score of every row in layer 2 apart from the match: (T,)."""
    constant = torch.full((layout.length,), -beta, dtype=dtype)
    # beta apart from the match above and from everything else below: either error is then of order n exp(-beta).
    constant[layout.string_rows] = 0
    constant[layout.permutation_rows] = beta / 2 if fallback else -beta
    return constant


def construction_output(layout: Layout, x: Tensor, beta: float) -> Tensor:
    """Evaluate the construction without its (3T)^2 matrices: O(batch n T) numbers, n = 1024 fits easily.

    Args:
        layout: as in `construction_weights`.
        x: (batch, T, n).
        beta: inverse temperature.

    Returns:
        (batch, n, n), the same numbers as the dense network.
    """
    fallback, blind = _hidden(layout)
    if blind:
        # A block before all of Y_P knows nothing: the mean of a fair bit attains its floor n/4.
        return x.new_full((x.shape[0], layout.n, layout.n), 0.5)
    p, y = layout.permutation_rows, layout.string_rows
    hidden = ~layout.visible()[layout.output_rows].to(x.device)
    scores = beta * x.transpose(1, 2).contiguous()  # row j of the output asks every row for its coordinate j
    # 2 beta and not beta: a row of Y_P with a one in coordinate j would otherwise tie with the zero rows of P.
    scores[:, :, : p.start] -= 2 * beta
    scores[:, :, p.stop :] -= 2 * beta
    copied = scores.masked_fill_(hidden, float("-inf")).softmax(-1)[:, :, p]
    constant = _second_constant(layout, beta, fallback, x.dtype).to(x.device)
    scores = constant.expand_as(scores).clone()
    scores[:, :, y] += beta * copied
    weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
    output = weights @ x
    if fallback:
        # The fallback reads all rows of P evenly, whose content is 1/n for every P; this lifts it to the guess 1/2.
        output += (0.5 - 1 / layout.n) * weights[:, :, p].sum(-1, keepdim=True)
    return output


def construction_error(
    layout: Layout, beta: float, examples: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[float, float]:
    """Measure the construction on random problems.

    Args:
        layout: any rows, mask and readout.
        beta: inverse temperature.
        examples: problems drawn; they are evaluated one at a time to keep memory at O(n T).
        seed: of the problems.
        dtype: float64 by default; float32 stops improving near 1e-13.

    Returns:
        Squared error per row (summed over its n bits), and the largest absolute error of a bit.
    """
    generator = torch.Generator().manual_seed(seed)
    squares, largest = [], 0.0
    for _ in range(examples):
        x, target = sample(layout, 1, generator)
        output, target = construction_output(layout, x.to(dtype), beta), target.to(dtype)
        squares.append(float(squared_error(output, target)))
        largest = max(largest, float((output - target).abs().max()))
    return sum(squares) / examples, largest


def construction_bytes(layout: Layout) -> int:
    """Bytes of one example in float64: about four arrays of n x T numbers, and the boolean mask of T x T."""
    return 8 * 5 * layout.n * layout.length + 2 * layout.length**2
