"""Hugging Face networks of the user: `permlab task=merge task.models=[A,B]`, scored where there is text for them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from permlab.config import Config
from permlab.errors import UserError
from permlab.hardware import check_memory
from permlab.matching.table import MATCHES
from permlab.merging.networks.loaded import Loaded
from permlab.merging.networks.loading import load_networks
from permlab.merging.table import COMBINES
from permlab.runs.run import Run
from permlab.tasks.merge.language import arms_of, memory, text_kind
from permlab.tasks.merge.language_report import report
from permlab.tasks.merge.language_score import (
    Subject,
    matched,
    measure,
    reduction,
    setting_of,
    write_merged,
)
from permlab.tasks.merge.language_train import split_texts, token_batches
from permlab.tasks.merge.pairs import device_of


def run_models(config: Config, run: Run) -> None:
    """Load, compare, verify, match, merge; score with perplexity where that is possible; write."""
    task = config.task
    loaded = load_networks(task.models, ancestor=task.ancestor)
    tell(run, loaded)
    needed = memory(loaded.checkpoints, scored=text_kind(config), ancestral="ancestor" in COMBINES[task.combine].needs)
    check_memory("merging these networks", needed, config.hardware)
    if loaded.kind == "causal_lm" and text_kind(config):
        subject = subject_of(config, run, loaded)
        rows, curves = measure(config, run, subject)
        matching = subject.matchings[arms_of(config)[0].match]
        write_merged(config, run, loaded, matching)
        report(config, run, rows, curves)
        return
    if text_kind(config):
        raise UserError(f"{task.models[0]} is no causal language model, so it is not scored: set dataset=none")
    merge_only(config, run, loaded)


def tell(run: Run, loaded: Loaded) -> None:
    """Lines on what was loaded and how its symmetry was checked."""
    for each in loaded.checkpoints:
        kinds = sorted({info.dtype for info in each.tensors.values()})
        run.say(f"{each.path}: {each.parameters / 1e6:.2f}M parameters, {', '.join(kinds)}")
    for note in loaded.notes:
        run.say(note)
    largest = max(loaded.checks.values())
    run.say(
        f"{len(loaded.checks) - 1} groups of permutations, verified in float64 on {loaded.verified_on} "
        f"(largest change of the outputs {largest:.0e})"
    )
    for name, reason in loaded.spec.pinned.items():
        run.say(f"{name} stays in place: {reason}")


def merge_only(config: Config, run: Run, loaded: Loaded) -> None:
    """Match and write without data; the arms differ in the distance that is left."""
    rows = []
    arms = arms_of(config)
    for arm in reversed(arms):
        matching = matched(run, arm.match, loaded.spec, loaded.module, loaded.states, setting_of(config, run))
        shared = {"l2_reduction": reduction(loaded.spec, loaded.states, matching), "moved": matching.moved()}
        rows.insert(0, {"pair": 0, "arm": arm.label, **shared, "seconds_matching": matching.seconds})
    write_merged(config, run, loaded, matching)
    remedy = {
        "causal_lm": ": set dataset=jsonl dataset.path=FILE to compare perplexities",
        "image_huggingface": ": set dataset=imagefolder dataset.path=FOLDER to compare accuracies",
    }
    run.say(f"nothing was scored{remedy.get(loaded.kind, ', only causal language models and image classifiers are')}")
    run.table("arms", rows, title="Distance that matching takes away")
    first = {key: value for key, value in rows[0].items() if isinstance(value, float)}
    run.summary(networks=len(loaded.names), **first)


def subject_of(config: Config, run: Run, loaded: Loaded) -> Subject:
    """The networks in float32 on the device, with the texts they are scored on."""
    settings = config.task.text
    longest = getattr(loaded.config, "max_position_embeddings", None) or getattr(loaded.config, "n_positions", math.inf)
    settings.max_tokens = int(min(settings.max_tokens, longest))
    tokenizer = tokenizer_of(config, loaded)
    device = device_of(config)
    texts, held = split_texts(config)
    needs_fit = any("data" in MATCHES[arm.match].needs for arm in arms_of(config))
    # The networks were not trained here, so all texts are scored unless activations are read on some of them.
    scored = held if needs_fit else [*held, *texts]
    sets = {"test": token_batches(config, tokenizer, scored, device, end=False)}
    fit = token_batches(config, tokenizer, texts, device, end=False) if needs_fit else []
    tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in sets["test"])
    run.say(
        f"scored on {tokens} tokens of {config.dataset.name}; whether the networks were trained on them is not known"
    )
    run.summary(tokens=tokens)
    states = [{name: value.to(device) for name, value in state.items()} for state in loaded.states]
    buffers_to(loaded.module, device)
    return Subject(0, loaded.spec, loaded.module, loaded.names, states, sets, fit, ancestor=loaded.ancestor)


def buffers_to(module: nn.Module, device: torch.device) -> None:
    """Move the buffers; the parameters of a loaded module are empty and cannot be moved."""
    for part in module.modules():
        for name, value in part.named_buffers(recurse=False):
            setattr(part, name, value.to(device))


def tokenizer_of(config: Config, loaded: Loaded) -> Any:
    """The tokenizer of the first network.

    Raises:
        UserError: it has none, or one for another vocabulary.
    """
    from transformers import AutoTokenizer

    first = loaded.checkpoints[0]
    try:
        tokenizer = AutoTokenizer.from_pretrained(first.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a missing or broken file leads to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{first.path} has no tokenizer that loads ({reason[:120]}): copy its files there, or set dataset=none"
        ) from error
    if len(tokenizer) > loaded.config.vocab_size:
        raise UserError(
            f"{first.path}: its tokenizer has {len(tokenizer)} tokens, the network {loaded.config.vocab_size}: copy "
            "the tokenizer that belongs to it"
        )
    return tokenizer
