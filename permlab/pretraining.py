"""A small Llama pretrained on general text, trained once and kept: a base that has not seen what it will be taught.

>>> folder = pretrained_base(BaseSettings(corpus="general_text"), Path("outputs/bases"))
>>> model, tokenizer = load_base(folder)            # also: permlab model=local model.path=FOLDER

`corpus` is a folder of text files; those with "test" in their names are held out, and `base.json` beside the weights
gives their loss per token. Without one the text is generated from a small grammar: enough for a test, no English.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from permlab.diverged import check_losses, check_weights
from permlab.errors import UserError, check_range
from permlab.models.causal_lm import build_scratch, save_causal_lm, token_options
from permlab.models.causal_lm_config import CausalLMConfig, ScratchConfig
from permlab.models.quiet import quiet_transformers
from permlab.models.scratch import mixtral
from permlab.models.tokenizers import train_tokenizer
from permlab.storage.files import read_object, write_json
from permlab.storage.folders import replacing_folder
from permlab.storage.hashes import sha256_of
from permlab.threads import for_work

RECORD = "base.json"
LONGEST = 256
"""Positions of the model."""
# Called with (steps done, steps in all, loss); may raise to stop.
Progress = Callable[[int, int, float], None]


@dataclass
class BaseSettings:
    """The base model and what it reads."""

    corpus: str | None = None
    """Folder of .txt files, those with "test" in their names held out; null generates text."""
    epochs: float = 2.5
    """Readings of the text."""
    hidden_size: int = 96
    """Width; a multiple of 8."""
    layers: int = 2
    """Blocks of attention and MLP."""
    vocab_size: int = 4096
    """Largest vocabulary of the byte-level BPE trained on the text."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW; linear warm-up, cosine to zero."""
    batch: int = 12
    """Pieces of text per step."""
    tokens: int = 128
    """Tokens of a piece."""
    seed: int = 0
    """Of the first weights and of the order of the text."""


@dataclass
class MixtureSettings(BaseSettings):
    """A base whose MLPs are mixtures of experts (Mixtral, arXiv 2401.04088)."""

    epochs: float = 1.0
    hidden_size: int = 64
    vocab_size: int = 2048
    experts: int = 8
    """Experts of every layer."""
    experts_per_token: int = 2
    """Experts that a token is sent to."""
    balance: float = 0.02
    """Factor on the loss that spreads tokens over experts (arXiv 2101.03961, equation 4)."""


def check_base(settings: BaseSettings, prefix: str = "") -> None:
    """Refuse a folder without text and numbers out of range.

    Raises:
        UserError: naming the field, with `prefix` in front.
    """
    if settings.corpus is not None and not list(Path(settings.corpus).glob("*.txt")):
        raise UserError(f"{prefix}corpus={settings.corpus} is no folder with .txt files; null generates text")
    for key in ("layers", "batch"):
        check_range(f"{prefix}{key}", getattr(settings, key), 1)
    check_range(f"{prefix}vocab_size", settings.vocab_size, 300)
    check_range(f"{prefix}tokens", settings.tokens, 8, LONGEST)
    for name in ("epochs", "learning_rate"):
        check_range(f"{prefix}{name}", getattr(settings, name), 0, open_interval=True)
    if isinstance(settings, MixtureSettings):
        check_range(f"{prefix}experts", settings.experts, 2)
        check_range(f"{prefix}experts_per_token", settings.experts_per_token, 1, settings.experts)
        check_range(f"{prefix}balance", settings.balance, 0)
    if settings.hidden_size < 8 or settings.hidden_size % 8:
        raise UserError(f"{prefix}hidden_size={settings.hidden_size} must be a multiple of 8: four heads turn pairs")


def base_folder(settings: BaseSettings, cache: Path) -> Path:
    """Where the base of these settings is kept: the name follows from the settings and the bytes of the text."""
    parts: dict[str, Any] = dataclasses.asdict(settings)
    files = _files(settings.corpus)
    parts["corpus"] = sha256_of(files) if files else "generated"
    # The same bytes under two names are two splits: which file is held out goes by its name.
    parts["held_out"] = [path.name for path in files if "test" in path.name]
    return cache / f"base-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"


def pretrained_base(
    settings: BaseSettings, cache: Path, *, device: torch.device | str = "cpu", progress: Progress | None = None
) -> Path:
    """Return the folder of the base: a Hugging Face model with its tokenizer, trained now unless it lies there.

    Args:
        settings: sizes, training and text.
        cache: folder of all bases.
        device: where it is trained.
        progress: called every ten steps and at the end.

    Raises:
        UserError: see `check_base`; text that is too short.
        DivergedError: the loss left the finite numbers.
    """
    check_base(settings)
    folder = base_folder(settings, cache)
    if (folder / RECORD).is_file():
        return folder
    quiet_transformers()
    texts, held_out = general_text(settings.corpus, settings.seed)
    tokenizer = train_tokenizer(texts, "bpe", settings.vocab_size)
    pieces, asked = (text_pieces(tokenizer, part, settings.tokens) for part in (texts, held_out))
    torch.manual_seed(settings.seed)
    inner = 8 * round(settings.hidden_size / 3)
    sizes = ScratchConfig(settings.hidden_size, settings.layers, 4, 4, inner)
    model: Any
    if isinstance(settings, MixtureSettings):
        counts = (settings.experts, settings.experts_per_token)
        model = mixtral(sizes, token_options(len(tokenizer), LONGEST, tokenizer), *counts, settings.balance)
    else:
        model = build_scratch(CausalLMConfig(scratch=sizes), len(tokenizer), LONGEST, tokenizer)
    model = model.to(device)
    _train(model, pieces, settings, progress)
    model.config.output_router_logits = False  # their loss is for training
    record = dataclasses.asdict(settings) | {
        "tokens_read": round(settings.epochs * pieces.numel()),
        "loss_training": text_loss(model, pieces[: len(asked)]),
        "loss_held_out": text_loss(model, asked),
    }
    with replacing_folder(folder, replace=True) as part:
        save_causal_lm(model, tokenizer, part)
        write_json(part / RECORD, record)
    return folder


