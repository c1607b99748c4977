"""A job that a real Slurm requeues in the middle goes on in its directory, with the numbers of an undisturbed one."""

from __future__ import annotations

import sys

import pytest
from cluster_check import absent, disturbed
from private_slurm import private_slurm


@pytest.mark.slow
@pytest.mark.skipif(bool(absent("slurm")), reason=f"no Slurm: {absent('slurm')}")
def test_a_requeued_job_goes_on_in_its_directory(environment, tmp_path):
    with private_slurm() as around:
        own = {**around, **environment, "PYTHONPATH": ":".join(filter(None, sys.path))}
        said = disturbed(tmp_path, own, minutes=30, steps=150)
    assert said.startswith("same numbers, one directory per job"), said
