"""Rows of text files, and questions to ask after training: `read_queries("questions.jsonl", direction="reverse")`.

Every reader names file and line of what it rejects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import regex

from permlab.data.checks import ON_BAD_ROW
from permlab.data.examples import Query
from permlab.data.texts.joining import BORDER, normalise
from permlab.errors import UserError, check_choice, first_line
from permlab.storage.plain import UnreadableError, open_regular

_SHOWN = 2
_LONGEST_ROW = 100
"""Characters; a long path loses its beginning."""
LONGEST_LINE = 4 * 2**20
"""Bytes of one line: no text to train on is longer, and cutting one into units takes many times its size."""
LONGEST_LABEL = 80
"""Characters of a group or kind, which head rows of tables and bars of figures."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class BadRows:
    """Collects what readers reject; `finish` raises or, with `on_bad_row="skip"`, leaves `rows` for the report."""

    def __init__(self, on_bad_row: str = "raise") -> None:
        check_choice("on_bad_row", on_bad_row, ON_BAD_ROW)
        self.on_bad_row = on_bad_row
        self.rows: list[str] = []

    def add(self, source: str, reason: str) -> None:
        """Record one bad row as `file:line: reason`."""
        self.rows.append(f"{source}: {reason}")

    def finish(self, what: str, good: int) -> None:
        """Raise for bad rows that may not be skipped, and when no good row is left.

        Raises:
            UserError: naming the first bad rows with file and line, how many there are, and the remedy.
        """
        more = f" (and {len(self.rows) - _SHOWN} more)" if len(self.rows) > _SHOWN else ""
        shown = "; ".join(r if len(r) <= _LONGEST_ROW else f"...{r[-_LONGEST_ROW:]}" for r in self.rows[:_SHOWN]) + more
        if self.rows and self.on_bad_row == "raise":
            raise UserError(f"bad rows: {shown}. Mend them, or leave them out with dataset.on_bad_row=skip")
        if not good:
            raise UserError(f"{what} holds no usable row" + (f": {shown}" if shown else ""))


def numbered_lines(path: Path, bad: BadRows) -> Iterator[tuple[str, str]]:
    """Yield (`file:line`, text) for each line of a UTF-8 file that is not blank; a byte order mark is passed over.

    Only a line feed ends a line, so that separators inside a JSON string do not. Lines that are not UTF-8 go to `bad`.

    Raises:
        UserError: when `path` is not a readable file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    try:
        with open_regular(path) as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), b""), start=1):
                source = f"{path}:{number}"
                if len(raw) > LONGEST_LINE:
                    raise UserError(f"{source} is longer than {LONGEST_LINE:,} bytes: is it one text per line?")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    bad.add(source, f"not UTF-8 (byte {error.start + 1} of the line)")
                    continue
                if line:
                    yield source, line
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path (relative paths start at {Path.cwd()})") from None
    except (OSError, UnreadableError) as error:
        raise UserError(f"{path.parent}: {first_line(error)}: name a file of texts") from None


def json_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) for each line that holds a JSON object; other lines go to `bad`.

    Raises:
        UserError: when `path` is not a readable file.
    """
    for source, line in numbered_lines(path, bad):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            detail = (
                f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else "too deep"
            )
            bad.add(source, f"not JSON ({detail})")
            continue
        if _HALF.search(line) and not _is_text(row):
            bad.add(source, "half of a surrogate pair, which is no text")
        elif isinstance(row, dict):
            yield source, row
        else:
            bad.add(source, "not a JSON object")


def _is_text(row: Any) -> bool:
    """Whether all strings of a row can be written; an escape such as \\ud800 alone stands for no character."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def text_value(row: dict[str, Any], key: str) -> str | None:
    """Return the string under `key` when it holds more than white space, else None."""
    value = row.get(key)
    return value if isinstance(value, str) and value.strip() else None


def prompt_and_completion(
    row: dict[str, Any], keys: tuple[str, str], source: str, bad: BadRows
) -> tuple[str, str] | None:
    """Return both strings of a row, or record in `bad` which one is missing and return None."""
    values = [text_value(row, key) for key in keys]
    missing = [key for key, value in zip(keys, values) if value is None]
    if missing:
        bad.add(source, " and ".join(f"'{key}'" for key in missing) + " missing, empty or not a string")
        return None
    return str(values[0]), str(values[1])


def join_prompt(prompt: str, completion: str) -> str:
    """Return prompt and completion as one text, with a space between them where neither side brings one."""
    space = "" if prompt[-1:].isspace() or completion[:1].isspace() else " "
    return f"{prompt}{space}{completion}".strip()


def read_queries(
    path: str | Path,
    *,
    direction: str,
    group: str = "",
    kind: str = "entity",
    wording: str = "held_out",
    keys: tuple[str, str] = ("prompt", "completion"),
    on_bad_row: str = "raise",
) -> list[Query]:
    """Read questions from JSON lines with prompt and completion; both are stripped of white space at the ends.

    Args:
        path: the file.
        direction: forward | reverse, for all rows.
        group: for rows without a field `group`.
        kind: for rows without a field `kind`.
        wording: trained | held_out, for all rows.
        keys: the fields with prompt and answer.
        on_bad_row: raise | skip.

    Raises:
        UserError: for a missing or empty file, and bad rows with `on_bad_row="raise"`.
    """
    check_choice("direction", direction, ("forward", "reverse"))
    bad = BadRows(on_bad_row)
    queries = []
    for source, row in json_rows(Path(path), bad):
        pair = prompt_and_completion(row, keys, source, bad)
        if pair:
            labels = {"group": text_value(row, "group") or group, "kind": text_value(row, "kind") or kind}
            long = [key for key, label in labels.items() if len(label) > LONGEST_LABEL]
            if long:
                bad.add(source, f"'{long[0]}' has more than {LONGEST_LABEL} characters")
                continue
            queries.append(Query(pair[0].strip(), pair[1].strip(), direction=direction, wording=wording, **labels))
    bad.finish(str(path), len(queries))
    return queries


def asked_queries(config: Any, texts: Iterable[str]) -> list[Query]:
    """Read the questions of a data set that names them in files of their own (`forward_test_path`, `test_path`).

    A question whose prompt stands word for word in one of the `texts` has a wording that was trained.
    """
    keys = getattr(config, "prompt_field", "prompt"), getattr(config, "completion_field", "completion")
    queries: list[Query] = []
    for direction, path in (("forward", config.forward_test_path), ("reverse", config.test_path)):
        if path:
            queries += read_queries(path, direction=direction, keys=keys, on_bad_row=config.on_bad_row)
    known = "\n".join(normalise(text) for text in texts)
    return [replace(query, wording="trained" if occurs(query.prompt, known) else "held_out") for query in queries]


def occurs(prompt: str, text: str) -> bool:
    """Return whether a prompt stands in a text as whole words."""
    wanted = normalise(prompt)
    return wanted in text and regex.search(f"{BORDER}{regex.escape(wanted)}{BORDER}", text) is not None


def read_entities(path: str | Path) -> list[str]:
    """Read a list of entities, one per line (`#` starts a comment), for the segmenter `entities`.

    Raises:
        UserError: for a missing file, one that is not UTF-8, or one without an entity.
    """
    bad = BadRows()
    entities: Sequence[str] = [line for _, line in numbered_lines(Path(path), bad) if not line.startswith("#")]
    bad.finish(str(path), len(entities))
    return list(dict.fromkeys(entities))
