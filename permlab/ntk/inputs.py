"""Test inputs of the experiments: `draw_test_set(30, 2, "random", 1_000, 16, np.random.default_rng(0)).inputs`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from permlab.errors import check_range
from permlab.ntk.law import check_sizes
from permlab.ntk.process import all_binary_inputs
from permlab.ntk.table import TESTS

WHOLE_CLASS = 2_000
"""Classes with up to this many inputs are simulated whole, a test set being multinomial counts over them."""


@dataclass(frozen=True)
class TestSet:
    """Distinct binary inputs and how often each replicate draws them."""

    inputs: np.ndarray
    """bool (count, k)."""
    weights: torch.Tensor
    """float32 (replicates, count), rows sum to 1."""

    __test__ = False  # not a pytest class


def draw_test_set(k: int, ones: int, test: str, tests: int, replicates: int, rng: np.random.Generator) -> TestSet:
    """Test inputs of a task, for a number of replicates.

    Args:
        k: input size.
        ones: number of ones of the inputs; not used where every input counts.
        test: `single` (one input), `random` (`tests` draws with replacement, duplicates counted), `all` (2^k - 1
            inputs).
        tests: number of draws of a random test set.
        replicates: rows of weights; classes above `WHOLE_CLASS` inputs share one draw among all of them.
        rng: source of the draws.

    Raises:
        UserError: unknown `test`, sizes out of range, or `all` above k = 16.
    """
    row = TESTS.check("test", test)
    check_sizes(k, ones)
    found: TestSet = row.load()(k, ones, tests, replicates, rng)
    return found


def same_inputs(k: int, ones: int, test: str) -> bool:
    """Whether every test set of a task holds the same inputs, and only their weights are drawn."""
    return not TESTS[test].drawn or math.comb(k, ones) <= WHOLE_CLASS


# ---- targets of `table.TESTS` ----------------------------------------------------------------------------------------


def single_input(k: int, ones: int, tests: int, replicates: int, rng: np.random.Generator) -> TestSet:
    """One input with `ones` ones; outputs do not depend on where they stand."""
    return TestSet((np.arange(k) < ones)[None, :], torch.ones(replicates, 1))


def every_input(k: int, ones: int, tests: int, replicates: int, rng: np.random.Generator) -> TestSet:
    """All 2^k - 1 inputs, each once."""
    inputs = all_binary_inputs(k)
    # Equal weights: the accuracy is 1 exactly when all 2^k - 1 inputs are right at once, the O(k^2) question.
    return TestSet(inputs, torch.full((replicates, len(inputs)), 1.0 / len(inputs)))


def drawn_inputs(k: int, ones: int, tests: int, replicates: int, rng: np.random.Generator) -> TestSet:
    """`tests` inputs with `ones` ones, drawn with replacement as in the released experiment (arXiv 2502.16763)."""
    check_range("tests", tests, 1)
    if math.comb(k, ones) <= WHOLE_CLASS:
        inputs = np.zeros((math.comb(k, ones), k), dtype=bool)
        for row, chosen in enumerate(combinations(range(k), ones)):
            inputs[row, list(chosen)] = True
        # Draws with replacement seen as counts: all replicates share the inputs, and one covariance serves them all.
        counts = rng.multinomial(tests, np.full(len(inputs), 1.0 / len(inputs)), size=replicates)
        return TestSet(inputs, torch.from_numpy(counts / tests).float())
    # The places of the m smallest uniforms are a uniform subset; a sort of every row would cost more.
    draws = np.argpartition(rng.random((tests, k)), ones - 1, axis=1)[:, :ones]
    inputs = np.zeros((tests, k), dtype=bool)
    np.put_along_axis(inputs, draws, True, axis=1)
    inputs, counts = np.unique(inputs, axis=0, return_counts=True)
    return TestSet(inputs, torch.from_numpy(counts / tests).float().expand(replicates, -1))
