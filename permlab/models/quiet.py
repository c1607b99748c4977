"""What transformers prints, made fit for a terminal: `quiet_transformers()` before its first `from_pretrained`."""

from __future__ import annotations

import logging
import re

from permlab.errors import as_lines, blotted

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class OneLine(logging.Formatter):
    """A line of a library: without colours, as short as those of permlab, what files hold shown escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message on one line."""
        text = " ".join(_COLOUR.sub("", record.getMessage()).split())
        return as_lines(blotted(f"{record.name.partition('.')[0]}: {text}"), lines=1)


def quiet_transformers() -> None:
    """Have transformers draw no bars, which would tear ours and fill a log file, and print one line a message."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.get_logger()  # makes its handler
    for handler in logging.getLogger("transformers").handlers:
        if type(handler) is logging.StreamHandler:  # its own, not one that collects or files what is logged
            handler.setFormatter(OneLine())
