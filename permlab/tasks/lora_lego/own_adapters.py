"""Merge adapters of the user: `permlab task=lora_lego task.adapters=[A,B] task.method=lego task.rank=16`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from permlab.adapters import Adapter, AdapterSource, applied, open_adapter, plan_ranks, write_merge
from permlab.adapters.completions import completion_score, read_questions
from permlab.adapters.diagnostics import module_rows, seed_spread
from permlab.adapters.dora import folded_text
from permlab.adapters.files import open_adapters
from permlab.adapters.interference import overlap_rows, predicted_error
from permlab.adapters.merge_rule import rule_of
from permlab.adapters.moments import Moments, input_moments
from permlab.config import Config
from permlab.runs.run import Run
from permlab.seeding import derived_seed
from permlab.tables import Row
from permlab.tasks.lora_lego.needs import local_base

if TYPE_CHECKING:
    from permlab.tasks.lora_lego import LoraLegoConfig


def describe(config: Config[LoraLegoConfig]) -> dict[str, str]:
    """Lines of a dry run: what is merged, and its ranks, from the file headers."""
    adapters = open_adapters(config.task.adapters, local_base(config))
    ranks = plan_ranks(adapters, rule_of(config.task))
    inputs = [
        f"{a.name} ({len(a.modules)} modules, rank {_ranks(i.rank for i in a.modules.values())})" for a in adapters
    ]
    return {
        "adapters": ", ".join(inputs),
        "merged": f"{len(ranks)} modules, rank {_ranks(ranks.values())}",
    }


def merge_own(config: Config[LoraLegoConfig], run: Run) -> None:
    """Merge into artifacts/adapter, tabulate the modules, and score when there are questions."""
    task = config.task
    adapters = open_adapters(task.adapters, local_base(config))
    bases = {str(a.settings.raw.get("base_model_name_or_path")) for a in adapters}
    if len(bases) > 1:
        run.say(
            f"the adapters name different base models ({', '.join(sorted(bases))}); their shapes agree, so they merge"
        )
    rule, seed = rule_of(task), config.seed
    total = len({module for adapter in adapters for module in adapter.modules})
    moments = calibrated(config, run, adapters)
    questions = [read_questions(path, task.data_limit) for path in task.data]
    start = time.perf_counter()
    with run.progress(f"{task.method}: merging {len(adapters)} adapters", total) as bar:

        def show(done: int, _total: int) -> None:
            bar.update(done)
            run.check_stop()

        out = run.artifact("adapter")
        merged = write_merge(
            out, adapters, rule, seed=seed, extra=task.extra, device=run.device, progress=show, moments=moments
        )
    seconds = time.perf_counter() - start
    written = open_adapter(out)
    for adapter in adapters:
        if adapter.kept:
            run.say(folded_text(adapter.name, adapter.kept))
    rows = module_rows(adapters, written, merged.reports)
    run.table("modules", rows, title="Merged modules", show=len(rows) <= 30)
    run.say(f"merged {total} modules of {len(adapters)} adapters in {seconds:.1f} s: {out}")
    numbers = {"modules": total, "adapters": len(adapters), "seconds_merging": seconds}
    numbers["norm_ratio"] = statistics.fmean(row["norm_ratio"] for row in rows)
    if len(adapters) > 1:
        run.table("interference", overlap_rows(adapters), show=False)
        error = predicted_error(written, adapters, [moments] * len(adapters) if moments else None)
        numbers["predicted_error"] = error
        run.say(
            f"predicted error {error:.2f}: the merge changes the updates by this share of their squares (0: none, "
            "1: as much as leaving an adapter out); tables/interference.csv says where they overlap"
        )
    if merged.reports:
        numbers["mixed_share"] = statistics.fmean(report.mixed_share for report in merged.reports.values())
    if merged.reports and task.spread_seeds:
        others = [derived_seed(seed, "another clustering", index) for index in range(task.spread_seeds)]
        numbers["seed_spread"] = seed_spread(adapters, rule, others, seed=seed, device=run.device, moments=moments)
        run.say(
            f"other k-means seeds change the merged updates by {numbers['seed_spread']:.2f} of their norm on average"
        )
    run.summary(**numbers)
    if questions:
        ask_all(config, run, adapters, written, questions)


def calibration_texts(config: Config[LoraLegoConfig]) -> list[str]:
    """The texts of `task.calibration`, at most `task.data_limit`.

    Raises:
        UserError: naming the file and a line without a text.
    """
    from permlab.data.texts.jsonl import read_jsonl

    examples = read_jsonl(config.task.calibration or "").examples
    return [example.text for example in examples[: config.task.data_limit]]


def calibrated(config: Config[LoraLegoConfig], run: Run, adapters: Sequence[Adapter]) -> dict[str, Moments] | None:
    """Second moments of the modules' inputs on `task.calibration`, from one pass of the model; None without it."""
    if config.task.calibration is None:
        return None
    from permlab.hardware import resolve_device, resolve_dtype
    from permlab.models.causal_lm import load_causal_lm

    modules = {name: info for adapter in adapters for name, info in adapter.modules.items()}
    texts = calibration_texts(config)
    device = resolve_device(config.hardware)
    model, tokenizer = load_causal_lm(config.model, [], resolve_dtype(config.hardware), device, config.seed)
    limit = min(512, int(getattr(model.config, "max_position_embeddings", 512)))
    rows = [torch.tensor(tokenizer(text)["input_ids"][:limit])[None] for text in texts]
    with run.progress("calibrating", len(rows)) as bar:

        def read() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for done, ids in enumerate(rows, start=1):
                run.check_stop()
                if ids.numel():
                    yield ids, torch.ones_like(ids)
                bar.update(done)

        return input_moments(model.eval(), modules, read())


def ask_all(
    config: Config[LoraLegoConfig],
    run: Run,
    adapters: Sequence[Adapter],
    written: Adapter,
    questions: Sequence[list[tuple[str, str]]],
) -> None:
    """Ask the base, every adapter on its own file, and the merge on every file: share of exact completions."""
    from permlab.hardware import resolve_dtype
    from permlab.models.causal_lm import load_causal_lm

    device = run.device
    model, tokenizer = load_causal_lm(config.model, [], resolve_dtype(config.hardware), device, config.seed)
    model.eval()

    def score_of(adapter: AdapterSource | None, rows: list[tuple[str, str]]) -> float:
        with nullcontext() if adapter is None else applied(model, adapter):
            return completion_score(model, tokenizer, rows)

    table: list[Row] = []
    with run.progress("asking", len(adapters)) as bar:
        for number, (adapter, rows) in enumerate(zip(adapters, questions), start=1):
            run.check_stop()
            line: Row = {"adapter": adapter.name, "questions": len(rows), "base": score_of(None, rows)}
            line |= {"single": score_of(adapter, rows), "merged": score_of(written, rows)}
            line["share_of_single"] = line["merged"] / line["single"] if line["single"] else None
            table.append(line)
            bar.update(number)
    run.table("methods", [{"method": config.task.method} | line for line in table], title="Exact completions")
    shares = [line["share_of_single"] for line in table if line["share_of_single"] is not None]
    run.summary(
        average_score=statistics.fmean(shares) if shares else 0.0,
        single_score=statistics.fmean(line["single"] for line in table),
    )


def _ranks(ranks: Any) -> str:
    found = sorted(set(ranks))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
