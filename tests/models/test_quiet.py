"""What transformers prints about somebody's files is fit for a terminal."""

from __future__ import annotations

import logging

from permlab.models.quiet import OneLine, quiet_transformers


def test_a_report_of_transformers_is_one_line_without_colours_and_direction_marks(monkeypatch):
    import io

    quiet_transformers()
    (handler,) = (each for each in logging.getLogger("transformers").handlers if type(each) is logging.StreamHandler)
    assert isinstance(handler.formatter, OneLine)
    heard = io.StringIO()
    monkeypatch.setattr(handler, "stream", heard)
    report = "\x1b[1mLlama LOAD REPORT\x1b[0m from a\u202eb\nKey | Status\n" + "model.layers.0 | MISMATCH\n" * 40
    logging.getLogger("transformers.modeling_utils").warning(report)
    (line,) = heard.getvalue().splitlines()
    assert line.startswith("transformers: Llama LOAD REPORT from a\\u202eb Key | Status") and len(line) <= 300
