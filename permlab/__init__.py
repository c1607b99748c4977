"""permlab: a command-line laboratory for permutations in deep learning (`permlab --help`)."""

from permlab.version import __version__

__all__ = ["__version__"]
