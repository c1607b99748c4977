"""Question sets for adapters that will be merged: knowledge, list operations, labelled sentences.

>>> benchmark = knowledge(groups=3, seed=0)
>>> benchmark.groups[0].test.ids.shape          # (questions, tokens); the answer is marked in .answer

Every benchmark has a pretraining set for the base model, one group of questions per adapter (train, validation, test),
and where it makes sense questions on what the base knew before (`kept`).
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from permlab.errors import UserError

PAD, BEGIN, UNKNOWN, SEPARATOR = 0, 1, 2, 3
_SPECIAL = 4


@dataclass(frozen=True)
class Questions:
    """`ids` (n, tokens) int64, padded on the right with 0; `answer` (n, tokens) bool marks what has to be predicted."""

    ids: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, index: Tensor | slice) -> Questions:
        """A part of the questions."""
        return Questions(self.ids[index], self.answer[index])


@dataclass(frozen=True)
class Group:
    """Questions of one adapter. `chance`: score of the best constant answer (0 where there is none to speak of).

    `replay`: questions of the base, mixed half and half into the training of the adapter, or None.
    """

    name: str
    train: Questions
    validation: Questions
    test: Questions
    chance: float = 0.0
    replay: Questions | None = None


@dataclass(frozen=True)
class Benchmark:
    """What the base is trained on, what the adapters are, and how answers are scored.

    `metric`: "exact" (the whole answer is right) or "token" (share of right answer tokens). `kept`: questions the base
    can answer. `fresh`: tokens the base cannot tell apart (labels), to be spread by `training.spread_embeddings`.
    """

    name: str
    vocabulary: int
    base: Questions
    groups: list[Group]
    metric: str
    kept: Group | None = None
    fresh: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Longest sequence."""
        return max(self.base.ids.shape[1], *(group.train.ids.shape[1] for group in self.groups))


# ---- knowledge ------------------------------------------------------------------------------------------------------


def knowledge(
    groups: int, seed: int, facts: int = 600, per_group: int = 40, validation: float = 0.5, names: int = 64
) -> Benchmark:
    """Facts (first name, family name) -> attribute; every group of entities is new, so chance is about 0.01.

    Args:
        groups: adapters.
        seed: of the draw.
        facts: facts of the base.
        per_group: facts of each adapter.
        validation: share of the facts whose recall picks the scale of a merge; the others are the test. All are
            trained on: recall is what is asked.
        names: first names, and as many family names.
    """
    generator = torch.Generator().manual_seed(seed)
    attributes = 100
    total = facts + groups * per_group
    if total > names * names:
        raise UserError(f"task.facts and task.facts_per_adapter ask for {total} entities; {names * names} names exist")
    entity = torch.randperm(names * names, generator=generator)[:total]
    value = torch.randint(attributes, (total,), generator=generator)
    first = _SPECIAL + entity // names
    family = _SPECIAL + names + entity % names
    ids = torch.stack([torch.full_like(first, BEGIN), first, family, _SPECIAL + 2 * names + value], dim=1)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    answer[:, 3] = True
    known = Questions(ids[:facts], answer[:facts])

    def group(name: str, part: Questions, replay: Questions | None) -> Group:
        cut = max(1, round(validation * len(part)))
        return Group(name, part, part.rows(slice(0, cut)), part.rows(slice(cut, None)), 1 / attributes, replay)

    parts = []
    for index in range(groups):
        start = facts + index * per_group
        here = slice(start, start + per_group)
        parts.append(group(f"facts {index + 1}", Questions(ids[here], answer[here]), known))
    vocabulary = _SPECIAL + 2 * names + attributes
    return Benchmark("knowledge", vocabulary, known, parts, "exact", group("base facts", known, None))


# ---- list operations ------------------------------------------------------------------------------------------------

_OPERATIONS = ("reverse", "sort", "rotate", "swap", "shift", "interleave", "copy", "sort_down")


