"""Merge adapters of the user: `permlab task=lora_lego task.adapters=[A,B] task.method=lego task.rank=16`."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from permlab.adapters import Adapter, AdapterSource, applied, open_adapter, plan_ranks, write_merge
from permlab.adapters.diagnostics import module_norm_ratio, seed_spread
from permlab.config import Config
from permlab.errors import UserError
from permlab.runs.run import Run
from permlab.tasks.lora_lego import merge_rule


def describe(config: Config) -> dict[str, str]:
    """Lines of a dry run: what is merged, ranks and sizes, from the file headers."""
    adapters = open_all(config.task.adapters)
    ranks = plan_ranks(adapters, merge_rule(config))
    mib = sum(adapter.n_bytes() for adapter in adapters) / 2**20
    inputs = [
        f"{a.name} ({len(a.modules)} modules, rank {_ranks(i.rank for i in a.modules.values())})" for a in adapters
    ]
    return {
        "adapters": ", ".join(inputs),
        "method": config.task.method,
        "merged": f"{len(ranks)} modules, rank {_ranks(ranks.values())}",
        "memory": f"at most about {1.5 * mib:,.0f} MiB besides the libraries; the adapters have {mib:,.0f} MiB",
        "questions": ", ".join(config.task.data) or "none: the merge is written, nothing is scored",
    }


def merge_files(config: Config, run: Run) -> None:
    """Merge into artifacts/adapter, tabulate the modules, and score when there are questions."""
    task = config.task
    adapters = open_all(task.adapters)
    bases = {str(a.settings.raw.get("base_model_name_or_path")) for a in adapters}
    if len(bases) > 1:
        run.say(
            f"the adapters name different base models ({', '.join(sorted(bases))}); their shapes agree, so they merge"
        )
    rule = merge_rule(config)
    total = len(plan_ranks(adapters, rule))
    questions = [read_questions(path, task.data_limit) for path in task.data]
    start = time.perf_counter()
    with run.progress(f"{task.method}: merging {len(adapters)} adapters", total) as bar:

        def show(done: int, _total: int) -> None:
            bar.update(done)
            run.check_stop()

        out = run.artifact("adapter")
        merged = write_merge(out, adapters, rule, extra=task.extra, device=run.device, progress=show)
    seconds = time.perf_counter() - start
    written = open_adapter(out)
    rows = module_rows(adapters, written)
    for row in rows:
        report = merged.reports.get(row["module"])
        row |= {} if report is None else {"inertia_share": report.inertia_share, "mixed_share": report.mixed_share}
        row |= {} if report is None else {"smallest": report.smallest, "largest": report.largest}
    run.table("modules", rows, title="Merged modules", show=len(rows) <= 30)
    run.say(f"merged {total} modules of {len(adapters)} adapters in {seconds:.1f} s: {out}")
    numbers = {"modules": total, "adapters": len(adapters), "seconds_merging": seconds}
    numbers["norm_ratio"] = statistics.fmean(row["norm_ratio"] for row in rows)
    if merged.reports:
        numbers["mixed_share"] = statistics.fmean(report.mixed_share for report in merged.reports.values())
    if merged.reports and task.spread_seeds:
        seeds = [rule.seed + 1 + index for index in range(task.spread_seeds)]
        numbers["seed_spread"] = seed_spread(adapters, rule, seeds, run.device)
        run.say(
            f"other k-means seeds change the merged updates by {numbers['seed_spread']:.2f} of their norm on average"
        )
    run.summary(**numbers)
    if questions:
        ask_all(config, run, adapters, written, questions)


def open_all(paths: Sequence[str]) -> list[Adapter]:
    """Open every adapter; two with one name are told apart by their place in the list."""
    opened = [open_adapter(path) for path in paths]
    names = [adapter.name for adapter in opened]
    for number, adapter in enumerate(opened, start=1):
        if names.count(adapter.name) > 1:
            adapter.name = f"{adapter.name} ({number})"
    return opened


def module_rows(adapters: Sequence[Adapter], written: Adapter) -> list[dict[str, Any]]:
    """Rank and norm of every merged module beside its inputs."""
    rows = []
    for module, info in written.modules.items():
        having = sum(module in adapter.modules for adapter in adapters)
        ratio = module_norm_ratio(written, adapters, module)
        rows.append({"module": module, "adapters": having, "rank": info.rank, "norm_ratio": ratio})
    return rows


def read_questions(path: str, limit: int | None) -> list[tuple[str, str]]:
    """(prompt, completion) of every line of a JSONL file.

    Raises:
        UserError: naming file and line.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or (limit is not None and len(rows) >= limit):
            continue
        try:
            entry = json.loads(line)
            rows.append((str(entry["prompt"]), str(entry["completion"])))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number} is not a JSON object with prompt and completion") from None
    if not rows:
        raise UserError(f"{path} holds no questions")
    return rows


def ask_all(
    config: Config, run: Run, adapters: Sequence[Adapter], written: Adapter, questions: Sequence[list[tuple[str, str]]]
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

    table = []
    with run.progress("asking", len(adapters)) as bar:
        for number, (adapter, rows) in enumerate(zip(adapters, questions), start=1):
            run.check_stop()
            line = {"adapter": adapter.name, "questions": len(rows), "base": score_of(None, rows)}
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


@torch.no_grad()
def completion_score(model: Any, tokenizer: Any, rows: Sequence[tuple[str, str]], batch: int = 16) -> float:
    """Share of completions whose every token is the model's first choice after the prompt (greedy exact match)."""
    right = 0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in part]
        answers = [tokenizer(completion, add_special_tokens=False)["input_ids"] for _, completion in part]
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers))
        ids = torch.full((len(part), longest), tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row, (prompt, answer) in enumerate(zip(prompts, answers)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            mask[row, : len(prompt) + len(answer)] = 1
        choice = model(ids.to(model.device), attention_mask=mask.to(model.device)).logits.argmax(dim=-1).cpu()
        for row, (prompt, answer) in enumerate(zip(prompts, answers)):
            first = len(prompt) - 1
            right += bool(torch.equal(choice[row, first : first + len(answer)], torch.tensor(answer)))
    return right / len(rows)


def _ranks(ranks: Any) -> str:
    found = sorted(set(ranks))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
