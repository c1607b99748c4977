"""Configuration of `task=ntk`: the library's settings and the mode."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.ntk.settings import EnsembleSettings


@dataclass
class NtkConfig(EnsembleSettings):
    """`task=ntk`"""

    name: str = "ntk"
    mode: str = "law"
    """law (closed form) | sample (ensembles drawn from the Gaussian process) | train (real finite networks)"""
