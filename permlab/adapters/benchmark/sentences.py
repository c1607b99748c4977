"""Labelled sentences: TREC, SST-2, Subj and MR, one adapter each.

>>> sentences("text_classification", seed=0)
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import torch

from permlab.adapters.benchmark.questions import BEGIN, PAD, SEPARATOR, SPECIAL, UNKNOWN, Benchmark, Group, Questions
from permlab.adapters.benchmark.settings import BenchmarkSettings
from permlab.errors import UserError

# name: (training file, test file or None to split the training file)
_SENTENCES = {
    "TREC": ("TREC.train.all", "TREC.test.all"),
    "SST-2": ("stsa.binary.train", "stsa.binary.test"),
    "Subj": ("subj.all", None),
    "MR": ("rt-polarity.all", None),
}
FILES = tuple(name for pair in _SENTENCES.values() for name in pair if name)
"""What the folder must hold."""
_LABELS = 6
Labelled = tuple[int, list[str]]
"""Label and words of a sentence."""


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
    parts = labelled_parts(folder, seed)
    counts = Counter(word for splits in parts.values() for _, sentence in splits[0] for word in sentence)
    first_word = SPECIAL + len(parts) + _LABELS
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
        asked_in = [_encode(rows, task, len(parts), numbers, words) for rows in in_turn]
        # Classes are uneven: the floor of a score is the share of the commonest label, not one over the labels.
        frequent = Counter(label for label, _ in test).most_common(1)[0][1]
        groups.append(Group(name, asked_in[0], asked_in[1], asked_in[2], chance=frequent / len(test)))
    texts = [(group.train.ids, group.train.answer) for group in groups]
    ids, answer = (torch.cat(column) for column in zip(*texts))
    # The base is a language model of the sentences. It learns that a label follows, not which: those are drawn.
    drawn = torch.randint(_LABELS, ids.shape, generator=torch.Generator().manual_seed(seed))
    ids = torch.where(answer, SPECIAL + len(parts) + drawn, ids)
    language = (ids != PAD) & (torch.arange(ids.shape[1]) > 1)
    # Drawn at random in the base's texts, all labels end up in one direction; they are spread later.
    labels = torch.arange(SPECIAL + len(parts), first_word)
    return Benchmark("text", first_word + len(common), Questions(ids, language), groups, "exact", fresh=labels)


def labelled_parts(folder: str | Path, seed: int) -> dict[str, list[list[Labelled]]]:
    """Training, validation and test sentences of the four data sets; no training sentence is asked anywhere.

    Raises:
        UserError: see `sentences`.
    """
    parts: dict[str, list[list[Labelled]]] = {}
    for name, (train_file, test_file) in _SENTENCES.items():
        rows = read_labelled(Path(folder) / train_file)
        random.Random(seed).shuffle(rows)
        tenth = len(rows) // 10
        test = read_labelled(Path(folder) / test_file) if test_file else rows[tenth : 2 * tenth]
        parts[name] = [rows[2 * tenth if not test_file else tenth :], rows[:tenth], test]
    held_out = {_fold(sentence) for _, *asked in parts.values() for rows in asked for _, sentence in rows}
    for splits in parts.values():
        splits[0] = [row for row in splits[0] if _fold(row[1]) not in held_out]
    return parts


def from_settings(groups: int, seed: int, settings: BenchmarkSettings, vocabulary: int) -> Benchmark:
    """The benchmark as its row names it: all four data sets, however many are merged."""
    return sentences(settings.folder or "", seed, vocabulary=vocabulary, asked=settings.questions)


def read_labelled(path: Path) -> list[Labelled]:
    """Rows of a file of `label sentence` lines (latin-1), words in lower case."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a folder with the `label sentence` files")
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


def _encode(rows: list[Labelled], task: int, tasks: int, numbers: dict[str, int], words: int) -> Questions:
    ids = torch.full((len(rows), words + 4), PAD)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    for index, (label, sentence) in enumerate(rows):
        body = [numbers.get(word, UNKNOWN) for word in sentence[:words]]
        line = [BEGIN, SPECIAL + task, *body, SEPARATOR, SPECIAL + tasks + label]
        ids[index, : len(line)] = torch.tensor(line)
        answer[index, len(line) - 1] = True
    return Questions(ids, answer)
