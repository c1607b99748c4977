"""Texts that somebody has already cut: `read_presegmented("person_description.sep.txt").examples[0].units`.

The format is the one of the SPT authors' files (arXiv 2403.00758): one text per line, `[SEP]` between units. Stray
markers (`guess [SEP], but`, a row of markers at the end) do no harm: empty units are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from permlab.data.checks import ON_BAD_ROW, check_bad_rows, check_file, need_path
from permlab.data.examples import Corpus, Example
from permlab.data.texts.joining import join_units, normalise
from permlab.data.texts.rows import BadRows, asked_queries, numbered_lines
from permlab.errors import UserError
from permlab.keys import choice


@dataclass
class PresegmentedConfig:
    """Text files with one text per line and a separator between units."""

    name: str = "presegmented"
    kind: str = "presegmented"
    path: str | None = None
    """The file, one text per line."""
    separator: str = "[SEP]"
    """What stands between two units."""
    test_path: str | None = None
    """Prompt/completion JSON lines asked after training as reverse recall."""
    forward_test_path: str | None = None
    """Prompt/completion JSON lines asked after training as forward recall."""
    on_bad_row: str = choice("raise", ON_BAD_ROW)
    """raise ends the run at a bad row; skip leaves it out and says so."""


def check_presegmented(config: PresegmentedConfig) -> None:
    """Check that the files are given and there."""
    need_path(config, "FILE")
    for key in ("path", "test_path", "forward_test_path"):
        check_file(config, key)
    if not config.separator:
        raise UserError("dataset.separator is empty: name the marker between units, such as [SEP]")
    check_bad_rows(config)


def load_presegmented(config: PresegmentedConfig, seed: int) -> Corpus:
    """Read the texts and questions of a configuration."""
    corpus = read_presegmented(str(config.path), config.separator, on_bad_row=config.on_bad_row)
    corpus.queries += asked_queries(config, (example.text for example in corpus.examples))
    return corpus


def split_marked(text: str, separator: str = "[SEP]") -> tuple[str, ...]:
    """Split at the separator, in any case and with white space inside its brackets; empty units are left out."""
    # [SEP] is plain text that an assistant wrote, in SPT never a token of the vocabulary, so its spelling varies.
    marker = r"\s*".join(re.escape(piece) for piece in re.findall(r"\w+|\S", separator)) or re.escape(separator)
    return tuple(unit for piece in re.split(marker, text, flags=re.IGNORECASE) if (unit := normalise(piece)))


def read_presegmented(path: str | Path, separator: str = "[SEP]", *, on_bad_row: str = "raise") -> Corpus:
    """Read one text per line with `separator` between units; a line without one is a text of one unit.

    Blank lines are passed over. A line of nothing but separators, or not in UTF-8, is a bad row.

    Raises:
        UserError: for a missing or empty file, an empty separator, and bad rows with `on_bad_row="raise"`.
    """
    if not separator:
        raise UserError("separator is empty: name the marker between units, such as [SEP]")
    bad = BadRows(on_bad_row)
    examples = []
    for source, line in numbered_lines(Path(path), bad):
        units = split_marked(line, separator)
        if units:
            examples.append(Example(join_units(units), units=units, source=source))
        else:
            bad.add(source, "only separators, no text")
    bad.finish(str(path), len(examples))
    return Corpus("presegmented", examples, rejected=bad.rows)
