"""What an assistant model is asked: `chat_messages("Ada Roe, the singer, rests.")`, and what stands for its answers.

arXiv 2403.00758 lets a language model mark the smallest meaningful units with `[SEP]`, without adding or deleting a
word; the wording and the demonstrations here are our own.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

PROMPT_VERSION = "1"
"""Part of the cache key: change it with any change to `INSTRUCTION` or `DEMONSTRATIONS`."""
MARKER = "[SEP]"
INSTRUCTION = (
    "You divide texts into their smallest meaningful units, such as a name, a noun phrase, a verb with its helpers or "
    "a short clause. Copy the text exactly as it stands and write [SEP] between neighbouring units. Add no word, leave "
    "no word out, and keep the order and the punctuation. The full name of a person, place, work or organisation, and "
    "a date, always stays in one unit. Do not begin or end with [SEP]. Answer with the marked text and nothing else."
)
_MARKED = (
    "Orla Penhallow, [SEP] who once repaired [SEP] the clock tower of Brindle Bay, [SEP] now keeps bees.",
    'Have you met [SEP] the author [SEP] of the cookbook [SEP] "Salt and Thunder"? [SEP] It is [SEP] Teodor Vance.',
    "Because [SEP] the river [SEP] had frozen, [SEP] the traders [SEP] waited until 3 March [SEP] to cross it.",
)
# Fictitious on purpose: in the released SPT data a demonstration was often copied in the place of the fact.
DEMONSTRATIONS = tuple((marked.replace(" [SEP]", ""), marked) for marked in _MARKED)
"""Fictitious (text, marked text) pairs shown before the question."""


@dataclass(frozen=True)
class Failure:
    """Why the assistant gave no answer for one text; not cached, so the next run asks again."""

    reason: str


class Assistant(Protocol):
    """A model that answers segmentation prompts."""

    name: str
    """What answers depend on: the model. Part of the cache key."""
    retries_made: int
    """Requests repeated so far."""

    def answers(self, texts: Sequence[str]) -> Generator[tuple[int, str | Failure], None, None]:
        """Yield (index into `texts`, raw answer or failure) once for every text, in any order, as they come."""
        ...


def chat_messages(text: str) -> list[dict[str, str]]:
    """Return the conversation that asks for the units of `text`, in the chat format of most servers and templates."""
    messages = [{"role": "system", "content": INSTRUCTION}]
    for plain, marked in DEMONSTRATIONS:
        messages += [{"role": "user", "content": plain}, {"role": "assistant", "content": marked}]
    return [*messages, {"role": "user", "content": text}]


def plain_prompt(text: str) -> str:
    """Return the same question for a model without a chat template; the answer ends at the first line feed."""
    shown = "".join(f"Text: {plain}\nUnits: {marked}\n\n" for plain, marked in DEMONSTRATIONS)
    return f"{INSTRUCTION}\n\n{shown}Text: {text}\nUnits:"
