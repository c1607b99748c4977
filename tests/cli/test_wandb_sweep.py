"""The example of a W&B sweep names keys, values and a metric that there are; its command line is permlab's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from permlab.compose import plan_jobs
from permlab.tasks import spt

FILE = Path(__file__).resolve().parents[2] / "scripts" / "wandb_sweep.yaml"


def values(parameter):
    """What the agent may draw: the listed values, or both ends."""
    return parameter.get("values") or [parameter["min"], parameter["max"]]


@pytest.mark.slow
def test_every_job_of_the_example_is_a_run():
    sweep = yaml.safe_load(FILE.read_text())
    assert sweep["metric"]["name"] in spt.HEADLINE
    assert sweep["command"][0] == "permlab" and sweep["command"][-1] == "${args_no_hyphens}"
    first = {key: values(parameter)[0] for key, parameter in sweep["parameters"].items()}
    for key, parameter in sweep["parameters"].items():
        for value in values(parameter):
            # As wandb's agent writes them: key=value, one argument each.
            arguments = [f"{name}={drawn}" for name, drawn in {**first, key: value}.items()]
            (job,) = plan_jobs([*sweep["command"][1:-1], *arguments], False).jobs
            found = job.config.to_container()
            for part in key.split("."):
                found = found[part]
            assert found == value
