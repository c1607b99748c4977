"""The version, alone in a file, so that `permlab --version` imports nothing."""

__version__ = "0.1.0"
