"""Merged ranks where none is asked for: `reference([4, 8], MergeRule())` -> 6.

Each function takes the ranks of the adapters that have a module, and the rule; rows of `LORA_METHODS` name one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from permlab.adapters.merge_rule import MergeRule, reference_rank


def pooled(ranks: Sequence[int], rule: MergeRule) -> int:
    """All ranks together: nothing has to be cut."""
    return sum(ranks)


def largest(ranks: Sequence[int], rule: MergeRule) -> int:
    """The largest rank, so that the merge is as large as the largest input."""
    return max(ranks)


def reference(ranks: Sequence[int], rule: MergeRule) -> int:
    """The reference rank r of LEGO, so that sqrt(r / k) is 1."""
    # A reference rank given as a number may exceed the pool, which has no more clusters than units.
    return max(1, min(sum(ranks), round(reference_rank(ranks, rule.reference_rank))))
