"""Pairs of small language models trained here on the same texts from different seeds, merged and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from permlab.config import Config
from permlab.data import load_texts
from permlab.errors import UserError
from permlab.merging.networks.huggingface import verify_huggingface
from permlab.merging.networks.loading import load_networks
from permlab.models.causal_lm import build_scratch, load_tokenizer, save_causal_lm
from permlab.runs.run import Run
from permlab.seeding import derived_seed
from permlab.symmetry import declare_huggingface
from permlab.tasks.merge.language import arms_of
from permlab.tasks.merge.language_report import report
from permlab.tasks.merge.language_score import Subject, measure, untrained_rows, write_merged
from permlab.tasks.merge.pairs import device_of
from permlab.text.orders import OrderedTexts
from permlab.text.recall import encoder
from permlab.text.settings import Ordering, TrainingSettings
from permlab.text.training import Collator, Hooks, make_trainer

EPOCHS, BATCH, RATE = 20, 32, 3e-3
"""Training where `task.train` leaves it open."""


def split_texts(config: Config) -> tuple[list[Any], list[Any]]:
    """(training, held-out) examples: every text once, the same cut for every pair.

    Raises:
        UserError: fewer than two texts.
    """
    corpus = load_texts(config.dataset, config.seed)
    examples = list({example.text: example for example in corpus.examples}.values())
    if len(examples) < 2:
        raise UserError(f"dataset={config.dataset.name} has {len(examples)} text; scoring needs two or more")
    order = np.random.default_rng(derived_seed(config.seed, "held out")).permutation(len(examples))
    held = max(1, min(len(examples) - 1, round(config.task.text.held_out * len(examples))))
    return [examples[i] for i in order[held:]], [examples[i] for i in order[:held]]


def token_batches(
    config: Config, tokenizer: Any, examples: list[Any], device: torch.device, *, end: bool
) -> list[dict[str, Tensor]]:
    """Up to `task.text.limit` texts as padded batches of ids; `end`: the end token is predicted too.

    Raises:
        UserError: nothing to predict.
    """
    settings = config.task.text
    stream = stream_of(config, tokenizer, examples[: settings.limit], epochs=1, seed=0, end=end)
    rows = [{"input_ids": ids} for ids in sorted((stream[i]["input_ids"] for i in range(len(stream))), key=len)]
    rows = [row for row in rows if len(row["input_ids"]) > 1]
    if not rows:
        raise UserError(f"dataset={config.dataset.name}: no text has two tokens, so there is nothing to predict")
    collate = Collator(pad_of(tokenizer))
    batches = [collate(rows[at : at + settings.batch_size]) for at in range(0, len(rows), settings.batch_size)]
    return [{key: value.to(device) for key, value in batch.items()} for batch in batches]


def pad_of(tokenizer: Any) -> int:
    """An id to pad with; it is neither attended to nor scored."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def stream_of(
    config: Config, tokenizer: Any, examples: list[Any], epochs: float, seed: int, end: bool = True
) -> OrderedTexts:
    """Texts as they are, shuffled anew every epoch."""
    return OrderedTexts(
        examples,
        encoder(tokenizer),
        Ordering(order="original"),
        epochs=epochs,
        seed=seed,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id if end else None,
        max_tokens=config.task.text.max_tokens,
    )


