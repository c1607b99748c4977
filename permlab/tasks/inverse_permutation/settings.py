"""Configuration of `task=inverse_permutation`: the library's settings, and what one run makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from permlab.keys import choice
from permlab.probes.layout import Layout
from permlab.probes.recipes import Optimization, PromptSettings, Recipe, TokenRecipe
from permlab.probes.table import POSITIONS, READOUTS, VARIANTS
from permlab.tasks.inverse_permutation.table import MODES

SWEEP_STEPS = 400
"""Steps per point of a scratch sweep, where task.train.steps does not say."""


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
    """Training of the disentangled networks (modes train and scratch_sweep, 400 steps per point)."""
    betas: list[float] = field(default_factory=lambda: [2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0])
    """mode=construct: inverse temperatures."""
    examples: int = 8
    """mode=construct: problems measured per temperature."""
    scratch_counts: list[int] = field(default_factory=list)
    """mode=scratch_sweep: numbers of scratch rows; empty = 0, 1, ..., 2n."""
    positions: list[str] = choice(["after", "before"], POSITIONS)
    """mode=scratch_sweep: where the scratch rows stand."""
    tokens: TokenTraining = field(default_factory=TokenTraining)
    """mode=tokens"""
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
