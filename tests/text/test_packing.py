"""Several texts in a row cost less and change nothing; general text between the texts leaves these as they are."""

from __future__ import annotations

import pytest
import torch

from permlab.data.examples import Example
from permlab.errors import UserError
from permlab.text import OrderedTexts, Ordering
from permlab.text.batches import Collator, PackingCollator
from permlab.text.mixing import Mixed, pieces_needed
from permlab.text.training import make_trainer

LENGTHS = (3, 9, 1, 5, 5, 2, 12, 4)


def rows(seed=0):
    draws = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(1, 50, (n,), generator=draws).tolist()} for n in LENGTHS]


def numbers(texts):
    return [[int(text[-1]) if text[-1].isdigit() else 99] for text in texts]


def models():
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 64}
    gpt2 = GPT2Config(vocab_size=50, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    for config in (LlamaConfig(**sizes), Qwen2Config(**sizes), gpt2):
        torch.manual_seed(0)
        yield AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("tokens", [12, 14, 41])
def test_packed_losses_and_gradients_are_those_of_rows_of_their_own(tokens):
    """Rotary and learned positions: a text that saw its neighbour, or began behind it, would have another loss."""
    own, packed = Collator(0)(rows()), PackingCollator(0, tokens)(rows())
    assert len(packed["input_ids"]) == -(-sum(LENGTHS) // tokens) < len(LENGTHS)
    for model in models():
        found = []
        for batch in (own, packed):
            model.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            found.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
        assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-5)
        for mine, theirs in zip(found[0][1], found[1][1]):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_no_text_is_cut_and_every_target_is_there_once():
    packed = PackingCollator(0, 8)(rows())
    assert packed["input_ids"].shape[1] == 12  # the longest text, which has a row of its own
    wanted = sorted(token for row in rows() for token in row["input_ids"][1:])
    assert sorted(packed["labels"][packed["labels"] != -100].tolist()) == wanted
    assert packed["position_ids"].max() == 11 and (packed["position_ids"] == 0).sum() >= len(LENGTHS)


def test_packing_needs_attention_that_takes_a_mask(tmp_path):
    from permlab.text import Hooks, TrainingSettings

    model = next(models())
    model.config._attn_implementation = "flash_attention_2"
    stream = OrderedTexts(
        [Example("a b")], lambda texts: [[1, 2] for _ in texts], Ordering("original"), epochs=1, seed=0
    )
    with pytest.raises(UserError, match="pack=64 needs attention of the kind sdpa"):
        make_trainer(model, 0, stream, tmp_path, TrainingSettings(pack=64), Hooks(lambda *_: (False, False)))


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.75])
def test_general_text_is_spread_evenly_and_leaves_the_texts_in_their_order(ratio):
    texts = [Example(f"text {at}") for at in range(6)]
    facts = OrderedTexts(texts, numbers, Ordering("original"), epochs=4, seed=1)
    pieces = [[100 + at] for at in range(5)]
    mixed = Mixed(facts, pieces, ratio, seed=3)
    read = [mixed[at]["input_ids"][0] for at in range(len(mixed))]
    assert [token for token in read if token < 100] == [facts[at]["input_ids"][0] for at in range(len(facts))]
    general = [token for token in read if token >= 100]
    assert len(general) == pieces_needed(24, ratio) == round(24 * ratio / (1 - ratio))
    for start in range(0, len(general) - 4, 5):
        assert sorted(general[start : start + 5]) == [100, 101, 102, 103, 104]
    for start in range(len(mixed) - 8):
        assert abs(sum(token >= 100 for token in read[start : start + 8]) - 8 * ratio) <= 1
