from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from permlab.errors import UserError
from permlab.models.tokenizers import train_tokenizer
from permlab.probes.prompts import Prompt, check_context, probe_prompts, texts
from permlab.probes.recipes import WORDS
from permlab.probes.table import STYLES


class Oracle:
    """Stands in for a language model: answers from the text it is shown, rightly or always in the shown order."""

    config = SimpleNamespace(max_position_embeddings=4096)
    device = torch.device("cpu")

    def __init__(self, tokenizer, prompt, knows):
        self.tokenizer, self.prompt, self.knows = tokenizer, prompt, knows

    def eval(self):
        return self

    def generate(self, input_ids, attention_mask, max_new_tokens, **_):
        said = []
        for row, mask in zip(input_ids, attention_mask):
            text = self.tokenizer.decode(row[mask.bool()])
            asked = text.rsplit("Shuffled:", 1)[1]
            shuffled = asked.split("Places:")[0].split()
            places = [int(p) for p in asked.split("Places:")[1].replace("\n", " ").split()[: self.prompt.n]]
            words = [word for _, word in sorted(zip(places, shuffled))] if self.knows else shuffled
            said.append(self.tokenizer(self.prompt.answer(words), add_special_tokens=False)["input_ids"])
        width = max(map(len, said))
        padded = [s + [self.tokenizer.pad_token_id] * (width - len(s)) for s in said]
        return torch.cat([input_ids, torch.tensor(padded)], 1)


@pytest.fixture(scope="module")
def tokenizer():
    prompts = [Prompt(n, style) for n in (2, 3, 5) for style in STYLES]
    return train_tokenizer(texts(prompts, seed=0), "word", 2000)


def test_the_text_of_a_prompt():
    prompt = Prompt(3, "scratch")
    assert prompt.question(["cat", "dog", "owl"], [2, 0, 1]) == "Shuffled: owl cat dog\nPlaces: 3 1 2\nSteps:"
    answer = " place 1 is cat, place 2 is dog, place 3 is owl\nRestored: cat dog owl"
    assert prompt.answer(["cat", "dog", "owl"]) == answer
    assert Prompt(3, "filler").question(["a", "b", "c"], [0, 1, 2]).endswith("Wait: . . .\nRestored:")
    whole, words, _ = Prompt(4, shots=2).example(0, 0)
    assert whole.count("Shuffled:") == 3 and whole.count("\n\n") == 2 and whole.endswith("Restored:")
    assert len(words) == len(set(words)) == 4


def test_items_are_the_same_for_every_style_and_differ_between_seeds():
    first = [Prompt(4, style).example(3, 1)[1] for style in STYLES]
    assert first[0] == first[1] == first[2]
    assert Prompt(4).example(4, 1)[1] != first[0] != Prompt(4).example(3, 2)[1]


def test_scoring():
    plain, scratch = Prompt(3), Prompt(3, "scratch")
    assert plain.correct(" cat dog owl\n\nShuffled: x", ["cat", "dog", "owl"]) == [True] * 3
    assert plain.correct(" dog, dog", ["cat", "dog", "owl"]) == [False, True, False]
    assert plain.correct("", ["cat", "dog", "owl"]) == [False] * 3
    assert scratch.correct(scratch.answer(["cat", "dog", "owl"]), ["cat", "dog", "owl"]) == [True] * 3
    assert scratch.correct(" cat dog owl", ["cat", "dog", "owl"]) == [False] * 3


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_model_that_can_is_right_and_one_that_copies_is_at_chance(tokenizer, style, n):
    prompt = Prompt(n, style)
    right = probe_prompts(Oracle(tokenizer, prompt, True), tokenizer, prompt, examples=24, batch=7)
    assert right.exact == right.accuracy == 1.0 and right.per_position == [1.0] * n
    copies = probe_prompts(Oracle(tokenizer, prompt, False), tokenizer, prompt, examples=200, batch=64)
    spread = 4 * math.sqrt(copies.chance_exact * (1 - copies.chance_exact) / 200)
    assert copies.exact == pytest.approx(copies.chance_exact, abs=spread)
    assert copies.accuracy == pytest.approx(1 / n, abs=0.12)


@pytest.fixture(scope="module")
def random_directory(tmp_path_factory, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("random-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_batching_does_not_change_what_a_real_model_says(random_directory):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(random_directory)
    own = AutoTokenizer.from_pretrained(random_directory)
    results = [probe_prompts(model, own, Prompt(3, "filler"), examples=5, batch=size) for size in (1, 5)]
    assert results[0] == results[1]
    assert results[0].sample.startswith(Prompt(3, "filler").example(0, 0)[0])


def test_a_prompt_longer_than_the_context_is_refused(random_directory):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(random_directory)
    with pytest.raises(UserError, match="lower n or shots"):
        check_context(model, AutoTokenizer.from_pretrained(random_directory), Prompt(20, shots=8), seed=0)


@pytest.mark.parametrize(("make", "says"), [(lambda: Prompt(1), "n=1"), (lambda: Prompt(45), "n=45"),
                                            (lambda: Prompt(3, "fillers"), "did you mean 'filler'"),
                                            (lambda: Prompt(3, shots=-1), "shots=-1")])  # fmt: skip
def test_bad_prompts(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_words_are_distinct_single_words():
    assert len(set(WORDS)) == len(WORDS) == 44
    assert all(word.isalpha() and word.islower() for word in WORDS)
