"""Six tasks as prompts in words: TREC, SST-2, Subj, MR and two sets of invented facts.

>>> tasks = word_tasks("text_classification", tokenizer, seed=0)
>>> tasks[0].told["test"].ids.shape, tasks[0].untold.answer.sum()

Every sentence is asked in two ways. Told, the prompt says what is asked ("review : ... the film is"); untold, all tasks
have one prompt ("text : ... answer :"), and the text alone says which task it is. An adapter learns both. No two tasks
have an answer in common, and no two prompts end in the same word. `asked_at_random` are the prompts around other text,
their answers drawn: what a base learns beforehand, as the paper's bases know how a question is answered.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from permlab.adapters.benchmark.questions import PAD, Questions
from permlab.adapters.benchmark.sentences import labelled_parts, read_labelled
from permlab.errors import UserError

UNTOLD = "text : {} answer :"
WORDS = 12
"""Words of a sentence that are read."""
TRAINED = 3000
"""Most training sentences of a task, each in both ways."""
PIECE, MARKED = 16, 4
"""Tokens of a piece of general text that is replayed, and how many of them are predicted."""
VALIDATED = 20
"""Most validation questions of a task."""


@dataclass(frozen=True)
class Wording:
    """How a data set is told, and the word that stands for each of its labels."""

    told: str
    labels: tuple[str, ...]


SENTENCE_TASKS = {
    "TREC": Wording("question : {} it asks for a", ("reason", "thing", "name", "man", "number", "place")),
    "SST-2": Wording("review : {} the film is", ("bad", "good")),
    "Subj": Wording("sentence : {} this tells the", ("view", "story")),
    "MR": Wording("critic : {} the show was", ("poor", "great")),
}
"""Labels 0, 1, ... of the files."""
FACT_TASKS = {
    "people": Wording("person : {} was born in", ("London", "England", "France", "Rome", "Paris", "York", "Wales")),
    "towns": Wording(
        "town : {} is known for its", ("gold", "wood", "stone", "ships", "music", "water", "fire", "glass")
    ),
}
RELATED = {"SST-2": "MR", "MR": "SST-2"}
"""Tasks asked out of domain, their own adapters left out: in the words of the task that is nearest."""
_SYLLABLES = ("bel", "dor", "fen", "gar", "hal", "ist", "kor", "lum", "mar", "nes", "ost", "per", "rin", "sel", "tor")


@dataclass(frozen=True)
class WordTask:
    """Questions of one task.

    Attributes:
        name: of the task.
        train: both ways.
        told: "validation" and "test" questions that say what is asked.
        untold: the test questions that do not.
        related: the test sentences as the related task asks them (`RELATED`), or None.
        candidates: first tokens of the answers of the task, all different.
        chance: share of the commonest answer in the test.
    """

    name: str
    train: Questions
    told: dict[str, Questions]
    untold: Questions
    candidates: Tensor
    chance: float
    related: Questions | None = None


def word_tasks(
    folder: str | Path, tokenizer: Any, seed: int, asked: int | None = None, facts: int = 40
) -> list[WordTask]:
    """Four tasks of sentences from files of `label sentence` lines, and two of facts.

    Args:
        folder: as `sentences.labelled_parts`.
        tokenizer: of the base.
        seed: of splits and facts.
        asked: most test questions of a task; None is all.
        facts: facts of each set. All are trained on, since recall is what is asked: half of them pick the scale of a
            merge, the others are the test.

    Raises:
        UserError: missing or broken files.
    """
    found = []
    for name, (train, validation, test) in labelled_parts(folder, seed).items():
        draw = random.Random(f"{seed} {name}")
        picked = draw.sample(test, min(asked or len(test), len(test)))
        rows = [[(" ".join(words[:WORDS]), label) for label, words in part] for part in (train, validation, picked)]
        found.append(_task(name, SENTENCE_TASKS[name], rows[0][:TRAINED], rows[1][:VALIDATED], rows[2], tokenizer))
    for name, wording in FACT_TASKS.items():
        draw = random.Random(f"{seed} {name}")
        known = [(entity, draw.randrange(len(wording.labels))) for entity in _entities(draw, facts)]
        half = max(1, len(known) // 2)
        found.append(_task(name, wording, known, known[:half], known[half:] or known, tokenizer))
    return found


def questions_of_file(path: str | Path, tokenizer: Any, asked: int | None, seed: int) -> WordTask:
    """A file of `label sentence` lines of the user's: two labels are asked as SST-2 is, more as TREC.

    Raises:
        UserError: see `sentences.read_labelled`.
    """
    rows = read_labelled(Path(path))
    if not rows:
        raise UserError(f"{path} holds no `label sentence` line")
    kind = "SST-2" if max(label for label, _ in rows) < 2 else "TREC"
    picked = random.Random(seed).sample(rows, min(asked or len(rows), len(rows)))
    told = [(" ".join(words[:WORDS]), label) for label, words in picked]
    return _task(Path(path).stem, SENTENCE_TASKS[kind], told[:1], told[:1], told, tokenizer)


def _entities(draw: random.Random, count: int) -> list[str]:
    """Invented names of two words, all different."""
    names: dict[str, None] = {}
    while len(names) < count:
        words = ("".join(draw.sample(_SYLLABLES, 2)).capitalize() for _ in range(2))
        names[" ".join(words)] = None
    return list(names)


def _task(
    name: str,
    wording: Wording,
    train: Sequence[tuple[str, int]],
    validation: Sequence[tuple[str, int]],
    test: Sequence[tuple[str, int]],
    tokenizer: Any,
) -> WordTask:
    # Of a base with a small vocabulary two answers may begin alike: `choice` then takes them for one.
    firsts = sorted({ids[0] for ids in _answers(wording, tokenizer)})

    def encode(rows: Sequence[tuple[str, int]], *forms: str) -> Questions:
        return _encode(rows, forms, wording, tokenizer)

    told = {"validation": encode(validation, wording.told), "test": encode(test, wording.told)}
    commonest = Counter(label for _, label in test).most_common(1)[0][1] / len(test)
    trained = encode(train, wording.told, UNTOLD)
    other = SENTENCE_TASKS[RELATED[name]] if name in RELATED else None
    related = _encode(test, (other.told,), other, tokenizer) if other else None
    return WordTask(name, trained, told, encode(test, UNTOLD), torch.tensor(firsts), commonest, related)


def _answers(wording: Wording, tokenizer: Any) -> list[list[int]]:
    return [tokenizer(word, add_special_tokens=False)["input_ids"] for word in wording.labels]


def _encode(rows: Sequence[tuple[str, int]], forms: Sequence[str], wording: Wording, tokenizer: Any) -> Questions:
    # Of one length together, so that a batch of questions has little padding; training draws its batches.
    texts = [(form.format(text), label) for form in forms for text, label in rows]
    prompts, answers = tokenizer([text for text, _ in texts])["input_ids"], _answers(wording, tokenizer)
    lines = sorted(((prompt, answers[label]) for prompt, (_, label) in zip(prompts, texts)), key=_length)
    ids = torch.full((len(lines), max(map(_length, lines))), PAD)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    for at, (prompt, wanted) in enumerate(lines):
        ids[at, : len(prompt) + len(wanted)] = torch.tensor(prompt + wanted)
        answer[at, len(prompt) : len(prompt) + len(wanted)] = True
    return Questions(ids, answer)


def _length(line: tuple[list[int], list[int]]) -> int:
    return len(line[0]) + len(line[1])


def joined(tasks: Sequence[WordTask], rows: int, seed: int) -> Questions:
    """Training questions of all tasks, `rows` of each drawn with replacement: what joint training reads."""
    width = max(task.train.ids.shape[1] for task in tasks)
    generator = torch.Generator().manual_seed(seed)
    parts = [task.train.rows(torch.randint(len(task.train), (rows,), generator=generator)) for task in tasks]
    return _together([padded(part, width) for part in parts])


def asked_at_random(texts: Sequence[str], tokenizer: Any, count: int, seed: int) -> Questions:
    """Every prompt `count` times, told and untold, around snippets of general text or new names, answers drawn."""
    draw = random.Random(f"{seed} format")
    long = [words for words in (text.lower().split() for text in texts) if len(words) >= WORDS]
    parts = []
    for name, wording in {**SENTENCE_TASKS, **FACT_TASKS}.items():
        around = _entities(draw, count) if name in FACT_TASKS else [_snippet(draw, long) for _ in range(count)]
        rows = [(text, draw.randrange(len(wording.labels))) for text in around]
        parts.append(_encode(rows, (wording.told, UNTOLD), wording, tokenizer))
    width = max(part.ids.shape[1] for part in parts)
    return _together([padded(part, width) for part in parts])


def _snippet(draw: random.Random, texts: Sequence[Sequence[str]]) -> str:
    words = draw.choice(texts)
    start = draw.randrange(len(words) - WORDS + 1)
    return " ".join(words[start : start + draw.randint(4, WORDS)])


def _together(parts: Sequence[Questions]) -> Questions:
    return Questions(torch.cat([part.ids for part in parts]), torch.cat([part.answer for part in parts]))


def replayed_text(texts: Sequence[str], tokenizer: Any) -> Questions:
    """The base's own text as questions: pieces of `PIECE` tokens, the last `MARKED` of them to be predicted.

    Raises:
        UserError: a text shorter than one piece.
    """
    ids = [token for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"] for token in row]
    count = len(ids) // PIECE
    if not count:
        raise UserError(f"the general text has {len(ids)} tokens, fewer than the {PIECE} of one piece to replay")
    pieces = torch.tensor(ids[: count * PIECE]).reshape(count, PIECE)
    return Questions(pieces, (torch.arange(PIECE) >= PIECE - MARKED).expand_as(pieces).clone())


def padded(questions: Questions, width: int) -> Questions:
    """The questions with empty places up to `width` tokens; as they are where they are as wide."""
    more = (0, max(0, width - questions.ids.shape[1]))
    return Questions(
        torch.nn.functional.pad(questions.ids, more, value=PAD), torch.nn.functional.pad(questions.answer, more)
    )
