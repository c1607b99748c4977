"""How a run ended, in one value: what `runs.execute` returns and sweeps note."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Outcome:
    """How a run ended. `status`: done, failed, interrupted, refused, or skipped (finished before)."""

    directory: Path | None
    status: str
    exit_code: int
    message: str = ""
