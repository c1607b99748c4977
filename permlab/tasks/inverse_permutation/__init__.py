"""Can a transformer undo a permutation, and what does the causal mask cost? (arXiv 2509.24125)

permlab task=inverse_permutation task.variant=scratch                # train three seeds of a small network
permlab task=inverse_permutation task.mode=construct task.n=256      # explicit weights, no training
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError, check_choice, check_range
from permlab.probes.layout import READOUTS, VARIANTS, Layout
from permlab.probes.prompts import STYLES, Prompt
from permlab.probes.readings import FITTING, check_combination

if TYPE_CHECKING:
    from permlab.runs.run import Run

HEADLINE = ("test_mse", "mse_floor", "row_accuracy", "steps", "train_seconds", "accuracy", "exact")
MODELS = ("none", "causal_lm")
DATASETS = ("none",)
MODES = ("train", "construct", "scratch_sweep", "tokens", "prompt")
POSITIONS = ("after", "before", "both")


@dataclass
class ProbeTraining:
    """Training of the disentangled networks (modes train and scratch_sweep)."""

    steps: int | None = None
    """At most; null = 600 or 25 n if that is more, and 400 per point of a scratch sweep. Sets the schedule's length."""
    batch: int | None = None
    """Fresh examples per step and seed; null = 256, 128 from n = 12 on, 64 from n = 24 on, 32 from 48 on."""
    optimizer: str = "adam"
    """adam | sgd"""
    learning_rate: float | None = None
    """The largest of the schedule; null = 0.06 sqrt(10/n)."""
    schedule: str = "one_cycle"
    """one_cycle | cosine | constant"""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.03
    init_std: float | None = None
    """0 starts at zero weights; null = 0.02 under a causal mask, 0.2 without a mask."""
    clip: float | None = None
    """Largest absolute value of a gradient entry."""
    test_every: int = 25
    test_examples: int = 256


@dataclass
class TokenTraining:
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
    parameters: int = 120_000
    """Budget per architecture; the feed-forward width is chosen to meet it."""
    hidden: int = 64
    layers: int = 2
    heads: int = 8
    steps: int = 1200
    batch: int = 64
    learning_rate: float = 5e-3
    target: float = 0.999
    """Stop at this share of right symbols."""
    test_examples: int = 256


@dataclass
class PromptTask:
    """Few-shot text prompts for `model=` (mode prompt)."""

    sizes: list[int] = field(default_factory=lambda: [2, 3, 4, 6, 8])
    """Lengths of the lists; replaces task.n."""
    styles: list[str] = field(default_factory=lambda: list(STYLES))
    """plain | filler | scratch"""
    shots: int = 4
    examples: int = 64
    batch: int = 16


@dataclass
class InversePermutationConfig:
    """`task=inverse_permutation`"""

    name: str = "inverse_permutation"
    mode: str = "train"
    """train | construct | scratch_sweep | tokens | prompt"""
    variant: str = "scratch"
    """causal | no_mask | scratch | scratch_both"""
    readout: str | None = None
    """permutation | string | scratch: the block that is read; null = scratch where there are scratch rows, else
    permutation"""
    compare: list[str] = field(default_factory=list)
    """More arms in the same run and figure: variant or variant/readout."""
    n: int = 10
    """Rows of the permutation and of the string."""
    scratch: int | None = None
    """Scratch rows on each side that has any; null = n."""
    depth: int = 2
    heads: int = 1
    seeds: int = 3
    """Networks trained as one computation: seed, seed + 1, ..."""
    target_mse: float = 0.01
    """Stop once every seed's test error is at most this and all its test rows are right; 0 never stops."""
    train: ProbeTraining = field(default_factory=ProbeTraining)
    betas: list[float] = field(default_factory=lambda: [2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0])
    """mode=construct: inverse temperatures."""
    examples: int = 8
    """mode=construct: problems measured per temperature."""
    scratch_counts: list[int] = field(default_factory=list)
    """mode=scratch_sweep: numbers of scratch rows; empty = 0, 1, ..., 2n."""
    positions: list[str] = field(default_factory=lambda: ["after", "before"])
    """mode=scratch_sweep: after | before | both"""
    tokens: TokenTraining = field(default_factory=TokenTraining)
    prompt: PromptTask = field(default_factory=PromptTask)


def arms(task: InversePermutationConfig) -> dict[str, Layout]:
    """Return label -> layout of the main arm and of `task.compare`; labels are `variant` or `variant/readout`.

    Raises:
        UserError: a readout outside the sequence, a scratch variant without scratch rows, n < 2.
    """
    main = task.variant if task.readout is None else f"{task.variant}/{task.readout}"
    found = {}
    for label in [main, *task.compare]:
        variant, _, readout = label.partition("/")
        check_choice("task.variant", variant, VARIANTS)
        if readout:
            check_choice("task.readout", readout, READOUTS)
        found[label] = Layout.variant(variant, task.n, task.scratch, readout or None)
    return found


def sweep_layout(n: int, position: str, count: int) -> Layout:
    """Return the layout of one point of the scratch sweep: the last n rows are read, whatever they hold.

    With k < n rows after the input those are the last n - k rows of Y_P and all scratch rows; with rows before the
    input only (or none), they are the rows of Y_P.
    """
    after = 0 if position == "before" else count
    before = 0 if position == "after" else count
    return Layout(n, before, after, "causal", "scratch" if after else "string")


