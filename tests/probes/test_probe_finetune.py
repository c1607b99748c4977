"""A language model trained on prompts."""

from __future__ import annotations

import pytest
import torch

from permlab.models.causal_lm import load_causal_lm
from permlab.models.causal_lm_config import CausalLMConfig
from permlab.probes.finetune import batch_of, finetune
from permlab.probes.prompts import Prompt, texts
from permlab.probes.recipes import TextRecipe


def small(prompt: Prompt, hidden: int = 32, layers: int = 1):
    config = CausalLMConfig(name="tiny-llama")
    config.scratch.hidden_size, config.scratch.layers = hidden, layers
    return load_causal_lm(config, texts([prompt], 0), torch.float32, torch.device("cpu"), 0, max_tokens=256)


@pytest.fixture(scope="module", params=["plain", "filler", "scratch"])
def made(request):
    prompt = Prompt(3, request.param, shots=0)
    return (prompt, *small(prompt))


def test_labels_are_the_answer_and_nothing_else(made):
    prompt, _, tokenizer = made
    ids, mask, labels = batch_of(tokenizer, prompt, 5, 6)
    for index in range(6):
        question, _, answer = prompt.example(5, index)
        scored = labels[index] != -100
        assert torch.equal(ids[index][scored], labels[index][scored])
        assert tokenizer.decode(ids[index][scored], skip_special_tokens=True).strip() == answer.strip()
        seen = ids[index][(mask[index] == 1) & ~scored]
        assert tokenizer.decode(seen, skip_special_tokens=True).strip() == question.strip()
        assert int(mask[index].sum()) == int(mask[index].nonzero().max()) + 1, "padding stands on the right"


def test_padding_changes_no_loss(made):
    """The mean over answers of one batch is what every prompt gives alone."""
    prompt, model, tokenizer = made
    model.eval()
    with torch.no_grad():
        ids, mask, labels = batch_of(tokenizer, prompt, 7, 4)
        together = float(model(input_ids=ids, attention_mask=mask, labels=labels).loss)
        losses, counts = [], []
        for row in range(4):
            length = int(mask[row].sum())
            alone = model(input_ids=ids[row : row + 1, :length], labels=labels[row : row + 1, :length]).loss
            losses.append(float(alone))
            counts.append(int((labels[row] != -100).sum()))
    weighted = sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)
    assert together == pytest.approx(weighted, rel=1e-5)


@pytest.mark.slow
def test_two_words_are_learned():
    prompt = Prompt(2, "plain", shots=0)
    model, tokenizer = small(prompt, 64, 2)
    tests = finetune(model, tokenizer, prompt, TextRecipe(steps=600, test_every=100, batch=32, learning_rate=3e-3))
    assert tests[0][0] == 0 and tests[0][1].accuracy < 0.3
    assert tests[-1][1].accuracy > 0.9 > tests[-1][1].chance_accuracy