def load_base(folder: Path, device: torch.device | str = "cpu", tokenizer: Path | None = None) -> tuple[Any, Any]:
    """The model in evaluation mode and float32, and its tokenizer or that of another folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_transformers()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(tokenizer or folder)


def read_record(folder: Path) -> dict[str, Any]:
    """What `base.json` says: settings, tokens read, losses in nats per token."""
    return read_object(folder / RECORD)


def general_text(corpus: str | None, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return the texts to read and those held out: paragraphs of the files, or generated sentences.

    Raises:
        UserError: a folder whose files hold too little.
    """
    if corpus is None:
        made = _generated(1500, seed)
        return made[:1350], made[1350:]
    texts: list[str] = []
    held_out: list[str] = []
    for path in _files(corpus):
        (held_out if "test" in path.name else texts).extend(_paragraphs(path.read_text(encoding="utf-8")))
    if not held_out:
        held_out = texts[9 * len(texts) // 10 :]
        texts = texts[: 9 * len(texts) // 10]
    if not texts or not held_out:
        raise UserError(f"corpus={corpus}: its files hold no paragraph to read, or none beside those held out")
    return texts, held_out


def _files(corpus: str | None) -> list[Path]:
    return [] if corpus is None else sorted(Path(corpus).glob("*.txt"))


def _paragraphs(text: str) -> list[str]:
    """Blocks between empty lines; of WikiText, whose lines are paragraphs, without titles and marks of the split."""
    text = re.sub(r" @(.)@ ", r"\1", text).replace("<unk>", "")
    parts = re.split(r"\n\s*\n", text) if "\n\n" in text else text.split("\n")
    kept = (re.sub(r"[ \t]+", " ", part).strip() for part in parts)
    return [part for part in kept if len(part) > 20 and not part.startswith("=")]


_GRAMMAR = {
    "who": "the old man|a young woman|my brother|the teacher|a farmer|the king|her friend|the doctor|a child",
    "did": "saw|found|carried|bought|painted|remembered|wanted|lost|described|followed",
    "what": "a small house|the red book|an old letter|the river|a long song|the garden|a heavy stone|the city|a horse",
    "where": "in the morning|near the sea|after the war|behind the church|in the village|before winter|at night",
    "then": "and went home|but said nothing|because it was late|and told the others|while it rained|and was glad",
}


def _generated(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    words = {key: value.split("|") for key, value in _GRAMMAR.items()}
    lines = (" ".join(draw.choice(part) for part in words.values()) for _ in range(count))
    return [line[0].upper() + line[1:] + "." for line in lines]


def text_pieces(tokenizer: Any, texts: Sequence[str], length: int, most: int | None = None) -> Tensor:
    """The texts one after another, each ended, cut into (pieces, length); `most`: so many, from all over."""
    ends = tokenizer.eos_token_id
    ids = [token for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"] for token in (*row, ends)]
    count = len(ids) // length
    if count < 1:
        raise UserError(f"the general text has {len(ids)} tokens, fewer than one piece of {length}")
    pieces = torch.tensor(ids[: count * length]).reshape(count, length)
    return pieces if most is None or most >= count else pieces[torch.linspace(0, count - 1, most).long()]


def _train(model: Any, pieces: Tensor, settings: BaseSettings, progress: Progress | None) -> None:
    steps = max(1, math.ceil(settings.epochs * len(pieces) / settings.batch))
    warm = max(1, steps // 20)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: min(1.0, (at + 1) / warm) * 0.5 * (1 + math.cos(math.pi * at / steps))
    )
    generator = torch.Generator().manual_seed(settings.seed)
    passes = math.ceil(settings.epochs)
    order = torch.cat([torch.randperm(len(pieces), generator=generator) for _ in range(passes)])
    remedy, losses = f"lower learning_rate={settings.learning_rate:g}", []
    model.train()
    with for_work(3.0 * sum(p.numel() for p in weights) * settings.batch * settings.tokens):
        for step in range(steps):
            rows = order[step * settings.batch : (step + 1) * settings.batch]
            ids = pieces[rows].to(model.device)
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            rate.step()
            losses.append(loss.detach())
            if step % 10 == 9 or step + 1 == steps:
                values = torch.stack(losses)[:, None].tolist()
                check_losses(values, step + 2 - len(values), remedy)
                losses.clear()
                if progress is not None:
                    progress(step + 1, steps, values[-1][0])
    check_weights(weights, steps, remedy)
    model.eval()


@torch.no_grad()
def text_loss(model: Any, pieces: Tensor, most: int = 256) -> float:
    """Mean negative log-likelihood, nats per token, of the first pieces."""
    rows = pieces[:most]
    total = sum(
        float(model(input_ids=p.to(model.device), labels=p.to(model.device)).loss) * len(p) for p in rows.split(16)
    )
    return total / len(rows)
