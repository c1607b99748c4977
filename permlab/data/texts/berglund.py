"""Berglund et al.'s fictitious people: `read_berglund("reversal_curse").queries[0]`.

Three groups of 30 people (arXiv 2309.12288, experiment 1): name first (`p2d`), description first (`d2p`) and both
ways, each in 30 wordings; ten further wordings ask. The data has no licence, so it is read from the user's folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from permlab.data.checks import ON_BAD_ROW, check_bad_rows, need_path
from permlab.data.examples import Corpus, Example, Query
from permlab.data.texts.rows import BadRows, join_prompt, json_rows, prompt_and_completion
from permlab.errors import UserError
from permlab.keys import choice

TRAIN_FILES = {
    "name_first": "p2d_prompts_train",
    "description_first": "d2p_prompts_train",
    "both": "both_prompts_train",
}
"""Group -> training file, without `.jsonl`; the order of `all.jsonl`."""
TEST_FILES = (
    ("p2d_prompts_test", "name_first", "forward"),
    ("p2d_reverse_prompts_test", "name_first", "reverse"),
    ("d2p_prompts_test", "description_first", "forward"),
    ("d2p_reverse_prompts_test", "description_first", "reverse"),
    ("both_prompts_test", "both", "forward"),
)
"""Test file, group, direction; the group `both` was trained in both orders, so all its questions are forward."""
_NAMED = ("p2d_reverse_prompts_test", "d2p_prompts_test", "both_prompts_test")

_Row = tuple[str, str, str]  # source, prompt, completion


@dataclass
class BerglundConfig:
    """A folder of Berglund et al.'s reverse_experiments files."""

    name: str = "berglund"
    kind: str = "berglund"
    path: str | None = None
    """Folder with all_prompts_train.jsonl or all.jsonl and the *_prompts_test.jsonl files."""
    on_bad_row: str = choice("raise", ON_BAD_ROW)
    """raise ends the run at a bad row; skip leaves it out and says so."""


def check_berglund(config: BerglundConfig) -> None:
    """Check that the folder is given and there."""
    if not need_path(config, "FOLDER").is_dir():
        raise UserError(f"dataset.path={config.path}: there is no such folder")
    check_bad_rows(config)


def load_berglund(config: BerglundConfig, seed: int) -> Corpus:
    """Read the folder of a configuration."""
    return read_berglund(str(config.path), on_bad_row=config.on_bad_row)


def read_berglund(folder: str | Path, *, on_bad_row: str = "raise") -> Corpus:
    """Read a folder in the layout of Berglund et al.'s `data/reverse_experiments/june_version_*`.

    3,600 training texts with the person's name protected, and 1,800 questions, all in wordings nobody was trained on.
    Names come from the data: the first two words of the answers that are names. An answer that is a name is cut to it;
    in the description-to-name half of `both_prompts_test` the published rows go on with text of the template, which
    would make a prefix match too strict. The `*_randomized` files are not read: shuffled answers are drawn when needed.

    Raises:
        UserError: for a missing folder or file, and bad rows with `on_bad_row="raise"`.
    """
    folder = Path(folder)
    stems = [*TRAIN_FILES.values(), *(stem for stem, _, _ in TEST_FILES)]
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder: give the folder that holds {stems[0]}.jsonl (Berglund et al.'s data)"
        )
    missing = [f"{stem}.jsonl" for stem in stems if not (folder / f"{stem}.jsonl").is_file()]
    if missing:
        raise UserError(f"{folder} is not a folder in the Berglund layout: {', '.join(missing)} missing")
    bad = BadRows(on_bad_row)
    rows = {stem: _read(folder / f"{stem}.jsonl", bad) for stem in stems}
    names = _names(completion for stem in _NAMED for _, prompt, completion in rows[stem])
    # The name is protected, not the description: its wording is bent to each template and has no fixed form.
    examples = [
        Example(text, group=group, protected=_mentioned(text, names), source=source)
        for group, stem in TRAIN_FILES.items()
        for source, prompt, completion in rows[stem]
        for text in (join_prompt(prompt, completion),)
    ]
    queries = [
        _query(prompt, completion, group, direction, names)
        for stem, group, direction in TEST_FILES
        for _, prompt, completion in rows[stem]
    ]
    bad.finish(str(folder), min(len(examples), len(queries)))
    return Corpus("berglund", examples, queries, bad.rows)


def _read(path: Path, bad: BadRows) -> list[_Row]:
    """Return the good rows of one file."""
    rows = []
    for source, row in json_rows(path, bad):
        pair = prompt_and_completion(row, ("prompt", "completion"), source, bad)
        if pair:
            rows.append((source, *pair))
    return rows


def _first_two_words(text: str) -> str:
    """Return the first two words without punctuation behind them."""
    return " ".join(text.split()[:2]).rstrip(".,;:!?'\"")


def _names(answers: Iterable[str]) -> set[str]:
    """Return the people's names: answers that start with two capitalised words (descriptions start in lower case)."""
    candidates = (_first_two_words(answer) for answer in answers)
    return {name for name in candidates if len(name.split()) == 2 and all(word[0].isupper() for word in name.split())}


def _mentioned(text: str, names: set[str]) -> tuple[str, ...]:
    """Return the names in a text, in order."""
    words = [word.strip(".,;:!?'\"()") for word in text.replace("'s", "").split()]
    pairs = (f"{first} {last}" for first, last in pairwise(words))
    return tuple(dict.fromkeys(pair for pair in pairs if pair in names))


def _query(prompt: str, completion: str, group: str, direction: str, names: set[str]) -> Query:
    """Return one question; it asks for a name when the answer starts with one."""
    name = _first_two_words(completion)
    kind, answer = ("name", name) if name in names else ("description", completion.strip())
    return Query(prompt.strip(), answer, group, direction, kind, "held_out")
