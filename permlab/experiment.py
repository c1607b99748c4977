"""What an `experiment=` file says beside its keys: the claim, its rules, and how `make reproduce` runs it.

    permlab experiment=ntk/scaling          # the keys of the file, swept over as it says
    permlab ls experiments                  # all of them with claims and minutes
    make reproduce EXPERIMENT=ntk/scaling   # as `experiment.reproduce` says, then the report

The file in conf/experiment/ is the only place where an experiment is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from permlab.errors import UserError, check_choice, check_range
from permlab.rules import CLAIM_BY, SCALES, check_rules

SETS = ("quick", "full")
"""Sets of experiments: the reduced version of everything, and everything."""


@dataclass
class ReproductionRun:
    """One way to start an experiment."""

    keys: dict[str, Any] = field(default_factory=dict)
    """Keys beside those of the file; `{data}` stands for the folder of public data."""
    data: list[str] = field(default_factory=list)
    """What must be in the folder of public data; without it this run is left out, and said so."""
    minutes: float | None = None
    """Expected minutes on 2 CPU cores, where these keys change what the file says."""


@dataclass
class ReproductionConfig:
    """How `make reproduce` and the tests run an experiment."""

    order: int = 0
    """Place among the experiments of its task, which run one after another."""
    sets: list[str] = field(default_factory=lambda: ["full"])
    """quick | full, or both: `make reproduce-quick`, `make reproduce-all`"""
    runs: list[ReproductionRun] = field(default_factory=lambda: [ReproductionRun()])
    """Once as the file says, or once with each of these sets of keys."""
    tiny: dict[str, Any] | None = None
    """Keys with which a job takes seconds, for the test that every metric of the rules is measured; {}: it does."""


@dataclass
class ExperimentConfig:
    """What an `experiment=` file checks; empty in a plain run."""

    name: str | None = None
    claim: str | None = None
    """The claim it checks, in words."""
    claim_by: str = "paper"
    """paper | permlab: who claims it. What a source says is reproduced or not; what only we say holds or does not."""
    source: str | None = None
    """Paper and place."""
    acceptance: str | None = None
    """When the claim counts as reproduced, or as holding, in words with the numbers."""
    minutes: float | None = None
    """Expected minutes on 2 CPU cores."""
    sweep: dict[str, str] = field(default_factory=dict)
    """Hydra sweep syntax per key; turns the run into a multirun. Keys given on the command line win."""
    checks: list[str] = field(default_factory=list)
    """The acceptance rule for programs, all of which must hold: see `permlab.rules`."""
    scale: str = "paper"
    """paper | toy: what holds of a paper's claim on a toy is reported as toy scale only, never as reproduced."""
    published: str | None = None
    """The published number in words, only where its source is certain."""
    reproduce: ReproductionConfig = field(default_factory=ReproductionConfig)
    """For `make reproduce`; not recorded with a run."""


def check_experiment(experiment: ExperimentConfig, config: Mapping[str, Any]) -> None:
    """Refuse rules that cannot be read or name no key of `config`, and what `make reproduce` could not run.

    Raises:
        UserError: with one line that names the key.
    """
    check_choice("experiment.scale", experiment.scale, SCALES)
    check_choice("experiment.claim_by", experiment.claim_by, CLAIM_BY)
    if experiment.checks:
        check_rules(experiment.checks, config)
    reproduce = experiment.reproduce
    for name in reproduce.sets:
        check_choice("experiment.reproduce.sets", name, SETS)
    if not (reproduce.sets and reproduce.runs):
        raise UserError(
            "experiment.reproduce: sets and runs must not be empty; leave them out for full, as the file says"
        )
    for run in reproduce.runs:
        if run.minutes is not None:
            check_range("experiment.reproduce.runs.minutes", run.minutes, 0, open_interval=True)
        reads = [key for key, value in run.keys.items() if "{data}" in str(value)]
        if bool(reads) != bool(run.data):
            raise UserError(
                f"experiment.reproduce.runs: {', '.join(reads)} reads {{data}}; name the folder in data"
                if reads
                else f"experiment.reproduce.runs: data={run.data} is named and no key reads it from {{data}}"
            )
