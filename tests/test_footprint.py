"""What a run needs is known before it starts, refused where it cannot fit, and said in one line where it did not."""

from __future__ import annotations

import pytest

from permlab import footprint as module
from permlab.compose import plan_jobs
from permlab.errors import UserError
from permlab.footprint import Footprint, check_fits, duration, is_memory, main_memory, memory_message, room
from permlab.hardware import HardwareConfig
from permlab.runs.readiness import examine

CPU = HardwareConfig(device="cpu", dtype="float32")
LARGE = Footprint(2.0**60, {"weights": 2.0**59, "optimizer": 2.0**59}, libraries=2.0**29)
KEYS = ("a smaller task.n", "task.seeds=1", "task.train.batch=8")


def test_what_cannot_fit_is_refused_with_the_numbers_unless_forced():
    with pytest.raises(UserError) as refused:
        check_fits(LARGE, CPU, KEYS, force=False)
    said = str(refused.value)
    assert "1,073,741,824 GiB" in said and "weights 536,870,912 GiB" in said and "512 MiB of libraries" in said
    assert "this machine has" in said and all(key in said for key in KEYS) and "run.force=true" in said
    assert "run.force=true" in check_fits(LARGE, CPU, KEYS, force=True)
    small = Footprint(1.0, {})
    assert check_fits(small, CPU, KEYS, force=False).startswith("about 0 KiB")


@pytest.mark.parametrize("gpus", [0, 1])
def test_memory_is_checked_where_auto_means_the_cpu(gpus, monkeypatch):
    for place in ("permlab.footprint.cuda_devices", "permlab.hardware.cuda_devices"):
        monkeypatch.setattr(place, lambda: gpus)
    monkeypatch.setattr(module, "gpu_memory", lambda index: 2.0**62)
    if gpus:
        assert room(HardwareConfig()) == (2.0**62, "the GPU")
        assert check_fits(LARGE, HardwareConfig(), KEYS, force=False)
    else:
        with pytest.raises(UserError, match="this run needs about"):
            check_fits(LARGE, HardwareConfig(), KEYS, force=False)


def test_libraries_count_in_main_memory_only(monkeypatch):
    need = Footprint(100.0, {}, libraries=50.0)
    monkeypatch.setattr(module, "main_memory", lambda: 120.0)
    with pytest.raises(UserError):
        check_fits(need, CPU, (), force=False)
    monkeypatch.setattr(module, "room", lambda hardware: (120.0, "the GPU"))
    assert check_fits(need, CPU, (), force=False)


def test_a_container_has_what_it_may_take(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(module, "Path", lambda _: limit)
    whole = main_memory()
    limit.write_text("1048576\n")
    assert main_memory() == 2.0**20
    limit.write_text("max\n")
    assert main_memory() == whole > 2.0**20


def test_a_time_is_the_arithmetic_over_the_speed(monkeypatch):
    monkeypatch.setattr(module, "macs_a_second", lambda: 1e9)
    need = Footprint(1.0, {}, macs=module.SHARE * 1e11, steps=100)
    assert duration(need, CPU).startswith("about 2 min")
    assert duration(Footprint(1.0, {}), CPU) == "not estimated"
    assert "GPU" in duration(need, HardwareConfig(device="cuda"))


def test_errors_of_memory_are_told_from_others():
    full = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ...")
    Cuda = type("OutOfMemoryError", (RuntimeError,), {})
    for error in (MemoryError(), full, Cuda("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has ...")):
        assert is_memory(error)
        assert memory_message(error, KEYS).startswith("out of memory") and "task.seeds=1" in memory_message(error, KEYS)
        assert "\n" not in memory_message(error, KEYS)
    assert not is_memory(RuntimeError("shapes differ")) and not is_memory(ValueError("out of memory"))


TASKS = (["task=spt"], ["task=inverse_permutation"], ["task=ntk", "task.mode=train"], ["task=merge"])
TASKS = (*TASKS, ["task=state_tracking"], ["task=lora_lego"], ["task=merge", "model=tiny-llama", "dataset=people"])


@pytest.mark.slow
@pytest.mark.parametrize("words", TASKS, ids=" ".join)
def test_a_dry_run_of_every_task_shows_memory_and_time_and_is_refused_alike(words, monkeypatch):
    config = plan_jobs(words, False).jobs[0].config
    lines = dict(examine(config).lines)
    assert lines["memory"].startswith("about ") and "libraries" in lines["memory"]
    assert "GFLOP/s" in lines["time"]
    monkeypatch.setattr(module, "main_memory", lambda: 2.0**20)
    (problem,) = examine(config).problems
    assert problem.startswith("this run needs about") and "this machine has 1.0 MiB: try " in problem
    assert problem.count(",") >= 2
    forced = plan_jobs([*words, "run.force=true"], False).jobs[0].config
    assert not examine(forced).problems


@pytest.mark.slow
def test_a_run_that_finds_no_memory_says_which_keys_help(permlab, monkeypatch, tmp_path):
    import torch

    from permlab.tasks import ntk

    def run(*_):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity of ..."
        )

    monkeypatch.setattr(ntk, "run", run)
    done = permlab("task=ntk", "tracker=none")
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "out of memory" in line]
    assert len(lines) == 1 and all(key in lines[0].replace("\n", " ") for key in ("task.width", "task.dtype"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_what_a_llama_keeps_for_the_backward_pass_is_what_torch_saves(rank):
    import torch

    from permlab.models.causal_lm import add_lora
    from permlab.models.causal_lm_config import CausalLMConfig, LoraConfig, ScratchConfig
    from permlab.models.needs import LOGITS, shape_of, training_bytes

    sizes = ScratchConfig(hidden_size=64, layers=3, heads=4, kv_heads=2, intermediate_size=160)
    config = CausalLMConfig(scratch=sizes, lora=LoraConfig(rank=rank), vocab_size=300)
    from transformers import LlamaConfig, LlamaForCausalLM

    made = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(made)
    shape = shape_of(config)
    assert shape.parameters == sum(value.numel() for value in model.parameters())
    if rank:
        model = add_lora(model, config)
        trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
        assert shape.adapters(rank) == trained
    known, saved = {value.untyped_storage().data_ptr() for value in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(3, 300, (8, 32))
    mask = torch.ones_like(ids)
    mask[0, 20:] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(input_ids=ids, attention_mask=mask, labels=ids)
    estimate = training_bytes(config, shape, batch=8, length=32)["activations"]
    estimate -= (LOGITS - 1) * 8 * 32 * 300 * 4  # of the logits one copy is saved, the others come and go
    assert estimate == pytest.approx(sum(saved.values()), rel=0.04)
