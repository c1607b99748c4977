"""Texts of the user, a file of rows: `read_jsonl("facts.jsonl").examples[0].text`.

JSON lines with `prompt` and `completion` or with one `text`, or plain text with one text per line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from permlab.data.checks import ON_BAD_ROW, check_bad_rows, check_file, need_path
from permlab.data.examples import Corpus, Example, Query
from permlab.data.texts.rows import (
    BadRows,
    asked_queries,
    join_prompt,
    json_rows,
    numbered_lines,
    prompt_and_completion,
    text_value,
)
from permlab.keys import choice

SENTENCE_END = ".!?…。！？"


@dataclass
class JsonlConfig:
    """JSON lines with prompt and completion, or text; or a plain .txt file with one text per line."""

    name: str = "jsonl"
    kind: str = "jsonl"
    path: str | None = None
    """The file; the ending .txt means one text per line, anything else JSON lines."""
    text_field: str = "text"
    """Field with the text; rows that have it need no prompt."""
    prompt_field: str = "prompt"
    """Field with the first half of a text."""
    completion_field: str = "completion"
    """Field with the second half of a text."""
    protected_field: str | None = None
    """Field with a list of strings that no segmenter may split."""
    test_path: str | None = None
    """Prompt/completion rows asked after training as reverse recall, the direction that no text has."""
    forward_test_path: str | None = None
    """Prompt/completion rows asked as forward recall; without it they are made of `path`: its prompts, or the texts up
    to a protected string at their end."""
    on_bad_row: str = choice("raise", ON_BAD_ROW)
    """raise ends the run at a bad row; skip leaves it out and says so."""


def check_jsonl(config: JsonlConfig) -> None:
    """Check that the files are given and there."""
    need_path(config, "FILE")
    for key in ("path", "test_path", "forward_test_path"):
        check_file(config, key)
    check_bad_rows(config)


def load_jsonl(config: JsonlConfig, seed: int) -> Corpus:
    """Read the texts and questions of a configuration."""
    corpus = read_jsonl(
        str(config.path),
        text_field=config.text_field,
        prompt_field=config.prompt_field,
        completion_field=config.completion_field,
        protected_field=config.protected_field,
        on_bad_row=config.on_bad_row,
    )
    asked = asked_queries(config, (example.text for example in corpus.examples))
    return replace(corpus, queries=[*asked] if config.forward_test_path else [*corpus.queries, *asked])


def read_jsonl(
    path: str | Path,
    *,
    text_field: str = "text",
    prompt_field: str = "prompt",
    completion_field: str = "completion",
    protected_field: str | None = None,
    on_bad_row: str = "raise",
) -> Corpus:
    """Read training texts: JSON lines with a text or with prompt and completion, or a `.txt` file, one text per line.

    Args:
        path: the file; the ending `.txt` means plain text, anything else JSON lines.
        text_field: used where a row has it; then prompt and completion are not looked at.
        prompt_field: with `completion_field`, joined by `join_prompt`.
        completion_field: see `prompt_field`.
        protected_field: field with a string or a list of strings that no segmenter may split; may be missing in a row.
        on_bad_row: raise | skip (then `Corpus.rejected` holds them).

    Raises:
        UserError: for a missing or empty file, and bad rows with `on_bad_row="raise"`.
    """
    path, bad = Path(path), BadRows(on_bad_row)
    examples: list[Example] = []
    queries: list[Query] = []
    if path.suffix.lower() == ".txt":
        examples = [Example(line, source=source) for source, line in numbered_lines(path, bad)]
    else:
        for source, row in json_rows(path, bad):
            keys = (prompt_field, completion_field)
            text = _row_text(row, text_field, keys, source, bad)
            protected = _protected(row, protected_field, source, bad)
            if text is not None and protected is not None:
                examples.append(Example(text, protected=protected, source=source))
                queries += _forward_query(row, text_field, keys, examples[-1])
    bad.finish(str(path), len(examples))
    return Corpus("jsonl", examples, list(dict.fromkeys(queries)), rejected=bad.rows)


def _forward_query(row: dict[str, Any], text_field: str, keys: tuple[str, str], example: Example) -> list[Query]:
    """The question that a training text answers itself: its prompt, or all that stands before its last entity."""
    if text_field not in row:
        prompt, answer = (str(row[key]).strip() for key in keys)
        return [forward_query(prompt, answer)]
    text = example.text.rstrip(SENTENCE_END)
    for entity in sorted(example.protected, key=len, reverse=True):
        prompt = text.removesuffix(entity).rstrip()
        if prompt and prompt != text.rstrip() and text[len(prompt) : len(prompt) + 1].isspace():
            return [forward_query(prompt, entity)]
    return []


def forward_query(prompt: str, answer: str) -> Query:
    """A question in a wording that was trained; the full stop of a text is no part of its answer."""
    return Query(prompt, answer.rstrip(SENTENCE_END) or answer, "own", "forward", "entity", "trained")


def _row_text(row: dict[str, Any], text_field: str, keys: tuple[str, str], source: str, bad: BadRows) -> str | None:
    """Return the training text of one row, or record why there is none."""
    if text_field in row:
        text = text_value(row, text_field)
        if text is None:
            bad.add(source, f"'{text_field}' empty or not a string")
        return text.strip() if text else None
    if not any(key in row for key in keys):
        bad.add(
            source, f"neither '{text_field}' nor '{keys[0]}' and '{keys[1]}' (it has: {', '.join(row) or 'nothing'})"
        )
        return None
    pair = prompt_and_completion(row, keys, source, bad)
    return join_prompt(*pair) if pair else None


def _protected(row: dict[str, Any], key: str | None, source: str, bad: BadRows) -> tuple[str, ...] | None:
    """Return the protected strings of one row (none without the field), or None after recording a wrong type."""
    value = row.get(key) if key else None
    values = [value] if isinstance(value, str) else value or []
    if isinstance(values, list) and all(isinstance(item, str) for item in values):
        return tuple(item.strip() for item in values if item.strip())
    bad.add(source, f"'{key}' is neither a string nor a list of strings")
    return None
