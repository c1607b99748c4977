"""What is tracked, by which networks, trained how: the settings of `task=state_tracking`. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from permlab.errors import UserError, check_range
from permlab.keys import choice
from permlab.state_tracking.table import ALPHABETS, CONSTRUCTIONS, NETWORKS


@dataclass
class Recipe:
    """How networks are trained."""

    steps: int = 600
    """Of AdamW."""
    batch: int = 32
    """Words a step, of each network its own."""
    length: int = 32
    """Symbols of the longest word."""
    shortest: int = 2
    """Words of a step have one length from here to the longest, drawn anew; `length` trains at that one only."""
    growth: float = 0.5
    """The longest word grows from `shortest` to `length` over this share of the steps; 0 begins with `length`."""
    learning_rate: float = 1e-2
    """At the top of a warm-up over a tenth of the steps; then it falls to 0 as half a cosine."""
    weight_decay: float = 0.01
    """Decoupled (AdamW)."""
    clip: float = 1.0
    """Largest norm of a network's gradient."""
    log_steps: int = 50
    """Steps between lines of metrics.jsonl."""

    def check(self, prefix: str = "") -> None:
        """Refuse numbers out of range.

        Args:
            prefix: stands before the names in the messages.

        Raises:
            UserError: naming the setting.
        """
        for key in ("steps", "batch", "log_steps"):
            check_range(f"{prefix}{key}", getattr(self, key), 1)
        check_range(f"{prefix}length", self.length, 2)
        check_range(f"{prefix}shortest", self.shortest, 1, self.length)
        check_range(f"{prefix}growth", self.growth, 0, 1)
        check_range(f"{prefix}learning_rate", self.learning_rate, 0, open_interval=True)
        check_range(f"{prefix}weight_decay", self.weight_decay, 0)
        check_range(f"{prefix}clip", self.clip, 0, open_interval=True)


@dataclass
class Tracking:
    """A word problem, the networks that learn it, and how far they are tested."""

    group: str = "S3"
    """Z<m>, S<n>, A<n> or D<n>: Z2 is parity."""
    alphabet: str = choice("all", ALPHABETS)
    """Which elements are read."""
    network: str = choice("product_2", NETWORKS)
    """What carries the state."""
    constructions: list[str] = choice(list(CONSTRUCTIONS), CONSTRUCTIONS)
    """mode=construct: the weights that are written down, of those that suit the group."""
    layers: int = 1
    """Blocks of a mixer and a small network."""
    width: int = 32
    """Entries of a token: a multiple of 16."""
    seeds: int = 3
    """Networks trained side by side."""
    test_length: int = 512
    """Symbols of the words that are tested; of mode=construct, too."""
    test_words: int = 64
    """How many."""
    least: float = 0.9
    """A network follows up to the first position with a smaller share of right products."""
    train: Recipe = field(default_factory=Recipe)

    @property
    def suited(self) -> list[str]:
        """The constructions that solve the group."""
        return [name for name in self.constructions if CONSTRUCTIONS[name].suits(self.group)]

    def check(self, prefix: str = "") -> None:
        """As `Recipe.check`."""
        ALPHABETS.check(f"{prefix}alphabet", self.alphabet)
        NETWORKS.check(f"{prefix}network", self.network)
        if not self.constructions:
            raise UserError(f"{prefix}constructions is empty; give one of {', '.join(CONSTRUCTIONS)}")
        for name in self.constructions:
            CONSTRUCTIONS.check(f"{prefix}constructions", name)
        if not self.suited:
            able = [name for name, row in CONSTRUCTIONS.items() if row.suits(self.group)]
            raise UserError(f"{prefix}constructions={self.constructions} do not solve {self.group}: use {able}")
        for key in ("layers", "seeds", "test_words"):
            check_range(f"{prefix}{key}", getattr(self, key), 1)
        if self.width < 16 or self.width % 16:
            raise UserError(f"{prefix}width={self.width} must be a multiple of 16")
        check_range(f"{prefix}test_length", self.test_length, self.train.length)
        check_range(f"{prefix}least", self.least, 0, 1)
        self.train.check(f"{prefix}train.")
