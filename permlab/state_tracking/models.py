"""Small sequence models by name, several seeds at once: `Model("delta_signed", symbols=6, answers=6, seeds=[0, 1])`.

Blocks of norm, mixer, norm and a small network of two layers, with residual connections; the answer is read from a
norm and a linear layer. Before the first symbol all networks read a start symbol: it gives recurrences the state that
a word turns, and attention something to count from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from permlab.state_tracking.mixers import Attention, Delta, Dense, Diagonal, Gated
from permlab.state_tracking.modules import Embedding, Layer, Linear, Norm
from permlab.state_tracking.table import NETWORKS

Make = Callable[[Sequence[int], str, int], Layer]
MIXERS: dict[str, Make] = {
    "diagonal_positive": lambda seeds, name, width: Diagonal(seeds, name, width, "positive"),
    "diagonal_signed": lambda seeds, name, width: Diagonal(seeds, name, width, "signed"),
    "diagonal_complex": lambda seeds, name, width: Diagonal(seeds, name, width, "complex"),
    "delta_positive": lambda seeds, name, width: Delta(seeds, name, width, 1.0),
    "delta_signed": lambda seeds, name, width: Delta(seeds, name, width, 2.0),
    "product_2": lambda seeds, name, width: Delta(seeds, name, width, 2.0, 2),
    "product_3": lambda seeds, name, width: Delta(seeds, name, width, 2.0, 3),
    "product_4": lambda seeds, name, width: Delta(seeds, name, width, 2.0, 4),
    "dense": Dense,
    "lstm": lambda seeds, name, width: Gated(seeds, name, width, "lstm"),
    "gru": lambda seeds, name, width: Gated(seeds, name, width, "gru"),
    "transformer": lambda seeds, name, width: Attention(seeds, name, width, rotary=True),
    "transformer_none": lambda seeds, name, width: Attention(seeds, name, width, rotary=False),
}


class Block(Layer):
    """x + mixer(norm(x)), then x + network(norm(x))."""

    def __init__(self, seeds: Sequence[int], name: str, width: int, mixer: Make) -> None:
        super().__init__()
        self.before, self.between = Norm(seeds, width), Norm(seeds, width)
        self.mixer = mixer(seeds, f"{name}.mixer", width)
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
        mixer = MIXERS[NETWORKS[name].name]
        self.start = symbols
        self.embedding = Embedding(seeds, "embedding", symbols + 1, width)
        self.blocks = nn.ModuleList(Block(seeds, f"block {number}", width, mixer) for number in range(layers))
        self.norm, self.head = Norm(seeds, width), Linear(seeds, "head", width, answers)

    def forward(self, symbols: Tensor) -> Tensor:
        """[S, B, T] -> logits [S, B, T, answers]."""
        x = self.embedding(nn.functional.pad(symbols, (1, 0), value=self.start))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, :, 1:]))
