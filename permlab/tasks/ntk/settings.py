"""Configuration of `task=ntk`: the library's settings and the mode."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.keys import choice
from permlab.ntk.settings import EnsembleSettings
from permlab.tasks.ntk.table import MODES


@dataclass
class NtkConfig(EnsembleSettings):
    """`task=ntk`"""

    name: str = "ntk"
    mode: str = choice("law", MODES)
    """What is computed."""
