"""Forgetting: losses by hand, and the divergence that text of a model's own estimates."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from permlab.errors import UserError
from permlab.models.tokenizers import train_tokenizer
from permlab.text.forgetting import loss_per_token, own_text, read_general, text_blocks


class Dice:
    """A language model whose next token does not depend on anything."""

    device = torch.device("cpu")

    def __init__(self, chances):
        self.logits = torch.tensor(chances).log()

    def eval(self):
        return self

    def __call__(self, input_ids, past_key_values=None, use_cache=False):
        logits = self.logits.expand(*input_ids.shape, -1)
        return SimpleNamespace(logits=logits, past_key_values=None)


TOKENS = SimpleNamespace(bos_token_id=0, eos_token_id=1)


def test_own_text_estimates_the_divergence_of_the_two_models():
    before, after = Dice([0.5, 0.25, 0.25]), Dice([0.2, 0.2, 0.6])
    blocks = own_text(before, TOKENS, sequences=400, tokens=26, seed=3)
    found = loss_per_token(after, blocks) - loss_per_token(before, blocks)
    p, q = before.logits.exp(), after.logits.exp()
    exact = float((p * (p / q).log()).sum())
    spread = float((p * (p / q).log().square()).sum() - exact**2) ** 0.5
    assert abs(found - exact) < 4 * spread / math.sqrt(400 * 25)
    assert loss_per_token(before, blocks) == pytest.approx(float(-(p * p.log()).sum()), abs=0.02)


def test_draws_depend_on_the_seed_alone_and_leave_the_global_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    dice = Dice([0.3, 0.3, 0.4])
    first, again, other = (own_text(dice, TOKENS, sequences=4, tokens=9, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())
    assert all(block[0] == 0 and len(block) == 9 for block in first)


def test_pieces_of_a_text_start_like_a_text_and_are_all_of_one_length(tmp_path):
    texts = [" ".join(f"w{at}" for at in range(start, start + 30)) for start in (0, 30)]
    tokenizer = train_tokenizer(texts, "word", 100)
    blocks = text_blocks(tokenizer, texts, sequences=3, tokens=9)
    assert [len(block) for block in blocks] == [9, 9, 9] and {block[0] for block in blocks} == {tokenizer.bos_token_id}
    shown = tokenizer.decode(blocks[0][1:]).split()
    assert shown == texts[0].split()[: len(shown)] and len(shown) > 2
    with pytest.raises(UserError, match="fewer than one sequence of 999"):
        text_blocks(tokenizer, texts, sequences=3, tokens=999)
    (tmp_path / "a.txt").write_text("one\n\n two words\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one"}) + "\n")
    assert read_general(str(tmp_path / "a.txt")) == ["one", "two words"]
    assert read_general(str(tmp_path / "a.jsonl")) == ["one"]
