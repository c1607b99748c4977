"""Questions of the user: prompts and completions in JSON lines, counted right when the model would write exactly that.

>>> completion_score(model, tokenizer, read_questions("questions.jsonl"))
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from permlab.data.texts.rows import BadRows, json_rows


def read_questions(path: str | Path, limit: int | None = None) -> list[tuple[str, str]]:
    """(prompt, completion) of every line of a JSONL file.

    Args:
        path: the file.
        limit: most lines that are read; None for all.

    Raises:
        UserError: naming file and line.
    """
    rows: list[tuple[str, str]] = []
    bad = BadRows()
    for source, entry in islice(json_rows(Path(path), bad), limit):
        pair = entry.get("prompt"), entry.get("completion")
        if all(isinstance(part, (str, int, float)) for part in pair):
            rows.append((str(pair[0]), str(pair[1])))
        else:
            bad.add(source, "no object with prompt and completion")
    bad.finish(str(path), len(rows))
    return rows


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
            # Logits at a position predict the next token: the last token of the prompt decides the first of the answer.
            first = len(prompt) - 1
            right += bool(torch.equal(choice[row, first : first + len(answer)], torch.tensor(answer)))
    return right / len(rows)
