"""Ask a pretrained causal LM to undo a permutation: `probe_prompts(model, tokenizer, Prompt(n=4, style="plain"))`.

A few-shot prompt shows lists of words in shuffled order with the original place of every word, and the restored list.
The words are unrelated nouns, or those of real sentences (`sentences`). Three styles:

- `plain`: the answer follows the input at once;
- `filler`: n filler marks stand between input and answer, the text form of scratch rows (arXiv 2509.24125);
- `scratch`: the examples work step by step ("place 1 is apple"), and so must the model.

The model answers *after* the input, token by token, so the in-place impossibility theorem does not cover this probe. It
measures what a model does, next to what guessing a random order gives: 1/n per position and 1/n! for the whole list.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError, check_range
from permlab.probes.recipes import WORDS, PromptSettings
from permlab.probes.sentences import Words, drawn_from
from permlab.probes.table import STYLES, StyleRow
from permlab.seeding import derived_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ANSWER = "Restored:"
CONTINUE = "Continue each text exactly as the examples do. Write nothing but the continuation."
"""What a chat model is told before the examples."""
Asked = Callable[[Sequence[int]], Iterable[tuple[int, "str | None"]]]
"""Indices of test items -> (index, continuation) as they come, None for one without an answer."""


@dataclass(frozen=True)
class Prompt:
    """What is asked: lists of `n` words after `shots` solved examples, in one of `table.STYLES`.

    `sentences` are runs of n words to draw the lists from (`sentences.windows`); empty = nouns of `recipes.WORDS`.

    Raises:
        UserError: n outside 2..44, negative shots, or an unknown style.
    """

    n: int
    style: str = "plain"
    shots: int = PromptSettings.shots
    sentences: tuple[Words, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        STYLES.check("style", self.style)
        check_range("n", self.n, low=2, high=len(WORDS))
        check_range("shots", self.shots, low=0)

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

    def turns(self, seed: int, index: int) -> tuple[list[tuple[str, str]], list[str]]:
        """Return (question, right answer) of the solved examples and of test item `index`, and the item's words."""
        # Without the style: plain, filler and scratch prompts ask the same lists, so their difference is the style's.
        rng = random.Random(derived_seed("prompt", seed, self.n, index))
        made: list[tuple[str, str]] = []
        words: list[str] = []
        for _ in range(self.shots + 1):
            words, order = self._draw(rng)
            made.append((self.question(words, order), self.answer(words)))
        return made, words

    def example(self, seed: int, index: int) -> tuple[str, list[str], str]:
        """Return the whole prompt, the restored words and the right continuation of test item `index`."""
        made, words = self.turns(seed, index)
        shown = [question + answer + "\n\n" for question, answer in made[:-1]]
        return "".join([*shown, made[-1][0]]), words, made[-1][1]

    def chat(self, seed: int, index: int) -> list[dict[str, str]]:
        """Return the same as a conversation: each solved example is a message and its answer."""
        made, _ = self.turns(seed, index)
        messages = [{"role": "system", "content": CONTINUE}]
        for question, answer in made:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
        return messages[:-1]

    def _draw(self, rng: random.Random) -> tuple[list[str], list[int]]:
        words = list(rng.choice(self.sentences)) if self.sentences else rng.sample(WORDS, self.n)
        return words, rng.sample(range(self.n), self.n)

    def correct(self, continuation: str, words: list[str]) -> list[bool]:
        """Compare a continuation with the restored list, place by place; missing words are wrong."""
        if self.asking.steps:
            # The steps are the model's scratch space: what it writes there is neither right nor wrong.
            _, _, continuation = continuation.partition(_ANSWER)
        lines = continuation.strip().removeprefix(_ANSWER).strip().splitlines()
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
    unanswered: int = 0


def prompts_of(settings: PromptSettings, texts: Sequence[str] | None = None) -> list[Prompt]:
    """Every length with every style, of the words of sentences where texts are given.

    Raises:
        UserError: the texts have too few sentences of some length.
    """
    drawn = {n: () if texts is None else tuple(drawn_from(texts, n)) for n in settings.sizes}
    return [Prompt(n, style, settings.shots, drawn[n]) for n in settings.sizes for style in settings.styles]


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

    def ask(indices: Sequence[int]) -> Iterator[tuple[int, str]]:
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            yield from zip(chosen, answers([prompt.example(seed, index) for index in chosen]))

    def answers(items: list[tuple[str, list[str], str]]) -> list[str]:
        inputs = tokenizer([question for question, _, _ in items], return_tensors="pt", padding=True)
        inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}
        longest = max(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for _, _, answer in items)
        output = network.generate(
            **inputs, max_new_tokens=longest + 4, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        said: list[str] = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return said

    return score_answers(prompt, ask, examples, seed, progress)


def score_answers(
    prompt: Prompt, ask: Asked, examples: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> PromptResult:
    """Ask anyone and score: a model of this machine, or a server.

    Args:
        prompt: n, style and shots.
        ask: gives the continuations of test items.
        examples: test items; those without an answer are counted and left out.
        seed: of the items.
        progress: called with (done, total); may raise to stop.

    Raises:
        UserError: no item had an answer.
    """
    marks: list[list[bool]] = []
    first, unanswered = "", 0
    for index, said in ask(range(examples)):
        if said is None:
            unanswered += 1
        else:
            question, words, _ = prompt.example(seed, index)
            marks.append(prompt.correct(said, words))
            first = first or question + said
        if progress is not None:
            progress(len(marks) + unanswered, examples)
    if not marks:
        raise UserError(f"none of {examples} prompts had an answer")
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
        unanswered=unanswered,
    )
