"""Parts worked on by several processes give the numbers of one, bit for bit; stops and lost processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from permlab import processes
from permlab.errors import DivergedError, Interrupted
from permlab.ntk import descent, finite
from permlab.ntk.cases import Case, CaseTraining
from permlab.ntk.settings import EnsembleSettings
from permlab.probes import Layout, Recipe, Training, Transformer
from permlab.processes import ProcessLostError, apart, divide, end, in_order, side_by_side


@pytest.fixture
def two():
    divide(2)
    yield
    end()


def square(number: int) -> int:
    return number * number


def whose(number: int) -> tuple[int, int]:
    time.sleep(0.2)
    return os.getpid(), torch.get_num_threads()


def fail(error: Exception) -> None:
    raise error


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_stop(number: int) -> bool:
    until = time.monotonic() + 60
    while not processes.stopping() and time.monotonic() < until:
        time.sleep(0.01)
    return processes.stopping()


@pytest.mark.slow
def test_results_come_in_the_order_of_items_from_other_processes(two):
    done: list[int] = []
    assert side_by_side(square, range(7), float, done.append) == [n * n for n in range(7)]
    assert done == list(range(1, 8))
    with in_order(whose, range(6)) as found:
        workers = dict(found)
    assert len(workers) == 2 and os.getpid() not in workers
    assert set(workers.values()) == {1}
    assert list(apart(square, [3, 1, 2])) == [9, 1, 4]
    with pytest.raises(DivergedError, match="too large; lower it"):
        list(apart(fail, [DivergedError("too large", "lower it")]))
    with pytest.raises(Interrupted) as stopped:
        list(apart(fail, [Interrupted(15)]))
    assert stopped.value.signum == 15
    assert list(apart(wait_for_stop, [1, 2], lambda: True)) == [True, True]
    with pytest.raises(ProcessLostError, match="one of the 2 processes is gone"):
        list(apart(die, [1]))


def test_without_processes_threads_of_this_one_work():
    assert processes.count() == 1
    assert side_by_side(square, range(3), float, lambda _: None) == [0, 1, 4]
    with in_order(whose, range(2)) as found:
        assert {who for who, _ in found} == {os.getpid()}


def small_chunks() -> None:
    finite.ELEMENTS = descent.ELEMENTS = 2**12  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["exact", "gradient_descent", "linearized"])
def test_networks_of_several_processes_are_those_of_one(monkeypatch, solver):
    for module in (finite, descent):
        monkeypatch.setattr(module, "ELEMENTS", 2**12)
    settings = EnsembleSettings(k=[4], width=[64], members=20, solver=solver, epochs=30, replicates=0)

    def row() -> tuple[int, dict[str, object]]:
        case, rounds = CaseTraining(settings, Case(4, 2, 64), seed=3), 0
        while not case.finished:
            case.advance()
            rounds += 1
        return rounds, case.row() | {"seconds_per_network": 0}

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        many, alone = row()
        divide(2, small_chunks)
        few, shared = row()
    finally:
        end()
        torch.set_num_threads(before)
    assert few <= many / 2 + 1
    assert shared == alone


@pytest.mark.slow
@pytest.mark.parametrize("patience", [None, 20])
def test_seeds_of_several_processes_are_those_of_one(patience):
    recipe = Recipe(
        steps=60, batch=8, test_every=10, test_examples=64, patience=patience, restarts=1 if patience else 0
    )
    model = Transformer(Layout.variant("scratch", n=3))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = Training(model, recipe, [0, 1, 2, 3, 4])
        alone.run()
        divide(2)
        shared = Training(model, recipe, [0, 1, 2, 3, 4])
        shared.run()
    finally:
        end()
        torch.set_num_threads(before)
    assert torch.equal(alone.weights, shared.weights)
    assert [vars(test) | {"seconds": 0} for test in alone.curve] == [
        vars(test) | {"seconds": 0} for test in shared.curve
    ]
    assert alone.attempts == shared.attempts


TASKS = {
    "merge": ["task=merge", "dataset=digits", "model.width=8", "task.train.epochs=1", "task.pairs=3"],
    "ntk": ["task=ntk", "task.mode=train", "task.k=[4]", "task.width=[64]", "task.members=12", "task.replicates=0"],
    "law": ["task=ntk", "task.k=[5,6,7]", "task.replicates=20"],
    "probe": ["task=inverse_permutation", "task.n=3", "task.seeds=4", "task.train.steps=40", "task.train.batch=8"],
}


def tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Every table but what depends on the clock."""
    found = {}
    for path in sorted((folder / "tables").glob("*.csv")):
        with path.open(newline="") as file:
            found[path.name] = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_run_on_two_processes_has_the_tables_of_one(permlab, tmp_path, name):
    given = [*TASKS[name], "hardware=cpu", "hardware.threads=1"]
    for number in (1, 2):
        ended = permlab(*given, f"run.dir={number}", f"hardware.processes={number}")
        assert ended.returncode == 0, ended.stdout + ended.stderr
    first, second = tmp_path / "1", tmp_path / "2"
    assert tables(first) == tables(second) != {}
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    assert results[0]["fingerprint"] == results[1]["fingerprint"]
    for key in ("artifacts", "warnings"):
        assert sorted(results[0][key]) == sorted(results[1][key])


def command(*words: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_"))}
    environment = kept | {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "permlab", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stop_or_a_lost_process_leaves_what_is_done(permlab, tmp_path, number):
    """SIGTERM to the run, or SIGKILL to one of its processes: what there is stays, and is gone on with by one."""
    given = [*TASKS["merge"][:-1], "task.pairs=6", "hardware=cpu", "hardware.threads=1"]
    assert permlab(*given, "run.dir=1").returncode == 0
    folder = tmp_path / "2"
    running = command(*given, f"run.dir={folder}", "hardware.processes=2")
    until = time.monotonic() + 240
    while not list(folder.glob("checkpoints/state-*.pt")) and time.monotonic() < until:
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.02)
    helpers = [each for each in psutil.Process(running.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    assert len(helpers) == 2
    (psutil.Process(running.pid) if number == signal.SIGTERM else helpers[0]).send_signal(number)
    said = running.communicate(timeout=240)[0]
    result = json.loads((folder / "result.json").read_text())
    if number == signal.SIGTERM:
        assert (running.returncode, result["status"]) == (143, "interrupted"), said
    else:
        assert (running.returncode, result["status"]) == (1, "failed"), said
        assert "one of the 2 processes is gone" in result["error"]
    assert not [each for each in helpers if each.is_running()]
    ended = permlab("resume", str(folder), "hardware.processes=1")
    assert ended.returncode == 0, ended.stdout
    assert tables(folder) == tables(tmp_path / "1")
