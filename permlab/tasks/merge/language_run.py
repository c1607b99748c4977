"""Merging language models: pairs trained here, or Hugging Face networks of the user, scored where there is text.

Tables as of image networks (`permlab.tasks.merge.vision`); losses are nats per token, perplexities stand beside them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from permlab.config import Config
from permlab.data import Example, limit_examples, load_texts
from permlab.errors import UserError
from permlab.footprint import check_fits
from permlab.matching import Matching
from permlab.matching.memory import Memory
from permlab.matching.table import MATCHES
from permlab.merging import Setting, Subject, load_networks, save_network
from permlab.merging.combines import COMBINES
from permlab.merging.measure.evaluate import LANGUAGE_MODELS
from permlab.merging.merge import combine_stored
from permlab.merging.networks.frames import Frame
from permlab.merging.networks.language import (
    LanguagePairs,
    buffers_to,
    split_texts,
    state_of,
    token_batches,
    tokenizer_of,
)
from permlab.merging.networks.loaded import Loaded
from permlab.merging.networks.verification import verify_huggingface
from permlab.merging.networks.vocabularies import BASE, UNION
from permlab.merging.setting import applied_weights
from permlab.models.causal_lm import load_tokenizer, save_causal_lm
from permlab.models.quiet import quiet_transformers
from permlab.runs.run import Run
from permlab.storage.files import replacing
from permlab.symmetry import declare_huggingface
from permlab.tables import Row
from permlab.tasks.merge.checks import arms_of
from permlab.tasks.merge.health import check_health, general_texts
from permlab.tasks.merge.language import memory_cap, text_kind
from permlab.tasks.merge.loop import Measured, each_case
from permlab.tasks.merge.needs import merging_needs
from permlab.tasks.merge.on_texts import best_scale, text_information
from permlab.tasks.merge.pairs import device_of, kept_network, setting_of
from permlab.tasks.merge.recipe import numbers_given, recorded, run_stack, wanted
from permlab.tasks.merge.report import judge, pair_numbers, planned, report
from permlab.tasks.merge.settings import MergeConfig
from permlab.tasks.merge.table import LESS_MEMORY

MATCHING = "matching.safetensors"
SHARD = "2GB"
"""Of a merged network on disk: what an interrupted run has to do again at most."""


def run_language(config: Config[MergeConfig], run: Run) -> None:
    """Get the networks, match, merge, score, write."""
    quiet_transformers()
    if config.task.models:
        texts = general_texts(config)
        if not run_stack(config, run):
            run_models(config, run)
        check_health(config, run, texts, run.artifact("model"))
    else:
        run_trained(config, run)


# ---- pairs trained here ----------------------------------------------------------------------------------------------


def run_trained(config: Config[MergeConfig], run: Run) -> None:
    """Train, match, merge and score `task.pairs` pairs; the first pair is kept as Hugging Face folders."""
    task, device = config.task, device_of(config)
    texts, held = split_texts(texts_of(config), task.text.held_out, config.seed)
    tokenizer = load_tokenizer(config.model, [example.text for example in texts])
    pairs = LanguagePairs(config.model, tokenizer, texts, task.train, task.text.max_tokens, config.seed, device)
    module = pairs.build()
    changes, verified_on = verify_huggingface(module.config, type(module), state_of(module))
    run.say(
        f"{len(texts)} texts, {len(held)} held out, vocabulary {len(tokenizer)}, {module.num_parameters() / 1e6:.2f}M "
        f"parameters; {len(changes) - 1} groups of permutations verified on {verified_on} "
        f"(largest change of the outputs {max(changes.values()):.0e})"
    )
    spec = declare_huggingface(module.config, module.state_dict())
    parts = (("test", held), ("train", texts))
    sets = {name: token_batches(tokenizer, part, task.text, device, end=True) for name, part in parts}

    def measure(pair: int) -> Measured:
        states = [
            {name: value.to(device) for name, value in train(run, pairs, pair, member).items()} for member in (0, 1)
        ]
        untrained = [state_of(pairs.untrained(pair, member)) for member in (0, 1)] if task.controls else []
        setting = setting_of(config, run, sets["train"], pair, seed=config.seed)
        subject = Subject(
            module, spec, states, sets, setting, LANGUAGE_MODELS, names=("network A", "network B"),
            untrained=untrained, pair=pair, seed=config.seed,
        )  # fmt: skip
        rows, curves, _ = judge(config, run, subject, anew=True)
        if pair == 0:
            keep_first(config, run, subject, tokenizer)
        return {"arms": rows, "curves": curves}, pair_numbers(rows)

    report(config, run, each_case(run, range(task.pairs), measure), perplexity=True)


def train(run: Run, pairs: LanguagePairs, pair: int, member: int) -> dict[str, torch.Tensor]:
    """One network of a pair, or what a run that was interrupted kept of it."""

    def work() -> dict[str, torch.Tensor]:
        steps = pairs.steps
        with run.progress(f"training network {'AB'[member]} of pair {pair + 1}", steps) as bar:

            def on_step(step: int, loss: torch.Tensor) -> bool:
                if step % 50 == 0 or step == steps:
                    bar.update(step, loss=loss.item())
                return run.stopping

            return pairs.train(pair, member, run.dir / "checkpoints", on_step)

    return kept_network(run, f"{pair}-{member}", work, torch.device("cpu"))


def keep_first(config: Config[MergeConfig], run: Run, subject: Subject, tokenizer: Any) -> None:
    """Write the networks of the first pair to artifacts/networks, and their merge to artifacts/model."""
    folders = [run.artifact(f"networks/{name}") for name in "ab"]
    for folder, state in zip(folders, subject.states):
        subject.model.load_state_dict(state, strict=False)
        save_causal_lm(subject.model, tokenizer, folder)
    loaded = load_networks([str(folder) for folder in folders])
    write_merged(config, run, loaded, subject.match(config.task.match), subject.setting)


# ---- networks of the user --------------------------------------------------------------------------------------------


def run_models(config: Config[MergeConfig], run: Run) -> None:
    """Load, compare, verify, match, merge; score with perplexity where that is possible; write."""
    task = config.task
    vocabulary = wanted(config, run.dir / "checkpoints" / "vocabulary")
    loaded = load_networks(task.models, ancestor=task.ancestor, vocabulary=vocabulary)
    tell(run, loaded)
    check_fits(merging_needs(config, loaded.checkpoints), config.hardware, LESS_MEMORY, config.run.force)
    if not text_kind(config):
        merge_only(config, run, loaded)
        return
    if loaded.kind != "causal_lm":
        raise UserError(f"{task.models[0]} is no causal language model, so it is not scored: set dataset=none")
    subject = subject_of(config, run, loaded)

    def measure(_: int) -> Measured:
        rows, curves, _merged = judge(config, run, subject, anew=True)
        write_merged(config, run, loaded, subject.match(task.match), subject.setting)
        return {"arms": rows, "curves": curves}, pair_numbers(rows)

    report(config, run, each_case(run, range(1), measure), perplexity=True)


def tell(run: Run, loaded: Loaded) -> None:
    """Lines on what was loaded and how its symmetry was checked."""
    for each in loaded.checkpoints:
        kinds = sorted({info.dtype for info in each.tensors.values()})
        run.say(f"{each.path}: {each.parameters / 1e6:.2f}M parameters, {', '.join(kinds)}")
    for note in loaded.notes:
        run.say(note)
    if loaded.frame is not None:
        tell_rows(run, loaded.frame)
    run.say(
        f"{len(loaded.checks) - 1} groups of permutations, verified in float64 on {loaded.verified_on} "
        f"(largest change of the outputs {max(loaded.checks.values()):.0e})"
    )
    for name, reason in loaded.spec.pinned.items():
        run.say(f"{name} stays in place: {reason}")


def tell_rows(run: Run, frame: Frame) -> None:
    """What became of the vocabularies, in numbers and row by row."""
    run.table("vocabulary", frame.table(), show=False)
    counts = frame.counts
    run.say(
        f"vocabularies differ: of {counts['tokens']} tokens {counts['of_all']} are known to all networks, "
        f"{counts['of_some']} to some; {counts['appended']} were appended, {counts['lost']} of the others' were lost "
        "(tables/vocabulary.csv has every row)"
    )
    run.summary(**{f"vocabulary_{key}": count for key, count in counts.items()})


def subject_of(config: Config[MergeConfig], run: Run, loaded: Loaded) -> Subject:
    """The networks in float32 on the device, with the texts they are scored on."""
    assert loaded.module is not None
    names = ("max_position_embeddings", "n_positions")
    limits = [config.task.text.max_tokens, *filter(None, (getattr(loaded.config, name, None) for name in names))]
    scoring = dataclasses.replace(config.task.text, max_tokens=min(limits))
    tokenizer, device = tokenizer_of(loaded), device_of(config)
    texts, held = split_texts(texts_of(config), scoring.held_out, config.seed)
    informed = not config.task.fisher and any(COMBINES[each.arm.combine].files for each in planned(config))
    needs_data = informed or bool(config.task.scales)
    needs_data |= any("data" in MATCHES[each.arm.match].needs for each in planned(config))
    # The networks were not trained here, so all texts are scored unless activations are read on some of them.
    scored = held if needs_data else [*held, *texts]
    sets = {"test": token_batches(tokenizer, scored, scoring, device, end=False)}
    fit = token_batches(tokenizer, texts, scoring, device, end=False) if needs_data else []
    tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in sets["test"])
    run.say(
        f"scored on {tokens} tokens of {config.dataset.name}; whether the networks were trained on them is not known"
    )
    run.summary(tokens=tokens)
    states = [{name: value.to(device) for name, value in state.items()} for state in loaded.states]
    buffers_to(loaded.module, device)
    setting = setting_of(
        config, run, fit, 0, seed=config.seed, ancestor=loaded.ancestor, progress=news(run),
        known=loaded.known, **numbers_given(config, loaded.config),
    )  # fmt: skip
    subject = Subject(
        loaded.module, loaded.spec, states, sets, setting, LANGUAGE_MODELS, names=loaded.names, seed=config.seed
    )
    if informed:
        setting.fisher = text_information(run, subject)
    if config.task.scales:
        setting.scale = best_scale(config, run, subject)
    return subject


def texts_of(config: Config[MergeConfig]) -> list[Example]:
    """The texts of the data set; in a debug run only so many."""
    return limit_examples(load_texts(config.dataset, config.seed), config.debug.examples).examples


def news(run: Run, seconds: float = 10.0) -> Callable[[int, int], None]:
    """A line on how far a matching is, now and then: large networks take minutes."""
    last = time.monotonic()

    def show(done: int, most: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            run.say(f"matching: {done} of at most {most} passes")

    return show


def merge_only(config: Config[MergeConfig], run: Run, loaded: Loaded) -> None:
    """Match and write without data; the arms differ in the distance that is left."""
    rows: list[Row] = []
    setting = setting_of(
        config, run, [], 0, seed=config.seed, ancestor=loaded.ancestor, progress=news(run), keep_scores=False,
        memory=memory_of(config), known=loaded.known, **numbers_given(config, loaded.config),
    )  # fmt: skip
    # Not run, and read a few rows at a time: a subject without data, on views of the files.
    subject = Subject(cast(nn.Module, loaded.module), loaded.spec, loaded.stored, {}, setting)
    saved = run.artifact(MATCHING)
    if run.resumed and saved.is_file():
        subject.matchings[config.task.match] = Matching.load(saved)
    else:
        # Hours of matching are not lost when the merge behind it is stopped.
        save_matching(run, subject.match(config.task.match))
    for each in planned(config):
        matching = subject.match(each.arm.match)
        run.check_stop()
        shared = {**subject.reduction(matching), "match_seconds": matching.seconds}
        rows.append({"pair": 0, "arm": each.label, "role": each.role, **shared})
    write_merged(config, run, loaded, subject.match(config.task.match), setting)
    remedy = {
        "causal_lm": ": set dataset=jsonl dataset.path=FILE to compare perplexities",
        "image_huggingface": ": set dataset=imagefolder dataset.path=FOLDER to compare accuracies",
    }
    run.say(f"nothing was scored{remedy.get(loaded.kind, ', only causal language models and image classifiers are')}")
    run.table("arms", rows, title="Distance that matching takes away")
    first = {key: value for key, value in rows[0].items() if isinstance(value, float)}
    run.summary(networks=len(loaded.names), **first)


def memory_of(config: Config[MergeConfig]) -> Memory:
    """What matching of networks on disk may hold, and the GPU that it multiplies on where there is one."""
    most, device = memory_cap(config), device_of(config)
    piece = int(min(Memory.piece, most / 64))
    return Memory(most, piece, None if device.type == "cpu" else device)


def save_matching(run: Run, matching: Matching) -> None:
    """The permutations without cost matrices, which can be larger than the networks."""
    with replacing(run.artifact(MATCHING)) as temporary:
        dataclasses.replace(matching, costs=[]).save(temporary)


def write_merged(config: Config[MergeConfig], run: Run, loaded: Loaded, matching: Matching, setting: Setting) -> None:
    """The merge of the configured arm as artifacts/model, and its permutations beside it."""
    arm = arms_of(config)[0]
    state = combine_stored(arm, loaded.spec, loaded.stored, matching, setting)
    weights = [] if setting.numbers else applied_weights(arm.combine, len(loaded.stored), setting.weights)
    record = {"method": arm.label, "arm": arm.text, "weights": weights, "seed": config.seed}
    record |= {"density": setting.density, "verified_on": loaded.verified_on, **recorded(config, setting.scale)}
    if loaded.frame is not None:
        record["vocabulary"] = {"tokenizer": config.task.tokenizer, **loaded.frame.counts}
    elif config.task.tokenizer not in (None, UNION):  # the vocabulary is that of all
        last = loaded.checkpoints[-1 if loaded.ancestor is not None else 0].folder
        loaded.tokenizer = last if config.task.tokenizer == BASE else Path(config.task.tokenizer).expanduser()
    shards = run.dir / "checkpoints" / "shards"
    folder = save_network(run.artifact("model"), state, loaded, record, shard_size=SHARD, kept=shards)
    save_matching(run, matching)
    run.say(f"{arm.label}: the merged network is in {folder}")
