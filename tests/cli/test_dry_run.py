"""A dry run tells the truth: the whole plan, then `ready` or why not; the run itself is refused for the same reason."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from permlab import hardware, shipped
from permlab.compose import plan_jobs
from permlab.errors import UserError
from permlab.hardware import HardwareConfig, check_device, cuda_devices, size_text
from permlab.models.availability import check_folder, explain_loading
from permlab.runs.readiness import distinct, examine, refuse
from permlab.storage import hub
from permlab.storage.deadline import within

HEAVY = ("torch", "transformers", "wandb", "numpy", "peft")


def no_gpu() -> bool:
    return cuda_devices() == 0


@pytest.fixture
def files(tmp_path):
    """Files that look right until somebody reads them."""
    good = [json.dumps({"text": f"Ada{n} leads Brindle{n}."}) for n in range(600)]
    (tmp_path / "bad.jsonl").write_text("\n".join([*good, '{"text": 1}']) + "\n")
    (tmp_path / "good.jsonl").write_text("\n".join(good) + "\n")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "cut").mkdir()
    for name, text in (("config.json", "{}"), ("tokenizer.json", '{"version": ')):
        (tmp_path / "cut" / name).write_text(text)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    return tmp_path


LOCAL = ["model=local", "model.weights=scratch", "model.tokenizer=pretrained"]
NOT_READY = {
    "bad row behind many good ones": (["dataset=jsonl", "dataset.path=bad.jsonl"], "bad.jsonl:601"),
    "remedy": (["dataset=jsonl", "dataset.path=bad.jsonl"], "dataset.on_bad_row=skip"),
    "model that cannot be had": (["model=llama-1b"], "meta-llama/Llama-3.2-1B is not reachable and not in the cache"),
    "no tokenizer": ([*LOCAL, "model.path=bare"], "bare has no tokenizer that can be read (tokenizer.json)"),
    "no weights": (["model=local", "model.path=bare"], "bare has no safetensors weights"),
    "damaged tokenizer": ([*LOCAL, "model.path=cut"], "cut/tokenizer.json cannot be read"),
    "segmenter": (["task.segmenter.name=llm", "task.segmenter.path=own/er"], "own/er is not reachable"),
    "adapter that is nowhere": (["task=lora_lego", "task.adapters=[a,b]"], "adapter a is neither a folder nor"),
    "adapter of the hub": (["task=lora_lego", "task.adapters=[own/er,b]"], "own/er is not in the cache"),
    "adapter without weights": (["task=lora_lego", "task.adapters=[adapter,adapter]"], "holds no adapter_model"),
    "report on nothing": (["task=report", "report.runs=[nowhere]"], "'nowhere' is no folder"),
    "prompted model": (
        ["task=inverse_permutation", "task.mode=prompt", "model=llama-1b"],
        "Llama-3.2-1B is not reachable",
    ),
    "data set of the hub": (["dataset=hub", "dataset.path=own/er"], "own/er"),
}


OFTEN = ("bad row behind many good ones", "model that cannot be had", "no tokenizer", "adapter that is nowhere")
"""Cases of `make test`; the others are slow in sum."""


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in OFTEN else pytest.mark.slow) for c in NOT_READY])
def test_what_cannot_start_says_so_and_is_refused_alike(permlab, files, case):
    arguments, reason = NOT_READY[case]
    before = sorted(path.name for path in files.iterdir())
    dry, real = permlab(*arguments, "run.dry_run=true"), permlab(*arguments, WANDB_MODE="offline")
    lines = dry.stdout.splitlines()
    assert dry.returncode == real.returncode == 2 and not dry.stderr
    assert [line.split()[0] for line in lines[:5]] == ["task", "model", "dataset", "hardware", "seed"]
    verdict = next(number for number, line in enumerate(lines) if line.startswith("not ready: "))
    assert lines[verdict - 1].startswith("fingerprint") and reason in lines[verdict]
    assert real.stderr == f"permlab: {lines[verdict].removeprefix('not ready: ')}\n" and not real.stdout
    assert sorted(path.name for path in files.iterdir()) == before  # no empty outputs, no run, no cache


def test_a_sweep_is_refused_before_its_directory_is_made(permlab, tmp_path):
    arguments = ["-m", "seed=0,1", "model=llama-1b"]
    done = permlab(*arguments)
    assert done.returncode == 2 and "is not reachable" in done.stderr and list(tmp_path.iterdir()) == []
    dry = permlab(*arguments, "run.dry_run=true")
    assert dry.returncode == 2 and dry.stdout.count("is not reachable") == 1  # once for all jobs


@pytest.mark.slow
@pytest.mark.skipif(not no_gpu(), reason="this machine has a GPU")
def test_a_missing_gpu_is_known_before_anything_heavy_is_loaded(permlab, tmp_path):
    dry = permlab("hardware=gpu", "run.dry_run=true")
    assert dry.returncode == 2 and "not ready: hardware.device=cuda: this machine has 0 CUDA GPUs" in dry.stdout
    lines = [["hardware=gpu"], ["model=llama-1b"], ["task=lora_lego", "task.adapters=[a,b]"]]
    code = (
        f"import sys\nfrom permlab.cli import main\nfor arguments in {lines!r}:\n"
        "    try:\n        main(arguments)\n    except SystemExit as end:\n        assert end.code == 2, end.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["LOADED []"], done.stderr
    assert done.stderr.count("\n") == 3 and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_of_merging_loads_what_builds_a_network_and_no_more(tmp_path):
    code = (
        "import sys\nfrom permlab.cli import main\n"
        "try:\n    main(['task=merge', 'model=resnet-tiny', 'run.dry_run=true'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "more = ('transformers', 'datasets', 'matplotlib', 'wandb', 'peft', 'torch._dynamo', 'torch._inductor')\n"
        "print('LOADED', [m for m in (*more, 'permlab.merging.merge', 'permlab.matching.weight') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout.splitlines()[-2:] == ["ready", "LOADED []"], done.stderr
    assert "permutation + reset" in done.stdout, "BatchNorm has a control of its own"


def test_devices_are_told_without_torch(monkeypatch):
    assert check_device(HardwareConfig(device="cpu")) == "device cpu"
    with pytest.raises(UserError, match="no Metal GPU"):
        check_device(HardwareConfig(device="mps"))
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 0)
    monkeypatch.setattr(hardware, "torch_build", lambda: "cuda")
    with pytest.raises(UserError, match=r"cuda:1: this machine has 0 CUDA GPUs; use hardware=cpu"):
        check_device(HardwareConfig(device="cuda:1"))
    monkeypatch.setattr(hardware, "torch_build", lambda: "")
    with pytest.raises(UserError, match="the installed torch is a CPU build"):
        check_device(HardwareConfig(device="cuda"))


@pytest.mark.slow
def test_what_is_ready_ends_with_ready_and_starts(permlab, files, tiny):
    arguments = [*tiny, "dataset=jsonl", "dataset.path=good.jsonl", "task.train.epochs=0.1"]
    arguments = [text for text in arguments if not text.startswith(("dataset.people", "dataset.temp", "dataset.held"))]
    dry = permlab(*arguments, "run.dry_run=true")
    assert dry.returncode == 0 and dry.stdout.splitlines()[-1] == "ready"
    assert "600, 0 questions" in dry.stdout and not (files / "outputs").exists()
    assert permlab(*arguments, "tracker=none").returncode == 0


def test_a_late_refusal_leaves_no_empty_folders(permlab, tmp_path, monkeypatch):
    def late(config, run):
        raise UserError("too late")

    monkeypatch.setattr("permlab.tasks.ntk.run", late)
    done = permlab("task=ntk", "tracker=none", "run.root=here/outputs")
    assert done.returncode == 2 and done.stderr == "permlab: too late\n"
    assert not (tmp_path / "here/outputs").exists()
    (tmp_path / "mine").mkdir()
    permlab("task=ntk", "tracker=none", "run.root=mine")
    assert (tmp_path / "mine").is_dir() and list((tmp_path / "mine").iterdir()) == []


def test_no_line_on_syncing_what_was_deleted(caplog):
    from permlab.runs.trackers.to_wandb import WandbTracker

    class FakeRun:
        dir = "outputs/spt/x/wandb/offline-run/files"

        def finish(self, exit_code):
            pass

    logger = logging.getLogger("permlab")
    logger.propagate = True
    with caplog.at_level(logging.INFO, "permlab"):
        WandbTracker(FakeRun(), offline=True).finish(2)
        assert "wandb sync" not in caplog.text
        WandbTracker(FakeRun(), offline=True).finish(0)
        assert "wandb sync" in caplog.text


def test_two_llamas_are_shown_with_sizes_and_memory(permlab, tmp_path):
    from checkpoints_made import save_pair

    save_pair(tmp_path)
    done = permlab("task=merge", "task.models=[a,b]", "run.dry_run=true")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "ready", done.stdout + done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:-1])
    assert "a (LlamaForCausalLM" in lines["networks"] and "b (LlamaForCausalLM" in lines["networks"]
    assert lines["model"] == "of task.models" and lines["dataset"].startswith("none: the merge is written")
    assert "KiB" in lines["memory"] or "MiB" in lines["memory"]
    assert "0 MiB" not in lines["memory"].split() and "mlp" not in done.stdout and "digits" not in done.stdout


def test_sizes_are_never_rounded_to_nothing():
    assert [size_text(count) for count in (1 << 10, 300 << 10, 5 << 20, 48 << 20, 3 << 30)] == [
        "1 KiB", "300 KiB", "5.0 MiB", "48 MiB", "3.0 GiB",
    ]  # fmt: skip


def test_jobs_that_differ_in_the_seed_are_examined_once():
    jobs = plan_jobs(["-m", "seed=0,1,2", "task.order=spt,original"][1:], True).jobs
    assert len(distinct([job.config for job in jobs])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped.names("experiment"))
def test_the_first_job_of_every_experiment_is_ready_or_names_what_is_missing(name):
    try:
        job = plan_jobs([f"experiment={name}"], False).jobs[0]
    except UserError as error:
        assert "dataset.path" in str(error) or "task." in str(error)
        return
    found = examine(job.config)
    if not found.problems:
        refuse(job.config)
    for problem in found.problems:
        assert "folder" in problem or "file" in problem, problem


# ---- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """A hub of which only the answer is made up; nothing is asked."""
    from huggingface_hub import constants

    answers = {}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "ask_hub", lambda name, revision, kind: answers[name])
    monkeypatch.setattr(hub, "in_cache", lambda name, files, revision=None: name.endswith("/cached"))
    return answers


def test_the_cache_is_enough_and_the_hub_is_then_left_alone(asked):
    asked |= {"own/cached": "is neither in the cache nor reachable", "own/there": "", "own/away": "is gated: accept"}
    assert hub.look_up("own/there", [("config.json",)]) == "on the hub" and not hub.offline()
    with pytest.raises(UserError, match="own/away is gated"):
        hub.look_up("own/away", [("config.json",)])
    assert hub.look_up("own/cached", [("config.json",)]) == "cached" and hub.offline()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1"):
        hub.look_up("own/there", [("config.json",)])


def test_a_hub_that_does_not_answer_is_unreachable_in_seconds(monkeypatch):
    import time

    monkeypatch.setattr(hub, "ASK_SECONDS", 0.05)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: time.sleep(5))
    started = time.monotonic()
    assert "nor reachable" in hub.ask_hub.__wrapped__("own/er", None, "model")
    assert time.monotonic() - started < 3
    with pytest.raises(TimeoutError):
        within(0.01, lambda: time.sleep(1))
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    assert within(5, lambda: 3) == 3


def test_a_tokenizer_error_is_a_whole_sentence(tmp_path):
    cut = ValueError("Couldn't instantiate the backend tokenizer from one of: \n(1) a `tokenizers` library file, \n(2)")
    said = explain_loading(str(tmp_path), cut)
    assert "from one of" not in said and "tokenizer.json" in said and "save_pretrained" in said
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="has no tokenizer that can be read"):
        check_folder(Path(tmp_path), weights=False, tokenizer=True)
