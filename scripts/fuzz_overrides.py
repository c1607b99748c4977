"""Command lines that nobody would write, for `scripts/torture_fuzz.py`: `draw_overrides(rng)`."""

from __future__ import annotations

from typing import Any

from fuzz_kinds import DRY

OVERRIDES = (
    "seed=7", "dataset.people=6", "task.train.epochs=1", "task.order=spt", "task.budget=4", "model.scratch.layers=1",
    "model.scratch.hidden_size=16", "model.vocab_size=512", "task.segmenter.name=rule", "hardware.threads=1",
    "run.name=x", "model.lora.rank=2", "task.train.batch_size=4", "dataset.templates=2", "model.width=16",
    "model.depth=1", "task=merge", "task=ntk", "task=lora_lego", "model=mlp", "dataset=digits", "task.train.rate=0.1",
    "task.pairs=2", "task.points=3", "task=inverse_permutation", "task.compare=[weight/average]", "run.root=outputs",
    "experiment=spt/quick", "report.runs=[outputs]", "task.models=[a,b]", "plugins=[x]", "hydra.run.dir=x",
)  # fmt: skip
VALUES = (
    "1e308", "-1", "9223372036854775808", "1000000000", "10000000", "nan", "inf", "null", "''", "[]", "{}", "[[1]]",
    "[" * 2000, "{a:" * 500, "1,2", "range(1,1000000000)", "range(0,1e308,1e-9)", "range(1,5,0)", "choice(1,2)",
    "shuffle(range(0,1000000000))", "sort(3,2,1)", "interval(0,1)", "glob(*)", "${oc.env:HOME}", "${seed}", "${x",
    "größe",
    "a" * 20_000, "\x1b[31mred", "\u202egnp", "'\u2028'", "a b", "a=b", "%", "\\", "\udcff", "!!python/x", "~", "true",
    "../..", "/dev/null", "/dev/zero", "1e9", "0", "1_000", "0x10", "'", '"', "$(id)", "1,range(1,99999)", "x" * 300,
)  # fmt: skip


def draw_overrides(rng: Any) -> tuple[str, ...]:
    """Return a command line with values that nobody would give, and keys that are none."""
    given = [rng.choice(OVERRIDES) for _ in range(rng.choice((1, 1, 2, 3)))]
    for at, text in enumerate(given):
        key, _, value = text.partition("=")
        way = rng.random()
        if way < 0.7:
            given[at] = f"{key}={rng.choice(VALUES)}"
        elif way < 0.8:
            given[at] = f"{rng.choice(('+', '++', '~', '', '.', '='))}{key}{rng.choice(('', '=', '.x='))}{value}"
        elif way < 0.9:
            given[at] = f"{key}.{rng.choice(('', 'a', '0', '__class__', 'x' * 500))}={value}"
        else:
            cut = rng.randrange(len(text) + 1)
            given[at] = text[:cut] + rng.choice(VALUES)[:2000] + text[cut:]
    flags = [[], [], ["-m"], ["-m"], ["--config-dir", "nowhere"], ["--cfg"], ["--config-name", "x"]]
    return (*rng.choice(flags), *given, DRY)
