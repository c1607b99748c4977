"""Whether tokenizers of networks give their embeddings the same rows: `compare_vocabularies(first, other)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from permlab.errors import UserError
from permlab.models.checkpoints import Checkpoint
from permlab.storage.plain import UnreadableError, parse_json, read_bytes

LARGEST_TOKENIZER = 2**28
"""Bytes of a tokenizer.json that is compared; the largest have 40 million."""


def compare_vocabularies(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Notes on tokens that only one of two networks has.

    Raises:
        UserError: rows of the embeddings mean different words, so that averaging them would mix these up.
    """
    files = [each.folder / "tokenizer.json" for each in (first, other)]
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
            f"{first.name} and {other.name} have different vocabularies ({len(one)} | {len(two)} tokens): "
            "the rows of their embeddings mean different words, so they cannot be averaged"
        )
    for number in sorted(first_added.keys() & other_added.keys()):
        if first_added[number] != other_added[number]:
            raise UserError(
                f"{first.name} and {other.name} have different added tokens: row {number} of the embeddings is "
                f"{first_added[number]!r} | {other_added[number]!r}, so they cannot be averaged"
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
