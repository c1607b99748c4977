"""The steps of weight matching, each with its barrier and alignment: `trace(subject)["trace"]`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from permlab.matching.cost import CostBuilder
from permlab.matching.weight import Descent, squared_norm
from permlab.merging.studies.lmc.subject import Subject, Tables
from permlab.symmetry import Permutation, Spec


def descent_steps(spec: Spec, a: Any, b: Any, seed: int, max_sweeps: int = 50) -> Iterator[tuple[str, Permutation]]:
    """(group just solved, permutation so far) of weight matching from the identity, step by step."""
    generator = torch.Generator().manual_seed(seed)
    descent = Descent(CostBuilder(spec, a, b), generator, 1e-9, time.perf_counter())
    permutation = spec.identity()
    objective = squared_norm(spec, a, b, permutation)
    yield "", dict(permutation)
    groups = list(descent.builder.groups)
    for _ in range(max_sweeps):
        moved = False
        for name in (groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()):
            gained = descent.step(name, permutation, objective)
            if gained:
                objective, moved = objective - 2 * gained, True
                yield name, dict(permutation)
        if not moved:
            return


def trace(subject: Subject) -> Tables:
    """Barrier, L2 reduction and R along weight matching as published: from the identity, one group a step."""
    rows = []
    for step, (group, permutation) in enumerate(descent_steps(subject.spec, *subject.states[:2], subject.seed)):
        measured = {**subject.alignment(permutation), **subject.barriers(permutation)}
        rows.append({"pair": subject.pair, "step": step, "group": group, **measured})
    return {"trace": rows}