def run_trained(config: Config, run: Run) -> None:
    """Train, match, merge and score `task.pairs` pairs; the first pair is kept as Hugging Face folders."""
    # Its bars for loading and saving would tear ours, and fill a log file.
    transformers_logging.disable_progress_bar()
    texts, held = split_texts(config)
    tokenizer = load_tokenizer(config.model, [example.text for example in texts])
    device = device_of(config)
    module = build(config, tokenizer, 0).to(device)
    changes, verified_on = verify_huggingface(module.config, type(module), state_of(module))
    run.say(
        f"{len(texts)} texts, {len(held)} held out, vocabulary {len(tokenizer)}, {module.num_parameters() / 1e6:.2f}M "
        f"parameters; {len(changes) - 1} groups of permutations verified on {verified_on} "
        f"(largest change of the outputs {max(changes.values()):.0e})"
    )
    spec = declare_huggingface(module.config, module.state_dict())
    sets = {"test": token_batches(config, tokenizer, held, device, end=True)}
    sets["train"] = token_batches(config, tokenizer, texts, device, end=True)
    saved = run.load_checkpoint() if run.resumed else None
    done: dict[str, Any] = saved or {"networks": {}, "rows": "[]", "curves": "[]", "pairs": 0}
    rows, curves = json.loads(done["rows"]), json.loads(done["curves"])
    for pair in range(done["pairs"], config.task.pairs):
        states = []
        for k in range(2):
            if f"{pair}-{k}" not in done["networks"]:
                done["networks"][f"{pair}-{k}"] = train(config, run, tokenizer, texts, pair, k)
                run.save_checkpoint(done)
            state = done["networks"][f"{pair}-{k}"]
            states.append({name: value.to(device) for name, value in state.items()})
        subject = Subject(pair, spec, module, ["network A", "network B"], states, sets, fit=sets["train"])
        found, lines = measure(config, run, subject)
        if config.task.controls:
            initial = [state_of(build(config, tokenizer, seed_of(config, pair, k)).to(device)) for k in range(2)]
            found += untrained_rows(subject, initial, config.seed)
        if pair == 0:
            keep_first(config, run, subject, tokenizer)
        rows, curves = rows + found, curves + lines
        done = {"networks": {}, "rows": json.dumps(rows), "curves": json.dumps(curves), "pairs": pair + 1}
        run.save_checkpoint(done)
        run.check_stop()
    report(config, run, rows, curves)


def seed_of(config: Config, pair: int, k: int) -> int:
    """Seed of the initial weights of network k of a pair."""
    return derived_seed(config.seed, "init", pair, k)


def build(config: Config, tokenizer: Any, seed: int) -> Any:
    """The architecture with random weights in float32."""
    torch.manual_seed(seed)
    return build_scratch(config.model, len(tokenizer), config.task.text.max_tokens, tokenizer).float()


def state_of(module: Any) -> dict[str, Tensor]:
    """A copy of its tensors, tied ones under the name of the embedding only."""
    tied = declare_huggingface(module.config, module.state_dict()).tied
    return {name: value.detach().clone() for name, value in module.state_dict().items() if name not in tied}


def train(config: Config, run: Run, tokenizer: Any, texts: list[Any], pair: int, k: int) -> dict[str, Tensor]:
    """Train network k of a pair: its own initial weights, its own order of the same texts.

    Raises:
        Interrupted: a stop signal arrived; this network starts again on resume.
    """
    given = config.task.train
    device = device_of(config)
    module = build(config, tokenizer, seed_of(config, pair, k)).to(device)
    seed = derived_seed(config.seed, "order", pair, k)
    stream = stream_of(config, tokenizer, texts, epochs=given.epochs or EPOCHS, seed=seed % 2**32)
    settings = TrainingSettings(
        learning_rate=given.rate or RATE,
        batch_size=given.batch_size or BATCH,
        schedule="cosine" if given.schedule == "cosine" else "constant_with_warmup",
        weight_decay=given.weight_decay,
    )
    steps = -(-len(stream) // settings.batch_size)
    with run.progress(f"training network {'AB'[k]} of pair {pair + 1}", steps) as bar:

        def on_step(step: int, loss: Tensor, _rate: float) -> tuple[bool, bool]:
            if step % 50 == 0 or step == steps:
                bar.update(step, loss=loss.item())
            return False, run.stopping

        trainer = make_trainer(
            module,
            pad_of(tokenizer),
            stream,
            run.dir / "checkpoints",
            settings,
            Hooks(on_step),
            seed=seed % 2**32,
            device=str(device),
        )
        trainer.train()
    run.check_stop()
    return {name: value.cpu() for name, value in state_of(module).items()}


def keep_first(config: Config, run: Run, subject: Subject, tokenizer: Any) -> None:
    """Write the networks of the first pair to artifacts/networks, and their merge to artifacts/model."""
    folders = [run.artifact(f"networks/{name}") for name in "ab"]
    for folder, state in zip(folders, subject.states):
        subject.module.load_state_dict(state, strict=False)
        save_causal_lm(subject.module, tokenizer, Path(folder))
    if not (run.dir / "artifacts" / "model").exists():
        loaded = load_networks([str(folder) for folder in folders])
        write_merged(config, run, loaded, subject.matchings[arms_of(config)[0].match])
