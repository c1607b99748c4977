"""Whether tokenizers of networks give their embeddings the same rows: `compare_vocabularies(first, other)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permlab.errors import UserError
from permlab.models.checkpoints import Checkpoint
from permlab.storage.plain import UnreadableError, parse_json, read_bytes

LARGEST_TOKENIZER = 2**28
"""Bytes of a tokenizer.json that is compared; the largest have 40 million."""
FILE = "tokenizer.json"
BASE, UNION = "base", "union"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
        folder: where its files lie.
        rows: token -> row of the embeddings, tokens that were added included.
        added: token that was added -> how it is matched (`special`, `lstrip`, ...), as tokenizer.json has it.
    """

    folder: Path
    rows: dict[str, int]
    added: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """Which vocabulary networks are brought to.

    Attributes:
        tokenizer: "base": the ancestor's, or the first network's; "union": with the tokens of the others behind; or a
            folder with a tokenizer.
        scratch: folder for the mapped embeddings.
        weights: of the networks, in means of rows; equal ones by default.
    """

    tokenizer: str
    scratch: Path
    weights: Sequence[float] = ()


def read_vocabulary(folder: Path) -> Vocabulary:
    """The tokens that `tokenizer.json` and `tokenizer_config.json` of a folder name.

    Raises:
        UserError: there is no tokenizer.json, or one that cannot be read.
    """
    try:
        parsed = parse_json(read_bytes(folder / FILE, LARGEST_TOKENIZER))
        vocabulary = parsed["model"]["vocab"]
        # A Unigram model lists (token, score); its rows are the places in the list.
        pairs = enumerate(each[0] for each in vocabulary) if isinstance(vocabulary, list) else ()
        rows = {str(token): number for number, token in pairs} or {str(t): int(n) for t, n in dict(vocabulary).items()}
        added = {str(each["content"]): dict(each) for each in parsed.get("added_tokens") or ()}
        rows |= {token: number for number, token in _added(parsed, folder)}
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {FILE}, by which its tokens could be told: save its tokenizer there with transformers"
        ) from None
    except (OSError, UnreadableError, KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{folder / FILE} is no tokenizer that can be read: get it again") from None
    return Vocabulary(folder, rows, added)


def read_vocabularies(checkpoints: Sequence[Checkpoint]) -> list[Vocabulary]:
    """Those of several networks."""
    return [read_vocabulary(each.folder) for each in checkpoints]


def check_common(checkpoints: Sequence[Checkpoint], own: Sequence[Vocabulary]) -> None:
    """Refuse networks whose tokenizers share nothing but special tokens.

    Raises:
        UserError: naming the two.
    """
    for each, vocabulary in zip(checkpoints[1:], own[1:]):
        shared = own[0].rows.keys() & vocabulary.rows.keys()
        if not shared - own[0].added.keys() - vocabulary.added.keys():
            raise UserError(
                f"{checkpoints[0].name} and {each.name} have no token in common, so that no row of one embedding "
                "belongs to one of the other: they cannot be merged by their tokens"
            )


def compare_vocabularies(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Notes on tokens that only one of two networks has.

    Raises:
        UserError: rows of the embeddings mean different words, so that averaging them would mix these up.
    """
    files = [each.folder / FILE for each in (first, other)]
    if not all(file.is_file() for file in files):
        return []
    try:
        texts = [read_bytes(file, LARGEST_TOKENIZER) for file in files]
        parsed = [parse_json(text) for text in texts]
        one, two = (each["model"]["vocab"] for each in parsed)
        first_added, other_added = (dict(_added(each, file.parent)) for each, file in zip(parsed, files))
    except (OSError, UnreadableError, KeyError, TypeError, ValueError, AttributeError):
        return []
    if one != two and hasattr(one, "__len__") and hasattr(two, "__len__"):
        raise UserError(
            f"{first.name} and {other.name} have different vocabularies ({len(one)} | {len(two)} tokens): the rows of "
            "their embeddings mean different words, so they cannot be averaged; tokenizer=union or base maps them"
        )
    for number in sorted(first_added.keys() & other_added.keys()):
        if first_added[number] != other_added[number]:
            raise UserError(
                f"{first.name} and {other.name} have different added tokens: row {number} of the embeddings is "
                f"{first_added[number]!r} | {other_added[number]!r}, so they cannot be averaged; tokenizer=union or "
                "base maps them"
            )
    notes = []
    for each, mine, theirs in ((first, first_added, other_added), (other, other_added, first_added)):
        extra = sorted(mine.keys() - theirs.keys())
        if extra:
            notes.append(
                f"only {each.name} knows {mine[extra[0]]!r}{f' and {len(extra) - 1} more' if extra[1:] else ''}: "
                "these rows of the embeddings are averaged with rows that mean nothing"
            )
    return notes


def same_rows(first: Checkpoint, other: Checkpoint) -> bool:
    """Whether no row of the embeddings is known to mean different tokens in two networks."""
    try:
        compare_vocabularies(first, other)
    except UserError:
        return False
    return True


def _added(tokenizer: Any, folder: Path) -> Iterator[tuple[int, str]]:
    """(row, token) of tokens added to a vocabulary: special ones, or words of a fine-tuning."""
    for each in tokenizer.get("added_tokens") or ():
        yield int(each["id"]), str(each["content"])
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        # Slow tokenizers keep theirs here; transformers reads both.
        decoder = parse_json(read_bytes(settings, LARGEST_TOKENIZER)).get("added_tokens_decoder") or {}
        for number, each in decoder.items():
            yield int(number), str(each["content"])
