"""How networks are trained and asked: `Recipe(steps=300).resolved(n=10).batch` is 256. Nothing heavy is imported.

The settings of `task=inverse_permutation` are these dataclasses, so a default stands here and nowhere else. `check`
takes what to put before a name in its messages: `check("task.train.")` speaks of `task.train.steps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from permlab.errors import UserError, check_range
from permlab.keys import choice
from permlab.probes.table import OPTIMIZERS, SCHEDULES, STYLES

WORDS = (
    *("apple", "anchor", "basket", "bridge", "candle", "castle", "desert", "dragon", "engine", "forest", "garden"),
    *("hammer", "island", "jacket", "kettle", "ladder", "market", "needle", "orange", "palace", "pencil", "pocket"),
    *("rabbit", "river", "saddle", "school", "silver", "spider", "sugar", "temple", "ticket", "tunnel", "valley"),
    *("violin", "window", "winter", "yellow", "zebra", "bottle", "button", "camera", "carpet", "cotton", "dinner"),
)
"""What the lists of the few-shot prompts are made of."""


@dataclass
class Optimization:
    """How the weights of disentangled networks move."""

    steps: int | None = None
    """At most; null = 600 or 25 n if that is more. Sets the schedule's length."""
    batch: int | None = None
    """Fresh examples per step and seed; null = 256, 128 from n = 12 on, 64 from n = 24 on, 32 from 48 on."""
    optimizer: str = choice("adam", OPTIMIZERS)
    """sgd is without momentum."""
    learning_rate: float | None = None
    """The largest of the schedule; null = 0.06 sqrt(10/n)."""
    schedule: str | None = choice(None, SCHEDULES)
    """one_cycle: cosine up over 30 % of the steps, cosine down to 0; cosine: down to 0; null = one_cycle, warmup with
    patience."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Of Adam; a short second-moment memory leaves the plateau sooner."""
    weight_decay: float = 0.03
    """Decoupled (AdamW). It keeps attention that is still noise from saturating: with no mask, a batch of 128 and no
    decay, one seed in three kept a few rows unsolved for good."""
    init_std: float | None = None
    """Of the normal initial weights; 0 starts at zero weights; null = 0.02 under a causal mask, 0.2 without a mask."""
    clip: float | None = None
    """Largest absolute value of a gradient entry; null = no clipping."""
    patience: int | None = None
    """Train until no seed's error has fallen by 1 % for so many steps, then let the learning rate go down over as many;
    a seed at its floor stops at once. null = all steps, in sweeps 300."""
    restarts: int = 0
    """With patience: how often a seed that ends above a floor of 0 begins again from other weights."""
    test_every: int = 25
    """Steps between tests."""
    test_examples: int = 256
    """Fixed test examples per seed, rounded up to a multiple of n."""

    def check(self, prefix: str = "") -> None:
        """Refuse unknown names and numbers out of range.

        Args:
            prefix: stands before the names in the messages.

        Raises:
            UserError: naming the setting.
        """
        OPTIMIZERS.check(f"{prefix}optimizer", self.optimizer)
        if self.schedule is not None:
            SCHEDULES.check(f"{prefix}schedule", self.schedule)
        for key in ("steps", "batch", "patience", "test_every", "test_examples"):
            if getattr(self, key) is not None:
                check_range(f"{prefix}{key}", getattr(self, key), low=1)
        check_range(f"{prefix}restarts", self.restarts, low=0)
        if self.restarts and self.patience is None:
            raise UserError(f"{prefix}restarts={self.restarts} is for {prefix}patience: give steps, such as 300")
        for key in ("learning_rate", "clip"):
            if getattr(self, key) is not None:
                check_range(f"{prefix}{key}", getattr(self, key), low=0, open_interval=True)
        check_range(f"{prefix}weight_decay", self.weight_decay, low=0)
        if self.init_std is not None:
            check_range(f"{prefix}init_std", self.init_std, low=0)
        if len(self.betas) != 2:
            raise UserError(f"{prefix}betas has {len(self.betas)} numbers; Adam takes two, such as [0.9,0.95]")
        for beta in self.betas:
            check_range(f"{prefix}betas", beta, low=0, high=0.99999)


@dataclass
class Recipe(Optimization):
    """How to train disentangled networks, and when to stop (`training.Training`)."""

    target_mse: float = 0.01
    """Stop once every seed's test error is at most this and all its test rows are right; 0 never stops."""

    def check(self, prefix: str = "") -> None:
        """As `Optimization.check`."""
        super().check(prefix)
        check_range(f"{prefix}target_mse", self.target_mse, low=0)

    def resolved(self, n: int) -> Resolved:
        """Return the numbers that are left to n: steps, batch and learning rate."""
        default_batch = 256 if n < 12 else 128 if n < 24 else 64 if n < 48 else 32
        rate = default_learning_rate(n) if self.learning_rate is None else self.learning_rate
        return Resolved(self.steps or max(600, 25 * n), self.batch or default_batch, rate)


