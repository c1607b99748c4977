"""Does a merged language model still speak? `permlab task=merge task.models=[A,B] task.general.path=FILE.txt`

A perplexity far above that of the networks that were merged foretells that the model fails at its tasks, and costs
less than the tasks do (arXiv 2402.09656). One network stands in memory at a time.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError, check_range, first_line
from permlab.footprint import on_cpu
from permlab.hardware import size_text
from permlab.merging.networks.vocabularies import same_rows
from permlab.models.checkpoints import Checkpoint, open_checkpoint
from permlab.storage.hub import is_hub_id
from permlab.tables import Row
from permlab.tasks.merge.language import memory_cap, speaks
from permlab.tasks.merge.settings import MergeConfig
from permlab.text.settings import check_general, check_harness

if TYPE_CHECKING:
    from permlab.runs.run import Run
    from permlab.text.forgetting import Blocks

MOST = 150e6
"""Parameters of the largest network that a CPU is given unasked: larger ones take minutes."""
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
WIDE = 4
"""Bytes of a weight while a network is scored: float32, as the merges are compared."""


def validate_health(config: Config[MergeConfig]) -> None:
    """Check `task.general`.

    Raises:
        UserError: naming the key.
    """
    given = config.task.general
    check_general(given, "task.general.")
    check_range("task.general.factor", given.factor, 1)
    check_harness(given.harness, given.harness_limit, "task.general.")


def left_out(config: Config[MergeConfig], network: Checkpoint) -> str:
    """Why a network is not scored, or nothing: large ones are, where a text is given or tasks are."""
    given, needed = config.task.general, float(WIDE * network.parameters)
    if not speaks(network) or not (given.sequences or given.harness):
        return "not asked for"
    if not speaking(network):
        return f"{network.path} has no tokenizer"
    if given.path is not None or given.harness:
        return ""
    if on_cpu(config.hardware) and network.parameters > MOST:
        return f"{network.parameters / 1e9:.2g}B parameters take a CPU minutes: task.general.path=FILE has it done"
    if needed > memory_cap(config):
        return f"it takes {size_text(needed)}: task.general.path=FILE or a higher task.memory_gb has it done"
    return ""


def general_texts(config: Config[MergeConfig]) -> list[str]:
    """The text of `task.general.path`, read before anything is merged; empty where the networks write it.

    Raises:
        UserError: it cannot be had.
    """
    given = config.task.general
    if given.path is None or not given.sequences:
        return []
    from permlab.text.forgetting import read_general

    return read_general(given.path, given.split)


def speaking(network: Checkpoint) -> bool:
    """Whether a tokenizer lies beside a network."""
    return any((network.folder / name).is_file() for name in TOKENIZERS)


def plan_health(config: Config[MergeConfig]) -> str:
    """The line of a dry run."""
    if is_hub_id(config.task.models[0]):
        return "known when the networks are there"
    reason = left_out(config, open_checkpoint(config.task.models[0]))
    return f"not asked: {reason}" if reason else f"perplexity on {source_of(config)}"


def check_health(config: Config[MergeConfig], run: Run, texts: list[str], merged: Path) -> None:
    """Score the networks that were merged, their ancestor and the merge on one text; warn when the merge is far off.

    `texts`: of `general_texts`.
    """
    task = config.task
    opened = [("merged", open_checkpoint(path)) for path in task.models]
    if task.ancestor is not None:
        opened.append(("ancestor", open_checkpoint(task.ancestor)))
    reason = left_out(config, opened[0][1])
    if reason:
        if reason != "not asked for":
            run.say(f"the merge was not asked whether it still speaks: {reason}")
        return
    opened.append(("merge", open_checkpoint(str(merged))))
    differ = not all(same_rows(opened[0][1], each) for _, each in opened[1:])
    if task.general.path is None and (differ or len({each.config.get("vocab_size") for _, each in opened}) > 1):
        run.say(
            "the merge was not asked whether it still speaks: vocabularies differ, which takes task.general.path=FILE"
        )
        return
    try:
        rows = scored(config, run, texts, opened)
    except (UserError, ValueError, OSError, ImportError) as error:  # of a tokenizer or a text; the merge is written
        run.warn(f"the merge was not asked whether it still speaks: {first_line(error)}")
        return
    run.table("health", rows, title=f"Loss (nats a token) and perplexity on {source_of(config)}")
    losses = {kind: [float(row["loss"]) for row in rows if row["role"] == kind] for kind in ("merged", "merge")}
    if not losses["merge"] or not task.general.sequences:
        return
    worst, own = max(losses["merged"]), losses["merge"][0]
    ratio = perplexity(own - worst)
    run.summary(health_loss=own, health_perplexity=perplexity(own), perplexity_ratio=ratio)
    told = f"perplexity {perplexity(own):.4g} on {source_of(config)}, {ratio:.3g} times the worst network merged"
    run.say(told)
    if differ:
        run.say("vocabularies differ, and with them what a token is: a perplexity per token does not compare exactly")
    if not ratio <= task.general.factor:  # NaN too
        run.warn(
            f"{told}: the merge may have collapsed; try other task.weights, a smaller task.scale, or task.match=weight"
        )


def perplexity(loss: float) -> float:
    """exp(loss), without overflow."""
    return math.exp(min(loss, 700.0))


def source_of(config: Config[MergeConfig]) -> str:
    """What the text is, in words."""
    given = config.task.general
    writers = "the ancestor" if config.task.ancestor else "the networks merged"
    return f"{given.path}" if given.path is not None else f"text that {writers} wrote"


def scored(
    config: Config[MergeConfig], run: Run, texts: list[str], networks: list[tuple[str, Checkpoint]]
) -> list[Row]:
    """One row per network: loss, perplexity and the scores of tasks."""
    written = [] if texts else text_of(config, run.device, networks)
    rows: list[Row] = []
    with run.progress("asking the merge", len(networks)) as bar:
        for done, (role, checkpoint) in enumerate(networks, start=1):
            row: Row = {"network": checkpoint.name if role != "merge" else "the merge", "role": role}
            rows.append(row | scores_of(config, run.device, checkpoint, networks[0][1], texts, written))
            bar.update(done)
            run.check_stop()
    return rows


def scores_of(
    config: Config[MergeConfig], device: Any, network: Checkpoint, first: Checkpoint, texts: list[str], written: Blocks
) -> Row:
    """Scores of one network, which is gone afterwards.

    Args:
        config: of the run.
        device: where it is run.
        network: the network.
        first: the network whose tokenizer those have that bring none.
        texts: cut into pieces of the network's own tokens.
        written: pieces that take their place where there are no texts.
    """
    from permlab.text.forgetting import loss_per_token, text_blocks
    from permlab.text.harness import harness_scores

    given, row = config.task.general, Row()
    model, tokenizer = loaded(network, first, device)
    if given.sequences:
        sizes = {"sequences": given.sequences, "tokens": given.tokens}
        row["loss"] = loss_per_token(model, text_blocks(tokenizer, texts, **sizes) if texts else written)
        row["perplexity"] = perplexity(row["loss"])
    if given.harness:
        row |= harness_scores(model, tokenizer, given.harness, limit=given.harness_limit, seed=config.seed)
    return row


def text_of(config: Config[MergeConfig], device: Any, networks: list[tuple[str, Checkpoint]]) -> Blocks:
    """What the ancestor writes, or else the networks themselves, in tokens."""
    given = config.task.general
    found: Blocks = []
    ancestors = [each for role, each in networks if role == "ancestor"]
    writers = ancestors or [each for role, each in networks if role == "merged"]
    for number, each in enumerate(writers if given.sequences else []):
        found += written_by(config, device, each, networks[0][1], number, max(1, given.sequences // len(writers)))
    return found


def written_by(
    config: Config[MergeConfig], device: Any, network: Checkpoint, first: Checkpoint, number: int, count: int
) -> Blocks:
    """`count` pieces that one network writes; it is gone afterwards."""
    from permlab.text.forgetting import own_text

    model, tokenizer = loaded(network, first, device)
    tokens = min(config.task.general.tokens, getattr(model.config, "max_position_embeddings", sys.maxsize))
    return own_text(model, tokenizer, sequences=count, tokens=tokens, seed=config.seed + number)


def loaded(network: Checkpoint, first: Checkpoint, device: Any) -> tuple[Any, Any]:
    """A network in float32 with its tokenizer, or the first network's where it has none."""
    from permlab.pretraining import load_base

    return load_base(network.folder, device, None if speaking(network) else first.folder)
