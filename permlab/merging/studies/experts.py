"""What fewer experts cost, with every control: `expert_tables(model, counted, scored, ExpertOptions())`.

M-SMoE (arXiv 2310.01334) beside the same without a permutation, with random groups, with equal weights, without the
experts that are used least (dropped), and with all rows of the router, which is the routing of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from permlab.merging.methods.experts import (
    DOMINANT,
    NONE,
    RANDOM,
    Routing,
    compressed,
    expert_parameters,
    plan_groups,
    routing,
)
from permlab.merging.networks.expert_checks import EXPERTS
from permlab.merging.networks.options import ExpertOptions
from permlab.models.checkpoints import open_checkpoint
from permlab.pretraining import MixtureSettings, pretrained_base, text_loss
from permlab.tables import Row, summarise

MERGED = "M-SMoE"
WHOLE = "all experts"
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    MERGED: ({"by": DOMINANT}, {}),
    "no permutation": ({"by": DOMINANT}, {"align": False}),
    "random groups": ({"by": RANDOM}, {}),
    "equal weights": ({"by": DOMINANT, "uniform": True}, {}),
    "dropped": ({"by": NONE}, {}),
    "whole router": ({"by": DOMINANT}, {"shared": True}),
}
"""Label -> how experts are grouped, how groups are merged."""
QUANTITIES = ("loss", "perplexity")


def mixture_of(
    given: ExpertOptions, models: Sequence[str], cache: Path, seed: int, device: Any = "cpu", progress: Any = None
) -> Path:
    """The folder of the user's network, or of one that is trained now unless it was before.

    Args:
        given: text and training.
        models: the user's network, or none.
        cache: folder of networks that are trained here.
        seed: of the training.
        device: where it is trained.
        progress: as `pretrained_base` calls it.
    """
    if models:
        return open_checkpoint(models[0]).folder
    settings = MixtureSettings(corpus=given.corpus, epochs=given.epochs, experts=EXPERTS, seed=seed)
    return pretrained_base(settings, cache, device=device, progress=progress)


def written(model: Any, counted: Tensor, given: ExpertOptions) -> Any:
    """The network with `given.written` experts per layer by M-SMoE, at `given.rank`."""
    found = routing(model, [{"input_ids": rows} for rows in counted.to(model.device).split(16)])
    columns = given.columns if given.rank is not None else 0
    return smaller(model, found, given.written, MERGED, rank=given.rank, columns=columns)


def score(model: Any, pieces: Tensor) -> Row:
    """Nats per token, and perplexity."""
    loss = text_loss(model, pieces)
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def smaller(model: Any, found: Sequence[Routing], kept: int, arm: str, seed: int = 0, **more: Any) -> Any:
    """The network of one arm with so many experts."""
    grouping, merging = ARMS[arm]
    return compressed(model, plan_groups(found, kept, seed=seed, **grouping), **merging, **more)


def expert_tables(
    model: Any,
    counted: Tensor,
    scored: Tensor,
    options: ExpertOptions,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> dict[str, list[Row]]:
    """experts: a row per number kept and arm; ranks: per rank; routing: per layer and expert.

    Args:
        model: a mixture of experts.
        counted: [pieces, tokens], what routing is counted on.
        scored: [pieces, tokens], other text.
        options: numbers.
        seed: of random groups.
        step: called after every score.
    """
    found = routing(model, [{"input_ids": rows} for rows in counted.to(model.device).split(16)])
    whole = score(model, scored)
    rows: list[Row] = [{"kept": len(found[0].used), "arm": WHOLE, **whole}]
    for kept in options.kept:
        for arm in ARMS:
            rows.append({"kept": kept, "arm": arm, **score(smaller(model, found, kept, arm, seed), scored)})
            step()
    ranks: list[Row] = []
    merged = smaller(model, found, options.written, MERGED, seed)
    entries = expert_parameters(merged)
    for rank in options.ranks:
        for columns in dict.fromkeys((0, options.columns)):
            low = smaller(model, found, options.written, MERGED, seed, rank=rank, columns=columns)
            share = expert_parameters(merged, rank, columns) / entries
            ranks.append({"rank": rank, "columns": columns, "share": share, **score(low, scored)})
            step()
    groups = plan_groups(found, options.written)
    used: list[Row] = [
        {
            "layer": each.layer, "expert": expert, "used": float(each.used[expert]),
            "group": int(group.dominant[group.members[expert]]), "weight": float(group.weights[expert]),
        }
        for each, group in zip(found, groups)
        for expert in range(len(each.used))
    ]  # fmt: skip
    return {"experts": rows, "ranks": ranks, "routing": used}


def mean_rows(rows: Sequence[Row], keys: tuple[str, ...], *more: str) -> list[Row]:
    """Means over networks, with deviations."""
    return summarise(list(rows), keys, (*QUANTITIES, *more), count="pairs")


def expert_metrics(rows: Sequence[Row], written: int) -> dict[str, float]:
    """Means of all arms, and how far arms lie above M-SMoE (nats) where `written` experts stay: mean and least."""
    numbers: dict[str, float] = {}
    for row in mean_rows(rows, ("kept", "arm")):
        name = str(row["arm"]).lower().replace("-", "_").replace(" ", "_")
        numbers[f"{name}_perplexity_{row['kept']}"] = row["perplexity"]
    own = {row["pair"]: row["loss"] for row in rows if row["arm"] == MERGED and row["kept"] == written}
    for arm in ARMS:
        if arm != MERGED:
            name = arm.replace(" ", "_")
            above = [r["loss"] - own[r["pair"]] for r in rows if r["arm"] == arm and r["kept"] == written]
            numbers |= {f"{name}_above": sum(above) / len(above), f"{name}_above_least": min(above)}
    return numbers
