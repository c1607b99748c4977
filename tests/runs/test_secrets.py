"""Passwords and keys are not written down: refused where they would decide a result, blotted in labels."""

from __future__ import annotations

import json

import pytest

from permlab.config import build_config
from permlab.errors import UserError
from permlab.text.assistant_server import completions_url

KEY = "hf_" + "a1B2" * 6


def settings(**parts):
    plain = {
        "task": {"name": "ntk", "k": [3]},
        "model": {"name": "none", "kind": "none"},
        "dataset": {"name": "none", "kind": "none"},
        "hardware": {"device": "cpu"},
        "tracker": {"name": "none"},
    }
    for key, value in parts.items():
        plain[key] = {**plain.get(key, {}), **value}
    return plain


@pytest.mark.parametrize(
    "address",
    ["https://user:hunter2@host/v1", "https://hunter2@host", "https://host/v1?code=hunter2", "http://h/#hunter2"],
)
def test_an_address_with_more_than_an_address_is_refused_with_the_remedy(address):
    with pytest.raises(UserError, match=r"task\.segmenter\.api_key_env=NAME") as caught:
        completions_url(address, "task.segmenter.base_url")
    assert "hunter2" not in str(caught.value)


def test_a_key_that_would_decide_the_result_is_refused_by_the_name_of_its_setting():
    segmenter = {"name": "llm", "base_url": f"http://h/v1?api_key={KEY}", "model": "m"}
    plain = settings(task={"name": "spt", "segmenter": segmenter})
    del plain["task"]["k"]
    plain["model"] = {"name": "x", "kind": "causal_lm"}
    plain["dataset"] = {"name": "people", "kind": "people"}
    with pytest.raises(UserError, match=r"task\.segmenter\.base_url holds a password or a key") as caught:
        build_config(plain)
    assert KEY not in str(caught.value)


@pytest.mark.slow
def test_labels_are_blotted_wherever_they_are_written(permlab, tmp_path):
    done = permlab("task=ntk", "task.k=[3]", "hardware=cpu", "tracker=none", f"run.name={KEY}", "run.dir=out",
                   f"tracker.group='https://u:{KEY}@host'")  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []
    assert json.loads((tmp_path / "out" / "result.json").read_text())["name"] == "***"
    assert KEY not in done.stdout + done.stderr
    (tmp_path / "out" / "result.json").write_text(
        (tmp_path / "out" / "result.json").read_text().replace('"done"', '"interrupted"')
    )
    assert permlab("resume", "out").returncode == 0


@pytest.mark.slow
def test_keys_in_the_overrides_of_a_sweep_are_blotted(permlab, tmp_path):
    done = permlab("-m", "task=ntk", "task.k=[3]", "hardware=cpu", "tracker=none", f"run.name={KEY},b")
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert len(files) > 4 and [path.name for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in done.stdout + done.stderr
