"""Configuration of `task=inverse_permutation`: the library's settings, and what one run makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from permlab.keys import choice
from permlab.probes.grid_settings import Depths, Lengths
from permlab.probes.layout import Layout
from permlab.probes.recipes import Optimization, PromptSettings, Recipe, TextRecipe, TokenRecipe
from permlab.probes.table import ARCHITECTURES, POSITIONS, READOUTS, VARIANTS
from permlab.tasks.inverse_permutation.table import MODES

SWEEP_STEPS = 2000
"""Most steps of an attempt in a sweep, where task.train.steps does not say; errors stop falling earlier."""
SWEEP_PATIENCE = 300
"""Steps without a falling error that end an attempt in a sweep, where task.train.patience does not say."""


@dataclass
class TokenTraining(TokenRecipe):
    """Training of the small Transformers architectures (mode tokens)."""

    combinations: list[str] = field(
        default_factory=lambda: [
            *("gpt2/in_place", "gpt2/filler", "gpt2/generate"),
            *("llama/in_place", "llama/filler", "llama/generate"),
            *("bert/in_place", "t5/generate"),
        ]
    )
    """architecture/reading; architectures llama, gpt2, bert, t5; readings in_place, filler, generate"""
    symbols: int = 4
    """Different symbols in the string."""
    fillers: list[int] = field(default_factory=list)
    """mode=fillers: numbers of filler tokens, with task.seeds networks each; empty = 0, 1, ..., 2n."""
    architectures: list[str] = choice(["gpt2"], ARCHITECTURES)
    """mode=fillers"""


@dataclass
class InversePermutationConfig:
    """`task=inverse_permutation`"""

    name: str = "inverse_permutation"
    mode: str = choice("train", MODES)
    """What is done."""
    variant: str = choice("scratch", VARIANTS)
    """Mask and scratch rows."""
    readout: str | None = choice(None, READOUTS)
    """The block that is read; null = scratch where there are scratch rows, else permutation."""
    compare: list[str] = field(default_factory=list)
    """More arms in the same run and figure: variant or variant/readout."""
    n: int = 10
    """Rows of the permutation and of the string."""
    scratch: int | None = None
    """Scratch rows on each side that has any; null = n."""
    depth: int = 2
    """Attention layers."""
    heads: int = 1
    """Attention heads per layer."""
    seeds: int = 3
    """Networks trained as one computation: seed, seed + 1, ..."""
    target_mse: float = Recipe.target_mse
    """Stop once every seed's test error is at most this and all its test rows are right; 0 never stops."""
    train: Optimization = field(default_factory=Optimization)
    """Training of the networks; the modes that sweep have patience 300 and at most 2000 steps."""
    betas: list[float] = field(default_factory=lambda: [2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0])
    """mode=construct: inverse temperatures."""
    examples: int = 8
    """mode=construct: problems measured per temperature."""
    scratch_counts: list[int] = field(default_factory=list)
    """mode=scratch_sweep: numbers of scratch rows; empty = 0, 1, ..., 2n."""
    positions: list[str] = choice(["after", "before"], POSITIONS)
    """mode=scratch_sweep: where the scratch rows stand."""
    depths: Depths = field(default_factory=Depths)
    """mode=depth"""
    lengths: Lengths = field(default_factory=Lengths)
    """mode=lengths"""
    tokens: TokenTraining = field(default_factory=TokenTraining)
    """mode=tokens"""
    text: TextRecipe = field(default_factory=TextRecipe)
    """mode=text; lists of task.n words, in every style of task.prompt.styles"""
    prompt: PromptSettings = field(default_factory=PromptSettings)
    """mode=prompt; its sizes replace task.n."""


def arms(task: InversePermutationConfig) -> dict[str, Layout]:
    """Return label -> layout of the main arm and of `task.compare`; labels are `variant` or `variant/readout`.

    Raises:
        UserError: a readout outside the sequence, a scratch variant without scratch rows, n < 2.
    """
    main = task.variant if task.readout is None else f"{task.variant}/{task.readout}"
    found = {}
    for label in [main, *task.compare]:
        variant, _, readout = label.partition("/")
        VARIANTS.check("task.variant", variant)
        if readout:
            READOUTS.check("task.readout", readout)
        found[label] = Layout.parse(label, task.n, task.scratch)
    return found
