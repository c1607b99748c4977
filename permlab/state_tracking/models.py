"""Small sequence models by name, several seeds at once: `Model("delta_signed", symbols=6, answers=6, seeds=[0, 1])`.

Blocks of norm, mixer, norm and a small network of two layers, with residual connections; the answer is read from a
norm and a linear layer. Before the first symbol all networks read a start symbol: it gives recurrences the state that
a word turns, and attention something to count from.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from permlab.state_tracking.modules import Embedding, Layer, Linear, Norm
from permlab.state_tracking.table import NETWORKS, NetworkRow


class Block(Layer):
    """x + mixer(norm(x)), then x + network(norm(x))."""

    def __init__(self, seeds: Sequence[int], name: str, width: int, row: NetworkRow) -> None:
        super().__init__()
        self.before, self.between = Norm(seeds, width), Norm(seeds, width)
        self.mixer: Layer = row.load()(seeds, f"{name}.mixer", width, *row.arguments)
        self.up = Linear(seeds, f"{name}.up", width, 2 * width)
        self.down = Linear(seeds, f"{name}.down", 2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, T, d] -> same."""
        x = x + self.mixer(self.before(x))
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


class Model(Layer):
    """Networks of one kind and several seeds.

    Args:
        name: a row of `table.NETWORKS`.
        symbols: how many are read.
        answers: how many there are.
        seeds: one network each.
        width: entries of a token, a multiple of 16.
        layers: blocks.

    Raises:
        UserError: an unknown name.
    """

    def __init__(
        self, name: str, symbols: int, answers: int, seeds: Sequence[int], width: int = 32, layers: int = 1
    ) -> None:
        super().__init__()
        row = NETWORKS[name]
        self.start = symbols
        self.embedding = Embedding(seeds, "embedding", symbols + 1, width)
        self.blocks = nn.ModuleList(Block(seeds, f"block {number}", width, row) for number in range(layers))
        self.norm, self.head = Norm(seeds, width), Linear(seeds, "head", width, answers)

    def forward(self, symbols: Tensor) -> Tensor:
        """[S, B, T] -> logits [S, B, T, answers]."""
        x = self.embedding(nn.functional.pad(symbols, (1, 0), value=self.start))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, :, 1:]))
