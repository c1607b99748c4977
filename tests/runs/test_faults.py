"""What the surroundings do to a run: full disks, removed folders, a terminal that goes away, foreign directories."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import types
from dataclasses import dataclass

import pytest

from permlab import registry
from permlab.config import Config, ExperimentConfig, HardwareConfig, NoneConfig, RunConfig, TrackerConfig, build_config
from permlab.errors import UserError
from permlab.runs import console, directory, execute
from permlab.storage import locks


@dataclass
class ToyConfig:
    name: str = "ntk"
    value: float = 1.0


@pytest.fixture
def toy(monkeypatch):
    """Return a function that makes `work(config, run)` the task."""

    def install(work):
        module = types.ModuleType("toy")
        module.MODELS = module.DATASETS = ("none",)
        module.HEADLINE = ()
        module.validate = module.plan = lambda config: {}
        module.run = work
        monkeypatch.setattr(registry, "task", lambda name: module)

    return install


@pytest.fixture
def start(tmp_path, toy):
    def run(work, **settings):
        toy(work)
        place = RunConfig(root=str(tmp_path / "outputs"), **settings)
        parts = (ToyConfig(), NoneConfig(), NoneConfig(), HardwareConfig(device="cpu"), TrackerConfig(name="none"))
        return execute.start(Config(*parts, place, ExperimentConfig(), 0))

    return run


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_second_process_cannot_resume_a_live_run(start, tmp_path):
    def work(config, run):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"), locks.hold(run.dir):
            pass
        assert locks.holder(run.dir).pid == os.getpid()

    done = start(work)
    assert done.status == "done" and locks.holder(done.directory) is None
    assert sorted(p.name for p in done.directory.iterdir() if p.name.startswith(".")) == []


def test_a_removed_run_directory_is_an_error_and_stays_removed(start):
    def work(config, run):
        shutil.rmtree(run.dir)
        run.table("numbers", [{"x": 1}])

    lost = start(work)
    assert lost.exit_code == 1 and "was removed or replaced" in lost.message
    outputs = lost if lost.directory is None else lost.directory
    assert not outputs.exists()

    def quiet(config, run):
        shutil.rmtree(run.dir)

    assert start(quiet).status == "failed"


def test_a_full_disk_still_says_how_the_run_ended(start, monkeypatch):
    from permlab.runs import run as module

    writing = module.write_json

    def full(path, value):
        if path.name == "result.json" and value["status"] == "failed" and (path.parent / module.RESERVE).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        writing(path, value)

    monkeypatch.setattr(module, "write_json", full)

    def work(config, run):
        assert (run.dir / module.RESERVE).stat().st_size == module.RESERVED_BYTES
        raise OSError(errno.ENOSPC, "No space left on device")

    failed = start(work)
    assert failed.exit_code == 1 and "No space left" in failed.message
    assert result(failed.directory)["status"] == "failed"


def test_a_disk_without_room_for_a_second_file_still_says_how_the_run_ended(start, monkeypatch):
    from permlab.storage import files

    beside = files.beside

    def no_room(path):
        if path.name == "result.json" and ended:
            raise OSError(errno.ENOSPC, "No space left on device")
        return beside(path)

    ended = []
    monkeypatch.setattr(files, "beside", no_room)
    failed = start(lambda config, run: ended.append(True) or 1 / 0)
    assert failed.exit_code == 1 and result(failed.directory)["status"] == "failed"


def test_a_result_that_cannot_be_written_at_all_is_no_traceback(start, monkeypatch):
    from permlab.runs import run as module

    writing = module.write_json

    def full(path, value):
        if path.name == "result.json" and value["status"] != "running":
            raise OSError(errno.ENOSPC, "No space left on device")
        writing(path, value)

    monkeypatch.setattr(module, "write_json", full)
    monkeypatch.setattr(module, "overwrite_json", full)
    failed = start(lambda config, run: None)
    assert failed.exit_code == 1 and "No space left" in failed.message
    assert result(failed.directory)["status"] == "running" and locks.holder(failed.directory) is None


def test_settings_that_were_changed_do_not_meet_an_old_checkpoint(start, toy):
    def stop(config, run):
        run.save_checkpoint({"step": 3})
        raise RuntimeError("stopped")

    path = start(stop).directory
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    with pytest.raises(UserError, match=r"config\.yaml was changed"):
        resume_toy(path)
    (path / "result.json").unlink()  # and when nothing tells, the checkpoint itself does
    toy(lambda config, run: run.load_checkpoint())
    assert "belongs to a run with other settings" in resume_toy(path).message


def resume_toy(path):
    """Resume with the schema of the toy task."""
    with pytest.MonkeyPatch.context() as patch:
        schemas = registry.schemas
        patch.setattr(registry, "schemas", lambda group: {"ntk": ToyConfig} if group == "task" else schemas(group))
        return execute.resume(path)


def test_a_resumed_run_lists_what_it_wrote_before_and_sweeps_up(start, toy):
    def stop(config, run):
        run.artifact("first.txt").write_text("x")
        run.artifact("never.txt")
        run.save_checkpoint({"step": 1})
        raise RuntimeError("stopped")

    path = start(stop).directory
    (path / "checkpoints" / ".state-000002.pt.0123abcd.tmp").write_text("half")
    toy(lambda config, run: run.artifact("second.txt").write_text("y") and None)
    assert resume_toy(path).status == "done"
    assert result(path)["artifacts"] == ["artifacts/first.txt", "artifacts/second.txt"]
    assert not list(path.rglob("*.tmp"))


def test_a_run_that_was_killed_when_all_was_done_is_tidied_up(start):
    path = start(lambda config, run: None).directory
    for name in (".reserve", "run.lock", "tables/.numbers.csv.0123abcd.tmp"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("")
    assert resume_toy(path).status == "skipped"
    assert not [p.name for p in path.rglob("*") if p.name.endswith((".tmp", ".reserve", ".lock"))]


def test_a_sweep_tidies_up_after_killed_ones_and_not_after_live_ones(tmp_path):
    from permlab.runs.sweep import open_sweep

    places = [tmp_path / "sweeps" / name for name in ("killed", "live")]
    for place in places:
        (place / "jobs").mkdir(parents=True)
        (place / "jobs" / ".00000.json.0123abcd.tmp").write_text("half")
        (place / "run.lock").write_text("")
    with locks.hold(places[1]), open_sweep(tmp_path) as sweep:
        assert locks.holder(sweep).pid == os.getpid()
        assert [len(list(place.rglob("*.tmp"))) for place in places] == [0, 1]
    assert not (sweep / "run.lock").exists() and not (places[0] / "run.lock").exists()


def test_a_run_that_was_killed_before_it_began_is_told_apart_and_started_again(start, tmp_path):
    path = tmp_path / "named"
    path.mkdir()
    (path / ".config.yaml.0123abcd.tmp").write_text("half")
    with pytest.raises(UserError, match=r"has no config\.yaml \(a run that was killed before it began"):
        execute.resume(path)
    assert start(lambda config, run: None, dir=str(path)).status == "done"
    assert not list(path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.yaml", "task: ${oc.env:HOME}", "plain data"),
        ("config.yaml", "task: [1\n", "cannot be resumed"),
        ("config.yaml", "[" * 3000, "deep"),
        ("config.yaml", "- 1", "not a mapping"),
        ("config.yaml", "a: &a [*a]", "alias"),
        ("config.yaml", None, "no regular file"),
        ("result.json", "[1, 2]", ""),
        ("result.json", '{"seconds": "x", "artifacts": {"a": 1}, "metrics": []}', ""),
    ],
)
def test_a_foreign_run_directory_is_one_line_or_runs(start, toy, name, text, said):
    def stop(config, run):
        raise RuntimeError("stopped")

    path = start(stop).directory
    (path / name).unlink()
    os.mkfifo(path / name) if text is None else (path / name).write_text(text)
    toy(lambda config, run: None)
    if not said:
        assert resume_toy(path).status == "done"
        return
    with pytest.raises(UserError, match=said) as caught:
        resume_toy(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_values_of_a_configuration_are_not_resolved_again():
    with pytest.raises(UserError, match="plain data"):
        build_config({"run": {"name": "${oc.env:HOME}"}})


@pytest.mark.parametrize("place", ["file", "file/x", "dangling", "dangling/x", "a" * 300, "deep/" + "b" * 300])
def test_places_that_cannot_be_written_are_refused_before_anything_runs(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be written") as caught:
        directory.check_writable(tmp_path / place)
    assert len(str(caught.value)) < 300
    directory.check_writable(tmp_path / "new" / "deep")


class Broken:
    """A standard output whose reader is gone, whose disk is full, or that is closed."""

    encoding = "ascii"

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return False

    def fileno(self):
        raise ValueError


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(errno.ENOSPC, "full"), ValueError("I/O operation on closed file")]
)
def test_the_terminal_is_a_mirror(start, monkeypatch, error):
    monkeypatch.setattr(console, "_console", None)
    monkeypatch.setattr("sys.stdout", Broken(error))

    def work(config, run):
        run.say("hello")
        run.table("numbers", [{"x": 1}])

    done = start(work)
    assert done.status == "done" and "hello" in (done.directory / "run.log").read_text()


@pytest.mark.parametrize("columns", ["0", "", "-3", "wide"])
def test_a_width_that_is_none_is_not_taken(monkeypatch, columns):
    monkeypatch.setattr(console, "_console", None)
    monkeypatch.setenv("COLUMNS", columns)
    assert console.console().width == console.PLAIN_WIDTH


def test_letters_that_the_terminal_lacks_are_escaped(monkeypatch, tmp_path):
    with (tmp_path / "out.txt").open("w", encoding="ascii") as out:
        monkeypatch.setattr("sys.stdout", out)
        console.Mirror().write("größe\n")
    assert (tmp_path / "out.txt").read_text() == "gr\\xf6\\xdfe\n"


class Terminal(io.StringIO):
    """A terminal that keeps what it is shown."""

    def isatty(self):
        return True


def test_a_progress_bar_on_a_terminal_does_not_print_into_itself(start, monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(console, "_console", None)
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("TERM", "xterm")

    def work(config, run):
        with run.progress("counting", 3) as bar:
            for done in range(1, 4):
                bar.update(done, loss=0.5)
                run.say(f"at {done}")
                print("from somebody else")

    assert start(work).status == "done"
    assert "at 3" in shown.getvalue() and shown.getvalue().count("from somebody else") == 3


def test_what_files_say_does_not_act_on_the_terminal(start, monkeypatch, capsys):
    monkeypatch.setattr(console, "_console", None)
    hostile = "a\x1b]0;title\x07\u202e" + "x" * 1_000_000

    def work(config, run):
        run.say(f"read {hostile[:10]}")
        run.table("numbers", [{hostile[:10]: hostile[:12], "y": 1}])
        console.LOGGER.warning("odd: %s", hostile)
        raise ValueError(hostile)

    failed = start(work)
    log = (failed.directory / "run.log").read_text()
    out = capsys.readouterr().out
    for text in (out, log, failed.message, result(failed.directory)["error"]):
        assert "\x1b" not in text and "\u202e" not in text and "\\x1b" in text
    assert max(map(len, out.splitlines())) <= 300 and len(log) < 5000
    assert len(failed.message) <= 300 and "Traceback" in log


def test_a_run_under_a_name_of_undecodable_bytes_goes_on(start, toy, tmp_path):
    def stop(config, run):
        run.table("numbers", [{"x": "\ud800"}])
        raise RuntimeError("stopped")

    path = tmp_path / "x\udcff"
    assert start(stop, dir=str(path)).status == "failed"
    toy(lambda config, run: None)
    assert resume_toy(path).status == "done"
