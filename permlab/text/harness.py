"""Tasks of lm-evaluation-harness on a model in memory: `harness_scores(model, tokenizer, ["arc_easy"], limit=100)`.

The harness is that of EleutherAI, as it is (`pip install 'permlab[lm-eval]'`): its tasks, prompts and metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from permlab.errors import UserError, first_line
from permlab.tables import is_number


def harness_scores(
    model: Any, tokenizer: Any, tasks: Sequence[str], *, batch_size: int = 16, limit: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Score a model.

    Args:
        model: a causal language model; its mode stays.
        tokenizer: its tokenizer.
        tasks: names that the harness knows.
        batch_size: requests at a time.
        limit: questions of each task; None = all.
        seed: of whatever the harness draws.

    Returns:
        `<task>_<metric>` -> value, without standard errors.

    Raises:
        UserError: a task that the harness does not know, or whose data cannot be had.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    training = model.training
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    seeds = {f"{kind}_random_seed": seed for kind in ("numpy", "torch", "fewshot")} | {"random_seed": seed}
    try:
        found: Any = lm_eval.simple_evaluate(model=wrapped, tasks=list(tasks), limit=limit, **seeds)
    except Exception as error:  # the harness and the data sets that it fetches raise what they like
        raise UserError(f"harness={list(tasks)}: {first_line(error)}; `lm-eval ls tasks` has all names") from error
    finally:
        model.train(training)
    scores = {}
    for task, values in found["results"].items():
        for name, value in values.items():
            metric = name.removesuffix(",none").replace(",", "_")
            if is_number(value) and "stderr" not in metric:
                scores[f"{task}_{metric}"] = float(value)
    return scores
