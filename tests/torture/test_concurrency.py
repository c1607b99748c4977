"""Many processes in one folder: the short form of scripts/torture_concurrency.py.

python scripts/torture_concurrency.py       # the long form: 50 starts at once
"""

from __future__ import annotations

import random

import forked
import pytest
import torture_concurrency
from tally import Tally


@pytest.mark.slow
def test_runs_beside_each_other_are_as_if_alone(tmp_path):
    forked.preload([torture_concurrency.TASK])
    tally = Tally("concurrency")
    torture_concurrency.everything(tally, tmp_path, starts=8, tries=2, draws=random.Random(0))
    assert tally.failures == [] and len(tally.tried) == 9
