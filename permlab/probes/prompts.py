"""Ask a pretrained causal LM to undo a permutation: `probe_prompts(model, tokenizer, Prompt(n=4, style="plain"))`.

A few-shot prompt shows lists of words in shuffled order with the original place of every word, and the restored list.
Three styles:

- `plain`: the answer follows the input at once;
- `filler`: n filler marks stand between input and answer, the text form of scratch rows (arXiv 2509.24125);
- `scratch`: the examples work step by step ("place 1 is apple"), and so must the model.

The model answers *after* the input, token by token, so the in-place impossibility theorem does not cover this probe. It
measures what a model does, next to what guessing a random order gives: 1/n per position and 1/n! for the whole list.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError, check_range
from permlab.probes.recipes import WORDS, PromptSettings
from permlab.probes.table import STYLES, StyleRow
from permlab.seeding import derived_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ANSWER = "Restored:"


@dataclass(frozen=True)
class Prompt:
    """What is asked: lists of `n` words after `shots` solved examples, in one of `table.STYLES`.

    Raises:
        UserError: n outside 2..44, no shots, or an unknown style.
    """

    n: int
    style: str = "plain"
    shots: int = PromptSettings.shots

    def __post_init__(self) -> None:
        STYLES.check("style", self.style)
        check_range("n", self.n, low=2, high=len(WORDS))
        check_range("shots", self.shots, low=1)

    @property
    def asking(self) -> StyleRow:
        """What is known about its style."""
        return STYLES[self.style]

    def question(self, words: list[str], order: list[int]) -> str:
        """Text up to where the model goes on; shuffled word i stood at place `order[i]`, counted from 0 here."""
        shuffled = " ".join(words[place] for place in order)
        places = " ".join(str(place + 1) for place in order)
        text = f"Shuffled: {shuffled}\nPlaces: {places}\n"
        if self.asking.fillers:
            text += "Wait:" + " ." * self.n + "\n"
        return text + ("Steps:" if self.asking.steps else _ANSWER)

    def answer(self, words: list[str]) -> str:
        """The right continuation of `question`."""
        restored = " " + " ".join(words)
        if not self.asking.steps:
            return restored
        steps = ", ".join(f"place {k + 1} is {word}" for k, word in enumerate(words))
        return f" {steps}\n{_ANSWER}{restored}"

    def example(self, seed: int, index: int) -> tuple[str, list[str], str]:
        """Return the whole prompt, the restored words and the right continuation of test item `index`."""
        # Without the style: plain, filler and scratch prompts ask the same lists, so their difference is the style's.
        rng = random.Random(derived_seed("prompt", seed, self.n, index))
        parts = []
        for _ in range(self.shots):
            words, order = self._draw(rng)
            parts.append(self.question(words, order) + self.answer(words) + "\n\n")
        words, order = self._draw(rng)
        return "".join([*parts, self.question(words, order)]), words, self.answer(words)

    def _draw(self, rng: random.Random) -> tuple[list[str], list[int]]:
        return rng.sample(WORDS, self.n), rng.sample(range(self.n), self.n)

    def correct(self, continuation: str, words: list[str]) -> list[bool]:
        """Compare a continuation with the restored list, place by place; missing words are wrong."""
        if self.asking.steps:
            # The steps are the model's scratch space: what it writes there is neither right nor wrong.
            _, _, continuation = continuation.partition(_ANSWER)
        lines = continuation.strip().splitlines()
        said = lines[0].replace(",", " ").split() if lines else []
        return [k < len(said) and said[k] == word for k, word in enumerate(words)]


@dataclass
class PromptResult:
    """Accuracy of one (n, style): `per_position[k]` of place k, `exact` of whole lists, and what guessing gives."""

    n: int
    style: str
    examples: int
    exact: float
    accuracy: float
    per_position: list[float]
    chance_exact: float
    chance_accuracy: float
    sample: str


def prompts_of(settings: PromptSettings) -> list[Prompt]:
    """Every length with every style."""
    return [Prompt(n, style, settings.shots) for n in settings.sizes for style in settings.styles]


def texts(prompts: list[Prompt], seed: int, count: int = 64) -> Iterator[str]:
    """Yield solved prompts, for a tokenizer that is trained here."""
    for prompt in prompts:
        for index in range(count):
            question, _, answer = prompt.example(seed, index)
            yield question + answer


def check_context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, seed: int) -> int:
    """Return the tokens a prompt and its answer take.

    Raises:
        UserError: more than the model's context.
    """
    question, _, answer = prompt.example(seed, 0)
    need = len(tokenizer(question + answer)["input_ids"]) + 8
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and need > room:
        raise UserError(
            f"n={prompt.n} with {prompt.shots} shots takes about {need} tokens, but the model's context is {room}: "
            "lower n or shots"
        )
    return need


def probe_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    examples: int = PromptSettings.examples,
    batch: int = PromptSettings.batch,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PromptResult:
    """Ask and score, with batched greedy decoding.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer; padded on the left here whatever its own setting.
        prompt: n, style and shots.
        examples: test items.
        batch: prompts per forward pass.
        seed: of the items; the same items for every model and style.
        progress: called with (done, total); may raise to stop.

    Raises:
        UserError: the prompt does not fit the context.
    """
    check_context(model, tokenizer, prompt, seed)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network: Any = model  # its stubs type eval and generate wrongly
    network.eval()
    marks: list[list[bool]] = []
    first = ""
    for start in range(0, examples, batch):
        items = [prompt.example(seed, index) for index in range(start, min(start + batch, examples))]
        inputs = tokenizer([question for question, _, _ in items], return_tensors="pt", padding=True)
        inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}
        longest = max(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for _, _, answer in items)
        output = network.generate(
            **inputs, max_new_tokens=longest + 4, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        said = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        marks += [prompt.correct(text, words) for text, (_, words, _) in zip(said, items)]
        first = first or items[0][0] + said[0]
        if progress is not None:
            progress(len(marks), examples)
    per_position = [sum(place) / len(marks) for place in zip(*marks)]
    return PromptResult(
        n=prompt.n,
        style=prompt.style,
        examples=examples,
        exact=sum(map(all, marks)) / len(marks),
        accuracy=sum(per_position) / prompt.n,
        per_position=per_position,
        chance_exact=1 / math.factorial(prompt.n),
        chance_accuracy=1 / prompt.n,
        sample=first,
    )
