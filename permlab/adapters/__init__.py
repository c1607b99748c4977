"""LoRA adapters as collections of rank-one units: read, take apart, merge, write.

>>> from permlab.adapters import MergeRule, open_adapter, write_merge
>>> write_merge("merged", [open_adapter("A"), open_adapter("B")], MergeRule(method="lego", rank=16))
"""

from permlab.adapters.apply import applied
from permlab.adapters.baselines import TrimRule
from permlab.adapters.diagnostics import norm_ratio, seed_spread
from permlab.adapters.factors import (
    AdapterSource,
    Factors,
    MemoryAdapter,
    ModuleInfo,
    random_adapter,
    relative_difference,
)
from permlab.adapters.files import Adapter, open_adapter
from permlab.adapters.lego import LegoReport, LegoRule
from permlab.adapters.merge import METHODS, Merged, MergeRule, merge_adapters, plan_ranks
from permlab.adapters.writing import write_adapter, write_merge

__all__ = [
    "METHODS",
    "Adapter",
    "AdapterSource",
    "Factors",
    "LegoReport",
    "LegoRule",
    "MemoryAdapter",
    "MergeRule",
    "Merged",
    "ModuleInfo",
    "TrimRule",
    "applied",
    "merge_adapters",
    "norm_ratio",
    "open_adapter",
    "plan_ranks",
    "random_adapter",
    "relative_difference",
    "seed_spread",
    "write_adapter",
    "write_merge",
]
