"""The jobs of a sweep are checked once, quickly, and as Hydra composes them; checking many is not silent."""

from __future__ import annotations

import pytest

from permlab import cli, compose, config
from permlab.errors import UserError
from permlab.runs import console

SWEPT = {
    "values": ["task=ntk", "seed=1,2", "task.k=[5],[6,7]", "task.target=0.8,0.9"],
    "options and values": ["task=merge", "model=mlp,resnet20", "hardware=cpu,auto", "seed=0,3"],
    "a value below a mapping": ["task=spt", "task.train={epochs:3}", "task.train.batch_size=4,8"],
    "mappings": ["task=spt", "task.train={epochs:3},{batch_size:4}"],
    "one key twice": ["task=ntk", "seed=1,2", "seed=7"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEPT)
def test_jobs_are_what_hydra_composes(name):
    plan = compose.plan_jobs(SWEPT[name], True)
    assert len(plan.jobs) > 1
    for job in plan.jobs:
        assert job.config == config.build_config(compose.compose_one([*job.overrides]))


def test_a_job_that_is_wrong_is_named():
    with pytest.raises(UserError, match="seed"):
        compose.plan_jobs(["task=ntk", "seed=1,2,word"], True)
    with pytest.raises(UserError, match=r"task\.target"):
        compose.plan_jobs(["task=ntk", "task.target=0.8,7"], True)


def test_groups_are_composed_once_and_the_progress_is_told(monkeypatch, capsys, caplog):
    composed = []
    monkeypatch.setattr(console, "_console", None)
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    original = compose.compose_one
    monkeypatch.setattr(compose, "compose_one", lambda *given: composed.append(1) or original(*given))
    assert len(compose.plan_jobs(["task=ntk", "seed=range(0,30)"], True).jobs) == 30
    assert len(composed) <= 2
    # On the stream of whoever made the console first; in one process with other tests that was one of theirs.
    assert "checking jobs 30/30" in capsys.readouterr().out + caplog.text


def test_hydra_does_not_check_them_again(monkeypatch, tmp_path):
    from hydra.plugins.sweeper import Sweeper

    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda *_: pytest.fail("composed again"))
    seen = []
    cli.launch(["--multirun", "task=ntk", "seed=0,1", f"hydra.sweep.dir={tmp_path}"], lambda job: seen.append(job.seed))
    assert seen == [0, 1]