def apply_operation(name: str, values: Tensor, symbols: int) -> Tensor:
    """Apply one operation to rows of symbol numbers (n, length).

    reverse; sort (down); rotate by one; swap neighbours; shift every symbol to the next; interleave the halves; copy.
    """
    length = values.shape[1]
    if name == "sort":
        return values.sort(dim=1).values
    if name == "sort_down":
        return values.sort(dim=1, descending=True).values
    if name == "shift":
        return (values + 1) % symbols
    positions = torch.arange(length)
    half = (length + 1) // 2
    order = {
        "reverse": positions.flip(0),
        "rotate": positions.roll(-1),
        "swap": torch.where((positions ^ 1) < length, positions ^ 1, positions),
        "interleave": torch.stack([positions[:half], (positions[:half] + half)], dim=1).flatten()[:length],
        "copy": positions,
    }[name]
    return values[:, order.clamp_max(length - 1)]


def lists(
    groups: int, seed: int, length: int = 5, symbols: int = 12, base_lists: int = 24000, per_group: int = 2000
) -> Benchmark:
    """Six list operations, each on its own alphabet (variant C): the base knows all operations under other task tokens.

    A shared alphabet would make the adapters contradict each other, and every merge fail.
    """
    if not 1 <= groups <= 6:
        raise UserError(f"task.benchmark=lists has six operations, {groups} adapters were asked for; set task.counts")
    generator = torch.Generator().manual_seed(seed)
    operations = len(_OPERATIONS)
    first_symbol = _SPECIAL + operations + 6
    vocabulary = first_symbol + 6 * symbols

    def questions(count: int, operation: Tensor, alphabet: Tensor, token: Tensor) -> Questions:
        values = torch.randint(symbols, (count, length), generator=generator)
        results = torch.empty_like(values)
        for index, name in enumerate(_OPERATIONS):
            here = operation == index
            results[here] = apply_operation(name, values[here], symbols)
        offset = (first_symbol + alphabet * symbols)[:, None]
        separator = torch.full((count, 1), SEPARATOR)
        ids = torch.cat([token[:, None], values + offset, separator, results + offset], dim=1)
        answer = torch.zeros_like(ids, dtype=torch.bool)
        answer[:, length + 2 :] = True
        return Questions(ids, answer)

    operation = torch.randint(operations, (base_lists,), generator=generator)
    base = questions(base_lists, operation, torch.randint(6, (base_lists,), generator=generator), _SPECIAL + operation)
    asked = base.rows(slice(0, 1000))
    kept = Group("base operations", base, asked.rows(slice(0, 250)), asked.rows(slice(250, None)), 1 / symbols)
    parts = []
    for index in range(groups):
        count = per_group + 500
        fixed = torch.full((count,), index)
        drawn = questions(count, fixed, fixed, fixed + _SPECIAL + operations)
        train, validation = drawn.rows(slice(0, per_group)), drawn.rows(slice(per_group, per_group + 125))
        test = drawn.rows(slice(per_group + 125, None))
        parts.append(Group(f"{_OPERATIONS[index]} on alphabet {index + 1}", train, validation, test, 1 / symbols))
    return Benchmark("lists", vocabulary, base, parts, "token", kept)


# ---- labelled sentences ---------------------------------------------------------------------------------------------

# name: (training file, test file or None to split the training file)
_SENTENCES = {
    "TREC": ("TREC.train.all", "TREC.test.all"),
    "SST-2": ("stsa.binary.train", "stsa.binary.test"),
    "Subj": ("subj.all", None),
    "MR": ("rt-polarity.all", None),
}
_LABELS = 6


