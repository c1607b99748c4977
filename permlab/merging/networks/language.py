"""Small language models trained to be merged: `LanguagePairs(model, tokenizer, texts, ...).train(pair=0, member=1)`.

All networks of a run share the tokenizer and the texts; each has its own initial weights and its own order of the
texts, from (seed, "init", pair, member) and (seed, "order", pair, member).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from permlab.errors import UserError, first_line
from permlab.merging.networks.loaded import Loaded
from permlab.merging.networks.options import EndpointTraining, TextScoring
from permlab.models.causal_lm import build_scratch
from permlab.seeding import derived_seed
from permlab.symmetry import declare_huggingface
from permlab.text.batches import Collator
from permlab.text.orders import OrderedTexts
from permlab.text.recall import encoder
from permlab.text.settings import Ordering, TrainingSettings
from permlab.text.training import Hooks, make_trainer

EPOCHS, BATCH, RATE = 20, 32, 3e-3
"""Training where `EndpointTraining` leaves it open."""


def split_texts(examples: Sequence[Any], held_out: float, seed: int) -> tuple[list[Any], list[Any]]:
    """Return (training, held-out) examples: every text once, the same cut for every pair.

    Raises:
        UserError: fewer than two texts.
    """
    once = list({example.text: example for example in examples}.values())
    if len(once) < 2:
        raise UserError(f"the data set has {len(once)} text; scoring needs two or more")
    order = np.random.default_rng(derived_seed(seed, "held out")).permutation(len(once))
    held = max(1, min(len(once) - 1, round(held_out * len(once))))
    return [once[i] for i in order[held:]], [once[i] for i in order[:held]]


def pad_of(tokenizer: Any) -> int:
    """Return an id to pad with; it is neither attended to nor scored."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def text_stream(
    tokenizer: Any, examples: Sequence[Any], epochs: float, seed: int, max_tokens: int, *, end: bool = True
) -> OrderedTexts:
    """Return texts as they are, shuffled anew every epoch; `end`: the end token is predicted too."""
    return OrderedTexts(
        list(examples),
        encoder(tokenizer),
        Ordering(order="original"),
        epochs=epochs,
        seed=seed,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id if end else None,
        max_tokens=max_tokens,
    )


def token_batches(
    tokenizer: Any, examples: Sequence[Any], scoring: TextScoring, device: torch.device, *, end: bool
) -> list[dict[str, Tensor]]:
    """Return up to `scoring.limit` texts as padded batches of ids, short ones first.

    Raises:
        UserError: nothing to predict.
    """
    stream = text_stream(tokenizer, examples[: scoring.limit], 1, 0, scoring.max_tokens, end=end)
    rows = [{"input_ids": ids} for ids in sorted((stream[i]["input_ids"] for i in range(len(stream))), key=len)]
    rows = [row for row in rows if len(row["input_ids"]) > 1]
    if not rows:
        raise UserError("no text of the data set has two tokens, so there is nothing to predict")
    collate, size = Collator(pad_of(tokenizer)), scoring.batch_size
    batches = [collate(rows[at : at + size]) for at in range(0, len(rows), size)]
    return [{key: value.to(device) for key, value in batch.items()} for batch in batches]


def tokenizer_of(loaded: Loaded) -> Any:
    """Return the tokenizer of the first network, or of the vocabulary that all were brought to.

    Raises:
        UserError: it has none, or one for another vocabulary.
    """
    from transformers import AutoTokenizer

    first = loaded.checkpoints[0]
    try:
        folder = first.folder if loaded.frame is None else loaded.frame.tokenizer
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a missing or broken file leads to
        reason = first_line(error, 120)
        raise UserError(
            f"{first.path} has no tokenizer that loads ({reason}): copy its files there, or set dataset=none"
        ) from error
    if len(tokenizer) > loaded.config.vocab_size:
        raise UserError(
            f"{first.path}: its tokenizer has {len(tokenizer)} tokens, the network {loaded.config.vocab_size}: copy "
            "the tokenizer that belongs to it"
        )
    return tokenizer


def buffers_to(module: nn.Module, device: torch.device) -> None:
    """Move the buffers; the parameters of a loaded module are empty and cannot be moved."""
    for part in module.modules():
        for name, value in part.named_buffers(recurse=False):
            setattr(part, name, value.to(device))


def state_of(module: Any) -> dict[str, Tensor]:
    """Return a copy of the tensors of a Hugging Face network, tied ones under the name of the embedding only."""
    tied = declare_huggingface(module.config, module.state_dict()).tied
    return {name: value.detach().clone() for name, value in module.state_dict().items() if name not in tied}


@dataclass
class LanguagePairs:
    """What all networks of a run share.

    Attributes:
        model: the architecture (`CausalLMConfig` with random weights).
        tokenizer, texts: of all networks.
        training: of every network; `max_tokens`: longer texts are cut.
        seed: all others derive from it.
        device: where they are trained.
    """

    model: Any
    tokenizer: Any
    texts: Sequence[Any]
    training: EndpointTraining
    max_tokens: int
    seed: int
    device: torch.device

    def build(self, seed: int = 0) -> Any:
        """Return the architecture with random weights in float32."""
        torch.manual_seed(seed)
        return build_scratch(self.model, len(self.tokenizer), self.max_tokens, self.tokenizer).float().to(self.device)

    @property
    def steps(self) -> int:
        """Optimizer steps of one network."""
        stream = text_stream(self.tokenizer, self.texts, self.training.epochs or EPOCHS, 0, self.max_tokens)
        return -(-len(stream) // (self.training.batch_size or BATCH))

    def untrained(self, pair: int, member: int) -> Any:
        """Return a network as its training starts."""
        return self.build(derived_seed(self.seed, "init", pair, member))

    def train(
        self,
        pair: int,
        member: int,
        folder: Path,
        on_step: Callable[[int, Tensor], bool] | None = None,
    ) -> dict[str, Tensor]:
        """Train one network; its tensors on the CPU.

        Args:
            pair, member: which one.
            folder: for what the Trainer writes.
            on_step: called with (step, loss); true ends training there.
        """
        given, seed = self.training, derived_seed(self.seed, "order", pair, member)
        stream = text_stream(self.tokenizer, self.texts, given.epochs or EPOCHS, seed % 2**32, self.max_tokens)
        settings = TrainingSettings(
            learning_rate=given.rate or RATE,
            batch_size=given.batch_size or BATCH,
            schedule="cosine" if given.schedule == "cosine" else "constant_with_warmup",
            weight_decay=given.weight_decay,
        )
        told = on_step or (lambda step, loss: False)
        hooks = Hooks(lambda step, loss, _rate: (False, told(step, loss)))
        module = self.untrained(pair, member)
        make_trainer(
            module,
            pad_of(self.tokenizer),
            stream,
            folder,
            settings,
            hooks,
            seed=seed % 2**32,
            device=str(self.device),
        ).train()
        return {name: value.cpu() for name, value in state_of(module).items()}
