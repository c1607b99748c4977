"""What a model forgets while it learns: its loss on general text before and after training.

    blocks = own_text(model, tokenizer, sequences=64, tokens=64, seed=0)      # before training
    before = loss_per_token(model, blocks); ...; forgotten = loss_per_token(model, blocks) - before

On text drawn from the model itself the difference is an estimate of the Kullback-Leibler divergence KL(before || after)
per token, since E_before[log before - log after] is its definition: no file is needed, and 0 means that nothing moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from permlab.data.hub import read_hub
from permlab.data.texts.jsonl import read_jsonl
from permlab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Blocks = list[list[int]]


def read_general(path: str, split: str = "test") -> list[str]:
    """Read general text: the texts of a `.txt` or `.jsonl` file, or the column `text` of a folder or hub id.

    Raises:
        UserError: when it cannot be had.
    """
    if Path(path).is_file():
        return [example.text for example in read_jsonl(path, on_bad_row="skip").examples]
    return [example.text for example in read_hub(path, split=split, on_bad_row="skip").examples]


def text_blocks(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, sequences: int, tokens: int) -> Blocks:
    """Return the first `sequences` pieces of `tokens` tokens of the texts one after another.

    Raises:
        UserError: texts that hold less than one piece.
    """
    ids: list[int] = []
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    size = tokens - len(bos)
    for text in texts:
        if len(ids) >= sequences * size:
            break
        ids += tokenizer(f"{text}\n", add_special_tokens=False)["input_ids"]
    found = [bos + ids[start : start + size] for start in range(0, min(len(ids), sequences * size) - size + 1, size)]
    if not found:
        raise UserError(f"the general text has {len(ids)} tokens, fewer than one sequence of {tokens}")
    return found


@torch.no_grad()
def own_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, sequences: int, tokens: int, seed: int
) -> Blocks:
    """Draw text from a model at temperature 1, from its first token on; the same for the same seed.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        sequences: how many.
        tokens: of each, the first one included.
        seed: of the draws; the global generators stay as they are.
    """
    if not sequences:
        return []
    model.eval()
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)  # a tokenizer without marks starts anywhere
    start = next(int(mark) for mark in marks if mark is not None)
    ids = torch.full((sequences, 1), start, device=model.device)
    draws = torch.Generator().manual_seed(seed)
    past: Any = None
    step = ids
    for _ in range(tokens - 1):
        made: Any = model(input_ids=step, past_key_values=past, use_cache=True)
        past = made.past_key_values
        chances = made.logits[:, -1].float().softmax(-1).cpu()
        step = torch.multinomial(chances, 1, generator=draws).to(model.device)
        ids = torch.cat([ids, step], 1)
    found: Blocks = ids.tolist()
    return found


@torch.no_grad()
def loss_per_token(model: PreTrainedModel, blocks: Blocks, batch_size: int = 16) -> float:
    """Return the mean loss (nats per token) of a model on pieces of equal length, the first token of each given."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(blocks), batch_size):
        ids = torch.tensor(blocks[start : start + batch_size], device=model.device)
        logits: torch.Tensor = model(input_ids=ids).logits[:, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
        count += ids[:, 1:].numel()
    return total / count
