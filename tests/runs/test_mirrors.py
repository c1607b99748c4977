"""Trackers read back with their own libraries; several at once; what fails or hangs costs a warning and seconds."""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from pathlib import Path

import pytest

from permlab.config import build_config
from permlab.errors import UserError
from permlab.runs import execute
from permlab.runs.trackers.mirror import Mirror, Mirrors, NullTracker
from permlab.runs.trackers.naming import flat
from permlab.runs.trackers.opening import keep_artifacts, open_trackers
from permlab.tracking import TRACKERS, TrackerConfig, TrackerRow

SMALL = {"name": "ntk", "k": [3, 5], "networks": [20], "replicates": 5, "tests": 20}
NONE = {"name": "none", "kind": "none"}


def configured(root: Path, *names: str, **tracker):
    return build_config(
        {"task": SMALL, "model": NONE, "dataset": NONE, "hardware": {"device": "cpu", "threads": 1},
         "run": {"root": str(root)}, "tracker": {"mirrors": dict.fromkeys(names, True), "mode": "offline", **tracker}}
    )  # fmt: skip


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A finished run directory with a table, a figure and a model."""
    from matplotlib.figure import Figure

    for folder in ("tables", "figures", "artifacts/model"):
        (tmp_path / "run" / folder).mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("seed: 0\n")
    (tmp_path / "run/tables/sizes.csv").write_text("k,n\n3,2\n")
    (tmp_path / "run/artifacts/model/model.safetensors").write_bytes(b"weights")
    Figure().savefig(tmp_path / "run/figures/curve.png")
    return tmp_path / "run"


def fill(tracker, run_dir: Path, exit_code: int = 0) -> None:
    """What a run says to its tracker."""
    for step in (10, 20):
        tracker.log({"step": step, "loss": 1 / step, "none": None}, step)
    tracker.table("sizes", [{"k": 3, "n": 2}])
    tracker.figure("curve", run_dir / "figures/curve.png")
    tracker.summary({"accuracy": 0.75})
    tracker.artifact("tables", [run_dir / "tables/sizes.csv"], "tables")
    tracker.artifact("model", [run_dir / "artifacts/model"], "model")
    tracker.finish(exit_code)


@pytest.mark.slow
def test_tensorboard_reads_what_was_written(run_dir):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fill(open_trackers(configured(run_dir, "tensorboard"), run_dir), run_dir)
    found = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert [(e.step, pytest.approx(e.value)) for e in found.Scalars("loss")] == [(10, 0.1), (20, 0.05)]
    assert [e.value for e in found.Scalars("final/accuracy")] == [0.75] and "none" not in found.Tags()["scalars"]
    (picture,) = found.Images("figures/curve")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert "| 3 | 2 |" in texts["tables/sizes/text_summary"] and "task.replicates" in texts["config/text_summary"]
    assert texts["status/text_summary"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("last", [20, -1])
def test_steps_that_a_resumed_run_logs_again_stand_once_in_tensorboard(run_dir, last):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator  # as the pages read
    from tensorboard.util.tensor_util import make_ndarray

    for resumed in (False, True):
        tracker = open_trackers(configured(run_dir, "tensorboard"), run_dir)
        if resumed:
            tracker.rewind(last)
        for step in range(0, 40, 10):
            if not resumed or step > last:
                tracker.log({"step": step, "loss": step / 10}, step)
        tracker.finish(0 if resumed else 143)
    found = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    seen = [(event.step, float(make_ndarray(event.tensor_proto))) for event in found.Tensors("loss")]
    assert seen == [(0, 0.0), (10, 1.0), (20, 2.0), (30, 3.0)]
    assert len(found.Tensors("config/text_summary")) == 1


@pytest.mark.slow
def test_mlflow_reads_what_was_written(run_dir):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    config = configured(run_dir, "mlflow", tags=["mine"])
    fill(open_trackers(config, run_dir), run_dir)
    client = MlflowClient(tracking_uri=(run_dir / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("permlab").experiment_id])
    assert run.info.status == "FINISHED" and run.data.metrics == {"loss": 0.05, "accuracy": 0.75}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(10, 0.1), (20, 0.05)]
    assert run.data.params["task.replicates"] == "5" and run.data.tags["mine"] == "true"
    assert set(run.data.params) >= {key for key, _ in flat(config.to_container())}
    kept = {file.path for part in ("", "tables", "figures", "artifacts/model")
            for file in client.list_artifacts(run.info.run_id, part)}  # fmt: skip
    assert {"config.yaml", "tables/sizes.csv", "figures/curve.png", "artifacts/model/model.safetensors"} <= kept
    # The part of a run after a resume goes on in the same run of the store, and may end otherwise.
    again = open_trackers(config, run_dir)
    again.rewind(10)
    again.log({"loss": 0.05}, 20)  # once more, the same
    again.log({"loss": 0.01}, 30)
    again.finish(143)
    (run,) = client.search_runs([run.info.experiment_id])
    assert run.info.status == "KILLED" and run.data.metrics["loss"] == 0.01
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 3


@pytest.mark.slow
def test_the_jobs_of_a_sweep_share_a_store_and_a_tag(tmp_path):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    sweep = tmp_path / "sweeps/s1"
    for number in range(2):
        config = configured(tmp_path, "mlflow")
        config.run.sweep = str(sweep)
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / "config.yaml").write_text("")
        open_trackers(config, run).finish(0)
    client = MlflowClient(tracking_uri=(sweep / "mlruns").as_uri())
    (experiment,) = [each for each in client.search_experiments() if each.name == "permlab"]
    assert len(client.search_runs([experiment.experiment_id], "tags.`permlab.sweep` = 's1'")) == 2


def records(path: Path):
    """Yield the records of W&B's offline file: LevelDB's log format after 7 bytes, messages of W&B's own protocol."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no header fits into the rest of a block
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_the_offline_copy_of_wandb_holds_tables_and_artifacts(run_dir, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    fill(open_trackers(configured(run_dir, "wandb", patience=60.0), run_dir), run_dir)
    (file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    found: list = []
    until = time.monotonic() + 20  # its writer closes the file a moment after the run is finished
    while not (found and found[-1].HasField("exit")) and time.monotonic() < until:
        time.sleep(0.05)
        found = list(records(file))
    artifacts = {record.artifact.type: record.artifact for record in found if record.HasField("artifact")}
    artifacts |= {r.request.log_artifact.artifact.type: r.request.log_artifact.artifact
                  for r in found if r.HasField("request") and r.request.HasField("log_artifact")}  # fmt: skip
    assert set(artifacts) >= {"model", "tables"}, [record.WhichOneof("record_type") for record in found]
    (entry,) = artifacts["model"].manifest.contents
    assert entry.path == "model.safetensors" and Path(entry.local_path).read_bytes() == b"weights"
    items = [item for record in found if record.HasField("history") for item in record.history.item]
    assert {"loss", "tables/sizes", "figures/curve"} <= {item.nested_key[0] for item in items}
    assert found[-1].exit.exit_code == 0


@pytest.mark.slow
def test_several_at_once_by_command_line_and_resume(permlab, tmp_path, monkeypatch):
    for name in ("tensorboard", "mlflow"):
        pytest.importorskip(name)
    keys = ["task=ntk", "task.k=[3,5]", "task.networks=[20]", "task.replicates=5", "task.tests=20"]
    done = permlab(*keys, "tracker=[tensorboard,mlflow]", "run.dir=run", "hardware=cpu", "hardware.threads=1")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("run/tensorboard/events*")) and list(
        tmp_path.glob("run/mlruns/*/*/metrics/ensemble_size")
    )
    result = json.loads((tmp_path / "run/result.json").read_text())
    (tmp_path / "run/result.json").write_text(json.dumps({**result, "status": "interrupted"}))
    assert permlab("resume", "run").returncode == 0
    assert len(list(tmp_path.glob("run/tensorboard/events*"))) == 2
    assert len(list(tmp_path.glob("run/mlruns/*/*/metrics/ensemble_size"))) == 1
    # A list is one value of a sweep.
    swept = permlab("-m", *keys, "tracker=[none,tensorboard],none", "seed=1", "hardware=cpu", "hardware.threads=1")
    assert swept.returncode == 0 and len(list(tmp_path.glob("outputs/ntk/*"))) == 2
    assert len(list(tmp_path.glob("outputs/ntk/*/tensorboard"))) == 1
    refused = permlab(*keys, "tracker=[none,tensorbord]")
    assert refused.returncode == 2 and "did you mean 'tensorboard'" in refused.stderr


def test_old_configurations_name_one_tracker():
    assert TrackerConfig(name="wandb").names == ["wandb"] and TrackerConfig(name="none").names == []
    assert TrackerConfig(mirrors={"wandb": False, "mlflow": True}).names == ["mlflow"]
    assert TrackerConfig(name="none", mirrors={"wandb": True}).names == []


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_only_the_first_process_mirrors(run_dir, monkeypatch, name):
    config = configured(run_dir, "tensorboard")
    monkeypatch.setenv(name, "1")
    before = sorted(run_dir.rglob("*"))
    assert isinstance(open_trackers(config, run_dir), NullTracker)
    assert sorted(run_dir.rglob("*")) == before


def test_a_missing_package_is_refused_with_its_extra(permlab, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "mlflow" else real(name, *more)
    )
    for arguments in (
        ["tracker=mlflow"],
        ["-m", "seed=0,1", "tracker=[none,mlflow]"],
        ["tracker=mlflow", "run.dry_run=true"],
    ):
        done = permlab("task=ntk", *arguments)
        assert done.returncode == 2 and "pip install 'permlab[mlflow]'" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


class Broken(NullTracker):
    """Fails, or hangs, in every call."""

    hangs = 0.0

    def log(self, metrics, step):
        time.sleep(self.hangs)
        raise RuntimeError("the server is away")

    table = summary = figure = log

    def finish(self, exit_code):
        time.sleep(self.hangs)
        raise SystemExit(3)


class BrokenKind:
    wanted = staticmethod(lambda config: True)
    prepare = staticmethod(lambda config: None)
    open = staticmethod(lambda config, run_dir: Broken())


class Sound(NullTracker):
    """Hears names and how it ended."""

    heard: list = []  # noqa: RUF012

    def table(self, name, rows):
        self.heard.append(name)

    def finish(self, exit_code):
        self.heard.append(exit_code)


class SoundKind(BrokenKind):
    open = staticmethod(lambda config, run_dir: Sound())


def test_a_tracker_that_raises_warns_once_and_fails_no_run(tmp_path, monkeypatch):
    for name, kind in (("broken", "BrokenKind"), ("sound", "SoundKind")):
        row = TrackerRow(name, "", label=name.title(), target=f"{__name__}:{kind}")
        monkeypatch.setitem(TRACKERS._own, name, row)
    done = execute.start(configured(tmp_path, "broken", "sound"))
    assert done.status == "done" and Sound.heard[-1] == 0 and "ensemble_size" in Sound.heard
    said = (done.directory / "run.log").read_text()
    assert said.count("Broken:") == 1 and "the server is away; metrics.jsonl has everything" in said


def test_trackers_that_hang_cost_their_patience_in_all(caplog, monkeypatch):
    logger = logging.getLogger("permlab")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(Broken, "hangs", 5.0)
    began = time.monotonic()
    slow_start = Mirror("Slow", lambda: time.sleep(5.0) or Broken())
    mirrors = Mirrors([Mirror("First", Broken), Mirror("Second", Broken), slow_start], 0.4)
    for step in range(1000):
        mirrors.log({"loss": 1.0}, step)
    mirrors.finish(0)
    assert 0.3 < time.monotonic() - began < 2.0
    for name in ("First", "Second", "Slow"):
        assert f"{name} did not finish within the 0.4 s of tracker.patience" in caplog.text


def test_what_a_library_takes_at_exit_is_kept_back_from_its_patience(monkeypatch):
    monkeypatch.setattr(Broken, "hangs", 5.0)
    began = time.monotonic()
    Mirrors([Mirror("First", Broken), Mirror("Second", Broken, at_exit=0.75)], 4.0).finish(0)
    assert 0.9 < time.monotonic() - began < 3.0
    assert TRACKERS["wandb"].at_exit > 0


def test_what_is_handed_over_and_what_is_too_large(run_dir, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("permlab"), "propagate", True)
    seen = []

    class Keeper(Mirrors):
        def artifact(self, name, files, kind):
            seen.append((name, kind))

    (run_dir / "artifacts/notes.json").write_text("{}")
    keeper = Keeper([], 0.0)
    keep_artifacts(configured(run_dir), run_dir, keeper)
    assert seen == []
    keep_artifacts(configured(run_dir, artifacts=True), run_dir, keeper)
    assert seen == [("tables", "tables"), ("model", "model"), ("notes.json", "files")]
    with (run_dir / "artifacts/model/model.safetensors").open("wb") as large:
        large.truncate(101 * 10**6)
    keep_artifacts(configured(run_dir, artifacts=True), run_dir, keeper)
    assert seen[3:] == [("tables", "tables"), ("notes.json", "files")] and "tracker.artifacts_mb=102" in caplog.text


def test_a_store_with_a_password_is_refused(tmp_path):
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD"):
        configured(tmp_path, "mlflow", uri="https://me:hunter2@store.example")


@pytest.mark.slow
def test_an_address_that_hangs_is_left_alone(run_dir, monkeypatch):
    pytest.importorskip("mlflow")
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = configured(run_dir, "mlflow", uri=uri, mode="auto", patience=1.0)
        began = time.monotonic()
        fill(open_trackers(config, run_dir), run_dir)
        assert time.monotonic() - began < 5.0
    assert not (run_dir / "mlflow.json").exists() and not (run_dir / "mlruns").exists()


def stalled(method: str, path: str, body: bytes) -> bytes | None:
    """Answer as a server that starts a run of W&B and never answers again."""
    project = {"id": "p", "name": "permlab", "entity": {"id": "e", "name": "me"}}
    bucket = {"id": "x", "name": "r", "displayName": "r", "config": "{}", "summaryMetrics": "{}", "project": project}
    counts = {"historyLineCount": 0, "eventsLineCount": 0, "logLineCount": 0}
    known = {
        b"__typename }": {"__typename": "Query"},
        b"UpsertBucket": {"upsertBucket": {"bucket": {**bucket, **counts, "sweepName": None}, "inserted": True}},
        b"OrganizationCoreWeave": {"entity": None},
    }
    found = next((answer for key, answer in known.items() if key in body and "graphql" in path), None)
    return None if found is None else json.dumps({"data": found}).encode()


@pytest.mark.slow
def test_a_server_that_stalls_after_the_start_costs_its_patience_with_the_exit(installed, tmp_path, loopback):
    keys = ["task=ntk", "task.k=[3]", "task.replicates=0", "hardware=cpu", "hardware.threads=1"]
    began = time.monotonic()
    assert installed(*keys, "tracker=none").returncode == 0
    without = time.monotonic() - began
    server = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": loopback(stalled)}
    began = time.monotonic()
    done = installed(*keys, "tracker=wandb", "run.dir=run", **server)
    took = time.monotonic() - began
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run/wandb.json").read_text())["mode"] == "online"
    assert "tracker.patience" in done.stdout, done.stdout
    assert took - without < 20, (took, without)  # ten of patience, exit included, and what importing W&B takes