def validate(config: Config) -> None:
    """Check choices, ranges and combinations; loads nothing."""
    task = config.task
    check_choice("task.mode", task.mode, MODES)
    if task.mode == "prompt":
        validate_prompt(config)
        return
    if config.model.kind != "none":
        raise UserError(
            f"task.mode={task.mode} builds its own networks; model={config.model.name} is for task.mode=prompt"
        )
    arms(task)
    for key in ("depth", "heads", "seeds", "examples"):
        check_range(f"task.{key}", getattr(task, key), 1)
    check_range("task.target_mse", task.target_mse, 0)
    validate_training(task.train)
    for beta in task.betas:
        check_range("task.betas", beta, 0, open_interval=True)
    if not task.betas:
        raise UserError("task.betas is empty; give inverse temperatures such as task.betas=[5,10,20]")
    for count in task.scratch_counts:
        check_range("task.scratch_counts", count, 0)
    for position in task.positions:
        check_choice("task.positions", position, POSITIONS)
    if not task.positions:
        raise UserError(f"task.positions is empty; give some of {', '.join(POSITIONS)}")
    validate_tokens(task.tokens)


def validate_training(train: ProbeTraining) -> None:
    """Check the training keys."""
    check_choice("task.train.optimizer", train.optimizer, ("adam", "sgd"))
    check_choice("task.train.schedule", train.schedule, ("one_cycle", "cosine", "constant"))
    for key in ("steps", "batch", "test_every", "test_examples"):
        if getattr(train, key) is not None:
            check_range(f"task.train.{key}", getattr(train, key), 1)
    for key in ("learning_rate", "clip"):
        if getattr(train, key) is not None:
            check_range(f"task.train.{key}", getattr(train, key), 0, open_interval=True)
    check_range("task.train.weight_decay", train.weight_decay, 0)
    if train.init_std is not None:
        check_range("task.train.init_std", train.init_std, 0)
    if len(train.betas) != 2:
        raise UserError(f"task.train.betas has {len(train.betas)} numbers; Adam takes two, such as [0.9,0.95]")
    for beta in train.betas:
        check_range("task.train.betas", beta, 0, 0.99999)


def validate_tokens(tokens: TokenTraining) -> None:
    """Check combinations and sizes of the small architectures."""
    for combination in tokens.combinations:
        architecture, _, reading = combination.partition("/")
        try:
            check_combination(architecture, reading)
        except UserError as error:
            options = [f"{name}/{reading}" for name, readings in FITTING.items() for reading in readings]
            raise UserError(f"task.tokens.combinations: {error}; combinations: {', '.join(options)}") from error
    if not tokens.combinations:
        raise UserError("task.tokens.combinations is empty; give some such as [gpt2/in_place,gpt2/filler]")
    check_range("task.tokens.symbols", tokens.symbols, 2)
    for key in ("parameters", "hidden", "layers", "heads", "steps", "batch", "test_examples"):
        check_range(f"task.tokens.{key}", getattr(tokens, key), 1)
    if tokens.hidden % (2 * tokens.heads):
        raise UserError(
            f"task.tokens.hidden={tokens.hidden} must be a multiple of 2 x heads ({2 * tokens.heads}): "
            "rotary positions turn pairs of dimensions"
        )
    check_range("task.tokens.learning_rate", tokens.learning_rate, 0, open_interval=True)
    check_range("task.tokens.target", tokens.target, 0, 1)


def validate_prompt(config: Config) -> None:
    """Check the prompt keys and that there is a model to ask."""
    from permlab.models.causal_lm_config import validate_causal_lm

    prompt = config.task.prompt
    if config.model.kind == "none":
        raise UserError("task.mode=prompt needs a language model: add model=local model.path=DIR, or model=tiny-llama")
    validate_causal_lm(config.model)
    if not prompt.sizes or not prompt.styles:
        raise UserError("task.prompt.sizes and task.prompt.styles must not be empty")
    for n in prompt.sizes:
        for style in prompt.styles:
            try:
                Prompt(n, style, prompt.shots)
            except UserError as error:
                raise UserError(f"task.prompt: {error}") from error
    for key in ("examples", "batch"):
        check_range(f"task.prompt.{key}", getattr(prompt, key), 1)


def plan(config: Config) -> dict[str, str]:
    """Describe a dry run: layouts, floors, sizes and memory.

    Raises:
        UserError: the networks would not fit into memory.
    """
    task = config.task
    if task.mode == "prompt":
        prompt = task.prompt
        return {
            "mode": "prompt",
            "prompts": f"n {prompt.sizes}, {', '.join(prompt.styles)}, {prompt.shots} shots, {prompt.examples} each",
        }
    if task.mode == "tokens":
        return {"mode": "tokens", "combinations": f"{', '.join(task.tokens.combinations)} at n = {task.n}"}
    from permlab.tasks.inverse_permutation.train import plan_networks

    return {"mode": task.mode, **plan_networks(config)}


def run(config: Config, run: Run) -> None:
    """Do what `task.mode` says."""
    mode = config.task.mode
    if mode == "tokens":
        from permlab.tasks.inverse_permutation.language import tokens as do
    elif mode == "prompt":
        from permlab.tasks.inverse_permutation.language import prompt as do
    elif mode == "construct":
        from permlab.tasks.inverse_permutation.train import construct as do
    elif mode == "scratch_sweep":
        from permlab.tasks.inverse_permutation.train import scratch_sweep as do
    else:
        from permlab.tasks.inverse_permutation.train import train as do
    do(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """Figures of a sweep over task.n: steps and seconds to the target."""
    from permlab.tasks.inverse_permutation.figures import scaling

    return scaling(groups)
