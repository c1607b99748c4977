"""What the benchmarks of adapters know by name: question sets, ways to count answers, starts. Imports nothing heavy.

from permlab.adapters.benchmark.table import BENCHMARKS
BENCHMARKS["text"].needs, BENCHMARKS["text"].modules
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class MetricRow(Row):
    """How answers are counted: `target` as `training.share_of_answers`."""


@dataclass(frozen=True)
class BenchmarkRow(Row):
    """Questions for adapters: `target` is `(groups, seed, settings: BenchmarkSettings, vocabulary) -> Benchmark`.

    Attributes:
        most: adapters it has questions for.
        base: steps and batch size of the base model's training.
        adapter: the same of an adapter's.
        modules: what is adapted.
    """

    most: int = 1
    base: tuple[int, int] = (400, 64)
    adapter: tuple[int, int] = (300, 64)
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class OperationRow(Row):
    """A list operation: `target` is `(values (n, length), symbols) -> (n, length)`."""


@dataclass(frozen=True)
class RegimeRow(Row):
    """How adapters that will be merged were started; `shared`: from one A."""

    shared: bool = False


ANSWER_METRICS = Table(
    "way to count right answers",
    [
        MetricRow("exact", "all tokens of an answer are right", target="permlab.adapters.training:share_of_answers"),
        MetricRow("token", "share of right answer tokens", target="permlab.adapters.training:share_of_tokens"),
    ],
)

_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

BENCHMARKS = Table(
    "benchmark of adapters",
    [
        BenchmarkRow(
            "knowledge",
            "facts (first name, family name) -> attribute, other facts for every adapter",
            target="permlab.adapters.benchmark.knowledge:from_settings",
            most=60,
            base=(400, 256),
            adapter=(300, 64),  # all facts of an adapter in a step
            modules=_LINEAR,
        ),
        BenchmarkRow(
            "lists",
            "list operations (reverse, sort, ...), each on its own alphabet",
            target="permlab.adapters.benchmark.lists:from_settings",
            most=6,
            base=(1200, 128),
            adapter=(300, 64),
            modules=_LINEAR,
        ),
        BenchmarkRow(
            "text",
            "labelled sentences: TREC, SST-2, Subj, MR",
            target="permlab.adapters.benchmark.sentences:from_settings",
            needs=("folder",),
            most=4,
            base=(400, 64),
            adapter=(300, 64),
            # What a word says about a label has to be learned per word, so the embedding is adapted too.
            modules=(*_LINEAR, "embed_tokens"),
        ),
    ],
)

REGIMES = Table(
    "start of the adapters",
    [
        RegimeRow("independent", "every adapter starts from its own A"),
        RegimeRow("shared", "all adapters start from one A", shared=True),
    ],
)

OPERATIONS = Table(
    "list operation",
    [
        OperationRow("reverse", "back to front", target="permlab.adapters.benchmark.lists:reversed_list"),
        OperationRow("sort", "smallest first", target="permlab.adapters.benchmark.lists:sorted_up"),
        OperationRow("rotate", "the first symbol to the end", target="permlab.adapters.benchmark.lists:rotated"),
        OperationRow("swap", "neighbours change places", target="permlab.adapters.benchmark.lists:swapped"),
        OperationRow("shift", "every symbol to the next", target="permlab.adapters.benchmark.lists:shifted"),
        OperationRow(
            "interleave", "first and second half in turn", target="permlab.adapters.benchmark.lists:interleaved"
        ),
        OperationRow("copy", "as it is", target="permlab.adapters.benchmark.lists:copied"),
        OperationRow("sort_down", "largest first", target="permlab.adapters.benchmark.lists:sorted_down"),
    ],
)
"""Of benchmark "lists": adapters learn the first six; the base knows all."""