def sentences(
    folder: str | Path, seed: int, words: int = 32, vocabulary: int = 8192, asked: int | None = None
) -> Benchmark:
    """TREC, SST-2, Subj and MR from files of `label sentence` lines (latin-1), as kept beside Kim's 2014 CNN paper.

    A sentence is `begin, task, words..., separator, label`. MR contains most of SST-2: a training sentence that is in
    the test or validation part of any of the four is left out. Files without a test part are split 80/10/10 by `seed`.
    `asked`: most test questions per dataset, drawn by `seed`, and a quarter as many for validation; None is all.

    Raises:
        UserError: for a missing file or a line that does not start with a label of 0 to 5.
    """
    parts: dict[str, list[list[tuple[int, list[str]]]]] = {}
    for name, (train_file, test_file) in _SENTENCES.items():
        rows = _read_labelled(Path(folder) / train_file)
        random.Random(seed).shuffle(rows)
        tenth = len(rows) // 10
        test = _read_labelled(Path(folder) / test_file) if test_file else rows[tenth : 2 * tenth]
        parts[name] = [rows[2 * tenth if not test_file else tenth :], rows[:tenth], test]
    held_out = {_fold(sentence) for _, *asked in parts.values() for rows in asked for _, sentence in rows}
    for splits in parts.values():
        splits[0] = [row for row in splits[0] if _fold(row[1]) not in held_out]
    counts = Counter(word for splits in parts.values() for _, sentence in splits[0] for word in sentence)
    first_word = _SPECIAL + len(parts) + _LABELS
    common = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - first_word]
    numbers = {word: first_word + number for number, word in enumerate(common)}
    groups = []
    for task, (name, splits) in enumerate(parts.items()):
        train, validation, test = splits
        if asked is not None:
            test = random.Random(seed).sample(test, min(asked, len(test)))
            validation = validation[: max(1, asked // 4)]
        # Questions of one length stand together, so that a batch of them has little padding.
        in_turn = [train, *(sorted(rows, key=lambda row: len(row[1])) for rows in (validation, test))]
        encoded = [_encode(rows, task, len(parts), numbers, words) for rows in in_turn]
        labels = Counter(label for label, _ in test)
        groups.append(Group(name, *encoded, chance=max(labels.values()) / len(test)))
    texts = [(group.train.ids, group.train.answer) for group in groups]
    ids, answer = (torch.cat(column) for column in zip(*texts))
    # The base is a language model of the sentences. It learns that a label follows, not which: those are drawn.
    drawn = torch.randint(_LABELS, ids.shape, generator=torch.Generator().manual_seed(seed))
    ids = torch.where(answer, _SPECIAL + len(parts) + drawn, ids)
    language = (ids != PAD) & (torch.arange(ids.shape[1]) > 1)
    labels = torch.arange(_SPECIAL + len(parts), first_word)
    return Benchmark("text", first_word + len(common), Questions(ids, language), groups, "exact", fresh=labels)


def _read_labelled(path: Path) -> list[tuple[int, list[str]]]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; set task.folder to a folder with the `label sentence` files")
    rows = []
    for number, line in enumerate(path.read_text(encoding="latin-1").split("\n"), start=1):
        if not line.strip():
            continue
        label, _, sentence = line.partition(" ")
        if not (label.isdigit() and int(label) < _LABELS):
            raise UserError(f"{path}:{number} does not start with a label from 0 to {_LABELS - 1}: {line[:40]!r}")
        rows.append((int(label), sentence.lower().split()))
    return rows


def _fold(sentence: list[str]) -> str:
    """Letters and digits only: the files differ in punctuation and spacing."""
    return "".join(character for word in sentence for character in word if character.isalnum())


def _encode(rows: list[tuple[int, list[str]]], task: int, tasks: int, numbers: dict[str, int], words: int) -> Questions:
    ids = torch.full((len(rows), words + 4), PAD)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    for index, (label, sentence) in enumerate(rows):
        body = [numbers.get(word, UNKNOWN) for word in sentence[:words]]
        line = [BEGIN, _SPECIAL + task, *body, SEPARATOR, _SPECIAL + tasks + label]
        ids[index, : len(line)] = torch.tensor(line)
        answer[index, len(line) - 1] = True
    return Questions(ids, answer)