@dataclass(frozen=True)
class Resolved:
    """Steps at most, batch and largest learning rate of a recipe at one n."""

    steps: int
    batch: int
    learning_rate: float


def default_learning_rate(n: int) -> float:
    """Return the largest learning rate of the one-cycle schedule: 0.06 at n = 10, falling like 1/sqrt(n).

    Attention has to leave a plateau (all rows of Y_P averaged, error n/4 (1 - 1/n)): 0.03 stays on it for hundreds of
    steps at n = 10, and 0.1 never leaves it at n = 32.
    """
    return 0.06 * math.sqrt(10 / n)


@dataclass
class TokenRecipe:
    """Training of one small Transformers model: AdamW, warm-up over 5 % of the steps, cosine down to a tenth."""

    parameters: int = 120_000
    """Budget per architecture; the feed-forward width is chosen to meet it."""
    hidden: int = 64
    """Width of the residual stream; a multiple of 2 x heads."""
    layers: int = 2
    """Of the encoder and of the decoder each, where there are both."""
    heads: int = 8
    """Attention heads per layer."""
    steps: int = 1200
    """At most; sets the schedule's length."""
    batch: int = 64
    """Fresh examples per step."""
    learning_rate: float = 5e-3
    """The largest of the schedule."""
    target: float = 0.999
    """Stop at this share of right symbols."""
    test_every: int = 100
    """Steps between tests."""
    test_examples: int = 256
    """Fixed test examples."""

    def check(self, prefix: str = "") -> None:
        """Refuse numbers out of range; `prefix` stands before the names in the messages.

        Raises:
            UserError: naming the setting.
        """
        for key in ("parameters", "hidden", "layers", "heads", "steps", "batch", "test_every", "test_examples"):
            check_range(f"{prefix}{key}", getattr(self, key), 1)
        if self.hidden % (2 * self.heads):
            raise UserError(
                f"{prefix}hidden={self.hidden} must be a multiple of 2 x heads ({2 * self.heads}): "
                "rotary positions turn pairs of dimensions"
            )
        check_range(f"{prefix}learning_rate", self.learning_rate, 0, open_interval=True)
        check_range(f"{prefix}target", self.target, 0, 1)


@dataclass
class TextRecipe:
    """Training of a causal language model on prompts (`finetune`): AdamW, warm-up over 5 % of the steps, cosine."""

    steps: int = 300
    """At most; sets the schedule's length."""
    batch: int = 16
    """Fresh prompts per step."""
    learning_rate: float = 1e-3
    """The largest of the schedule; a pretrained model of some size wants 5e-5."""
    target: float = 0.999
    """Stop at this share of right places."""
    test_every: int = 50
    """Steps between tests."""
    test_examples: int = 64
    """Fixed test prompts."""

    def check(self, prefix: str = "") -> None:
        """Refuse numbers out of range; `prefix` stands before the names in the messages.

        Raises:
            UserError: naming the setting.
        """
        for key in ("steps", "batch", "test_every", "test_examples"):
            check_range(f"{prefix}{key}", getattr(self, key), 1)
        check_range(f"{prefix}learning_rate", self.learning_rate, 0, open_interval=True)
        check_range(f"{prefix}target", self.target, 0, 1)


@dataclass
class PromptSettings:
    """Few-shot text prompts (`prompts.probe_prompts`): every length with every style."""

    sizes: list[int] = field(default_factory=lambda: [2, 3, 4, 6, 8])
    """Lengths of the lists."""
    styles: list[str] = choice(["plain", "filler", "scratch"], STYLES)
    """How the lists are written."""
    shots: int = 4
    """Solved examples before the question."""
    examples: int = 64
    """Questions per length and style."""
    batch: int = 16
    """Prompts per forward pass."""
    base_url: str | None = None
    """An OpenAI-compatible server that is asked in place of model=, such as http://localhost:8000/v1."""
    model: str | None = None
    """The model name the server knows."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key; null sends none."""
    concurrency: int = 8
    """Requests to the server at a time."""

    def check(self, prefix: str = "") -> None:
        """Refuse unknown styles and numbers out of range; `prefix` stands before the names in the messages.

        Raises:
            UserError: naming the setting.
        """
        if not self.sizes or not self.styles:
            raise UserError(f"{prefix}sizes and {prefix}styles must not be empty")
        for style in self.styles:
            STYLES.check(f"{prefix}styles", style)
        for n in self.sizes:
            check_range(f"{prefix}sizes", n, low=2, high=len(WORDS))
        for key in ("shots", "examples", "batch"):
            check_range(f"{prefix}{key}", getattr(self, key), 1)
        check_range(f"{prefix}concurrency", self.concurrency, 1, 256)
        if self.base_url is not None and not self.model:
            raise UserError(f"{prefix}base_url needs {prefix}model: the name of a model that the server offers")
        if self.base_url is None and (self.model or self.api_key_env):
            given = "model" if self.model else "api_key_env"
            raise UserError(f"{prefix}{given} is for {prefix}base_url: give the address of the server")
