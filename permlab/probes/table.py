"""The names of this room: `VARIANTS["scratch"].after`, `READOUTS.choices`, `ARCHITECTURES["bert"].causal`.

Nothing heavy is imported here, because configurations are checked with these rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class MaskRow(Row):
    """Which rows a row of the sequence may attend to.

    Attributes:
        causal: a row sees itself and the rows above it only.
        init_std: spread of the initial weights that training wants under this mask (`Transformer.init_std`).
    """

    causal: bool = False
    init_std: float = 0.02


@dataclass(frozen=True)
class ReadoutRow(Row):
    """The block that the output is read from; `target` is a function of a layout that returns its n rows.

    Attributes:
        scratch: the rows are scratch rows, so there must be some after the input.
        sees_string: under a causal mask its rows see some of Y_P.
        line: how arms that differ in their readout only are told apart in figures.
    """

    scratch: bool = False
    sees_string: bool = True
    line: str = "-"


@dataclass(frozen=True)
class VariantRow(Row):
    """A named arrangement of rows and mask (`layout.Layout.variant`).

    Attributes:
        mask: a name of `MASKS`.
        before: scratch rows stand before the input.
        after: scratch rows stand after the input, and are read.
    """

    mask: str = "causal"
    before: bool = False
    after: bool = False


@dataclass(frozen=True)
class PositionRow(Row):
    """Where a sweep over scratch rows puts them: before the input, after it, or the same number on both sides."""

    before: bool = False
    after: bool = False


@dataclass(frozen=True)
class RouteRow(Row):
    """A way through two layers; `target`: (X, layout) -> its edges in the attention of layer 1 (`mechanism.Edges`)."""


@dataclass(frozen=True)
class EncodingRow(Row):
    """How an ordinary transformer knows where a row stands: vectors that are trained, or turned queries and keys."""

    learned: bool = False
    rotary: bool = False


@dataclass(frozen=True)
class OptimizerRow(Row):
    """`target`: (weights, recipe, largest learning rate of the schedule) -> torch optimiser."""


@dataclass(frozen=True)
class ScheduleRow(Row):
    """`target`: (step, steps) -> the share of the largest learning rate that a step (0-based) takes."""


@dataclass(frozen=True)
class ReadingRow(Row):
    """Where a token model gives its answer; `target`: (input, answer) -> the tokens that follow the input.

    Attributes:
        in_place: at the tokens of the permuted string, where a causal model cannot see all that it needs.
        generates: token by token, each fed back; the impossibility theorem says nothing about this reading.
    """

    in_place: bool = False
    generates: bool = False


@dataclass(frozen=True)
class ArchitectureRow(Row):
    """A Transformers architecture; `target`: (problem, recipe, feed-forward width) -> model with random weights.

    Attributes:
        causal: its tokens see only what stands before them.
        readings: names of `READINGS` that it has.
    """

    causal: bool = True
    readings: tuple[str, ...] = ("in_place", "filler", "generate")


@dataclass(frozen=True)
class StyleRow(Row):
    """How a few-shot prompt asks.

    Attributes:
        fillers: filler marks stand between input and answer.
        steps: the answer is worked out step by step before it is given.
    """

    fillers: bool = False
    steps: bool = False


_PAPER = "2509.24125"

MASKS = Table(
    "mask",
    [
        MaskRow("causal", "every row sees itself and the rows above it", label="causal mask", causal=True),
        MaskRow("none", "every row sees every row", label="no mask", init_std=0.2),
    ],
)
READOUTS = Table(
    "readout",
    [
        ReadoutRow(
            "permutation",
            "the n rows that hold P",
            target="permlab.probes.layout:read_permutation",
            paper=_PAPER,
            sees_string=False,
        ),
        ReadoutRow(
            "string", "the n rows that hold Y_P", target="permlab.probes.layout:read_string", paper=_PAPER, line="-."
        ),
        ReadoutRow(
            "scratch",
            "the last n rows, where scratch rows stand after the input",
            target="permlab.probes.layout:read_last",
            paper=_PAPER,
            scratch=True,
        ),
    ],
)
VARIANTS = Table(
    "variant",
    [
        VariantRow("causal", "causal mask, no scratch rows", paper=_PAPER, color="red"),
        VariantRow("no_mask", "every row sees every row, no scratch rows", paper=_PAPER, color="blue", mask="none"),
        VariantRow("scratch", "causal mask, scratch rows after the input", paper=_PAPER, color="orange", after=True),
        VariantRow(
            "scratch_both",
            "causal mask, scratch rows before and after the input",
            paper=_PAPER,
            color="green",
            before=True,
            after=True,
        ),
    ],
)
POSITIONS = Table(
    "position",
    [
        PositionRow("after", "scratch rows after the input", color="orange", after=True),
        PositionRow("before", "scratch rows before the input, which help nothing", color="red", before=True),
        PositionRow("both", "as many before as after", color="green", before=True, after=True),
    ],
)
ROUTES = Table(
    "route",
    [
        RouteRow(
            "lookup",
            "output row j finds the row of P it needs",
            target="permlab.probes.mechanism:lookup",
            color="orange",
        ),
        RouteRow("fetch", "row i of Y_P copies row i of P", target="permlab.probes.mechanism:fetch", color="blue"),
        RouteRow("carry", "row i of P copies row i of Y_P", target="permlab.probes.mechanism:carry", color="green"),
    ],
)
ENCODINGS = Table(
    "kind of positions",
    [
        EncodingRow("learned", "a trained vector for every place", color="blue", learned=True),
        EncodingRow("rotary", "queries and keys turned by place", paper="2104.09864", color="orange", rotary=True),
        EncodingRow("none", "nothing but the mask", color="red"),
    ],
)
OPTIMIZERS = Table(
    "optimizer",
    [
        OptimizerRow("adam", "AdamW, all weights in one fused step", target="permlab.probes.optimizers:adam"),
        OptimizerRow("sgd", "plain gradient descent, no momentum", target="permlab.probes.optimizers:sgd"),
    ],
)
SCHEDULES = Table(
    "schedule",
    [
        ScheduleRow(
            "one_cycle",
            "cosine up over 30 % of the steps, then down to 0",
            target="permlab.probes.schedules:one_cycle",
            paper="1708.07120",
        ),
        ScheduleRow("cosine", "cosine down to 0", target="permlab.probes.schedules:cosine", paper="1608.03983"),
        ScheduleRow("warmup", "a line up over 100 steps, then the same", target="permlab.probes.schedules:warmup"),
        ScheduleRow("constant", "the same in every step", target="permlab.probes.schedules:constant"),
    ],
)
READINGS = Table(
    "reading",
    [
        ReadingRow(
            "in_place",
            "at the tokens of the permuted string, as the theorem reads",
            label="in place",
            target="permlab.probes.token_answers:in_place_tokens",
            paper=_PAPER,
            color="red",
            in_place=True,
        ),
        ReadingRow(
            "filler",
            "at n filler tokens after the input",
            target="permlab.probes.token_answers:filler_tokens",
            paper=_PAPER,
            color="orange",
        ),
        ReadingRow(
            "generate",
            "token by token after the input, each fed back",
            target="permlab.probes.token_answers:generate_tokens",
            color="blue",
            generates=True,
        ),
    ],
)
ARCHITECTURES = Table(
    "architecture",
    [
        ArchitectureRow("llama", "causal decoder, rotary positions", target="permlab.probes.architectures:llama"),
        ArchitectureRow("gpt2", "causal decoder, learned positions", target="permlab.probes.architectures:gpt2"),
        ArchitectureRow(
            "bert",
            "encoder: every token sees every token, so it cannot generate",
            target="permlab.probes.architectures:bert",
            causal=False,
            readings=("in_place", "filler"),
        ),
        ArchitectureRow(
            "t5",
            "encoder and decoder, which has no input positions to read",
            target="permlab.probes.architectures:t5",
            causal=False,
            readings=("generate",),
        ),
    ],
)
STYLES = Table(
    "style",
    [
        StyleRow("plain", "the answer follows the input at once", color="blue"),
        StyleRow("filler", "n filler marks before the answer", paper=_PAPER, color="green", fillers=True),
        StyleRow("scratch", "step by step, then the answer", color="orange", steps=True),
    ],
)
