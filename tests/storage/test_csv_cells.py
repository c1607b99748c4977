"""Cells of a CSV are no formulas, numbers stay numbers, and what permlab writes it reads."""

from __future__ import annotations

import csv

import pytest

from permlab.reports.collect import read_table
from permlab.storage.files import quoted, unquoted, write_csv


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "\r=1", "'=1", "-0.5x", "''@a"]
)
def test_text_that_a_spreadsheet_would_run_is_quoted_and_read_back(tmp_path, text):
    write_csv(tmp_path / "t.csv", [{text: text, "n": -0.5, "number": "-0.5"}])
    with (tmp_path / "t.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header[0] == row[0] == f"'{text}" and row[1:] == ["-0.5", "-0.5"]
    assert read_table(tmp_path / "t.csv") == [{text: text, "n": -0.5, "number": -0.5}]


@pytest.mark.parametrize(
    "text", ["-0.5", "+1e-3", "-inf", "-", "-0.031 ± 0.010", "a=b", "'quoted'", "x", -0.5, -1, None]
)
def test_numbers_and_other_text_stay(text):
    assert quoted(text) == text
    if isinstance(text, str):
        assert unquoted(text) == text


def test_half_a_letter_in_a_cell_is_written_escaped(tmp_path):
    write_csv(tmp_path / "t.csv", [{"text": "a\ud800"}])
    assert read_table(tmp_path / "t.csv") == [{"text": "a\\ud800"}]
