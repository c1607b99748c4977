"""Fixtures that every folder shares: the command, in this process or as installed, and public data from outside."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from copies import Copies

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))  # tests import the short forms of scripts by their names
DATA = Path(os.environ.get("PERMLAB_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return name -> folder of public test data; the test is skipped where it is absent."""

    def folder(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"needs the public data folder {name} under PERMLAB_DATA (see README, Adding to it)")
        return path

    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment without accounts, hubs, trackers or a terminal's size."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_", "HYDRA", "COLUMNS", "LINES"))}
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def installed(tmp_path: Path, environment: dict[str, str]) -> Command:
    """Return a function that runs the installed command in an empty folder: installed("task=spt", ...).

    A process of its own costs seconds: for what depends on one (a tracker, a fresh import).
    """
    command = Path(sys.executable).with_name("permlab")

    def run(*arguments: str, timeout: float = 240, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(command), *arguments],
            cwd=tmp_path,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="session")
def copies() -> Iterator[Copies]:
    with Copies() as run:
        yield run


@pytest.fixture
def permlab(tmp_path: Path, environment: dict[str, str], copies: Copies) -> Command:
    """Return what `installed` returns, in this process: the command's entry point with its folder and environment.

    With another PYTHONPATH a process that has imported that copy runs it, and keeps running for the next command.
    """
    from permlab.cli import main
    from permlab.runs import console

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        if "PYTHONPATH" in extra:
            return copies(list(arguments), tmp_path, {**environment, **extra})
        out, err = io.StringIO(), io.StringIO()
        folder = os.getcwd()
        console._console = None  # made for a stream and a width; every command starts with its own
        try:
            os.chdir(tmp_path)
            with (
                mock.patch.dict(os.environ, {**environment, **extra}, clear=True),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as ended,
            ):
                main(list(arguments))
        finally:
            os.chdir(folder)
            console._console = None
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def tiny() -> list[str]:
    """Return overrides that make an SPT run of about two seconds of training."""
    return [
        "dataset.people=6",
        "dataset.templates=2",
        "dataset.held_out=1",
        "task.train.epochs=10",
        "task.train.batch_size=8",
        "task.train.log_steps=5",
        "model.scratch.hidden_size=32",
        "model.scratch.layers=1",
        "model.scratch.intermediate_size=64",
        "hardware=cpu",
        "hardware.threads=1",
    ]


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and laid out, but not written as pictures: that costs more than many of these runs."""
    import matplotlib.pyplot as plt

    def lay_out(run, name, figure) -> None:
        figure.draw_without_rendering()
        plt.close(figure)

    monkeypatch.setattr("permlab.runs.run.Run.figure", lay_out)
