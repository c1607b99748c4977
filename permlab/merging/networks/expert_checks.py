"""Whether fewer experts can be made of a network: `check_experts(ExpertOptions(kept=[4]), ["DIR"])`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from permlab.errors import UserError, check_range
from permlab.merging.networks.options import ExpertOptions
from permlab.models.checkpoints import open_checkpoint
from permlab.symmetry.table import SYMMETRIES

EXPERTS = 8
"""Of a network that is trained here."""
COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Where a configuration says how many experts a layer has."""


def check_experts(given: ExpertOptions, models: Sequence[str], prefix: str = "task.") -> None:
    """Check numbers and files; of networks the headers are read.

    Raises:
        UserError: naming the key and the remedy.
    """
    most = EXPERTS
    if given.corpus is not None and not list(Path(given.corpus).expanduser().glob("*.txt")):
        raise UserError(f"{prefix}experts.corpus={given.corpus} is no folder with .txt files; null generates text")
    if len(models) > 1:
        raise UserError(f"{prefix}study=experts merges the experts of one network, not of {len(models)}: give one")
    for path in models:
        opened = open_checkpoint(path)
        kind = str(opened.config.get("model_type"))
        if kind not in SYMMETRIES or not SYMMETRIES[kind].experts:
            able = ", ".join(name for name, row in SYMMETRIES.items() if row.experts)
            raise UserError(f"{path} is of model type '{kind}', which has no experts: give one of {able}")
        most = next((int(opened.config[key]) for key in COUNTS if key in opened.config), EXPERTS)
    for kept in (*given.kept, given.written):
        check_range(f"{prefix}experts.kept and written", kept, 1, most)
    if given.written not in given.kept:
        raise UserError(
            f"{prefix}experts.written={given.written} is none of {prefix}experts.kept={given.kept}: add it there"
        )
    for key in ("epochs", "sequences"):
        check_range(f"{prefix}experts.{key}", getattr(given, key), 0, open_interval=True)
    check_range(f"{prefix}experts.columns", given.columns, 0)
    for rank in [*given.ranks, *([given.rank] if given.rank is not None else [])]:
        check_range(f"{prefix}experts.rank and ranks", rank, 1)
