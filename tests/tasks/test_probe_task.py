from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from here import rows

from permlab.cli import main
from permlab.probes import Training

EXPERIMENTS = Path(__file__).parents[2] / "conf" / "experiment" / "inverse_permutation"
BASE = ["task=inverse_permutation", "tracker=none", "hardware=cpu", "hardware.threads=1"]
SMALL = [*BASE, "task.n=3", "task.seeds=2", "task.train.batch=64", "task.train.test_examples=64"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """The command without a new process (imports cost more than these runs): here("task=...") in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        return Done(stopped.value.code, *capsys.readouterr())

    return run


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_train_reports_floors_curves_figures_and_weights(here, tmp_path):
    done = here(*SMALL, "task.compare=[causal/string]", "task.train.steps=200", "run.dir=run")
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "run"
    metrics = result(folder)["metrics"]
    assert metrics["mse_floor"] == 0 and metrics["causal_string_mse_floor"] == pytest.approx(0.25)
    assert metrics["test_mse"] < 0.01 and metrics["row_accuracy"] == 1 and metrics["seeds_solved"] == 2
    assert metrics["causal_string_test_mse"] > 0.2
    curve = [float(row["test_mse"]) for row in rows("curves", folder) if row["arm"] == "causal/string"]
    assert metrics["causal_string_test_mse_lowest"] == pytest.approx(min(curve)) and min(curve) > 0.24
    assert metrics["possible_share"] == 1 and metrics["causal_string_possible_share"] == pytest.approx(1 / 6)
    names = {path.name for path in (folder / "figures").glob("*.png")}
    arms = ("scratch", "causal_string")
    assert names == {
        "error_curves.png",
        "mechanisms.png",
        *(f"{kind}_{arm}.png" for kind in ("attention", "weights") for arm in arms),
    }
    from safetensors.torch import load_file

    tensors = load_file(folder / "artifacts" / "weights_scratch.safetensors")
    assert tensors["seed1.layer1"].shape == (12, 1, 12) and tensors["seed0.readout"].shape == (48, 3)
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == sorted({line["step"] for line in logged})
    assert len(rows("seeds", folder)) == 4
    best = min(float(row["test_mse"]) for row in rows("curves", folder) if row["arm"] == "causal/string")
    assert best > 0.2


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_numbers(here, tmp_path, monkeypatch, unsaved):
    """The stop comes in the second arm: the first must come back from the checkpoint."""
    keys = [*SMALL, "task.target_mse=0", "task.train.steps=60", "task.train.test_every=10", "task.compare=[no_mask]"]
    assert here(*keys, "run.dir=whole").returncode == 0
    step = Training.train_step

    def step_and_stop(training):
        if training.step == 35 and training.model.layout.mask == "none":
            os.kill(os.getpid(), signal.SIGTERM)
        step(training)

    monkeypatch.setattr(Training, "train_step", step_and_stop)
    assert here(*keys, "run.dir=cut").returncode == 128 + signal.SIGTERM
    monkeypatch.setattr(Training, "train_step", step)
    assert result(tmp_path / "cut")["status"] == "interrupted"
    resumed = here("resume", "cut")
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    both = [result(tmp_path / name)["metrics"] for name in ("whole", "cut")]
    timed = [{k: v for k, v in metrics.items() if "seconds" not in k} for metrics in both]
    assert timed[0] == timed[1]
    assert len(timed[0]) > 15
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_construct(here, tmp_path):
    done = here(
        *BASE, "task.mode=construct", "task.n=64", "task.betas=[5,20]", "task.examples=2", "run.dir=run",
        "task.compare=[no_mask,causal/permutation]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    metrics = result(tmp_path / "run")["metrics"]
    assert metrics["test_mse"] < 1e-6 and metrics["no_mask_test_mse"] < 1e-6
    assert metrics["causal_permutation_test_mse"] == metrics["causal_permutation_mse_floor"] == 16
    assert (tmp_path / "run" / "figures" / "construction.svg").is_file()


@pytest.mark.slow
def test_scratch_sweep(here, tmp_path, unsaved):
    done = here(*SMALL, "task.mode=scratch_sweep", "task.train.steps=40", "task.train.test_every=20", "run.dir=run")
    assert done.returncode == 0, done.stderr + done.stdout
    table = rows("scratch_sweep", tmp_path / "run")
    after = [row for row in table if row["position"] == "after"]
    assert [int(row["scratch_rows"]) for row in after] == list(range(7))
    floors = [float(row["mse_floor"]) for row in after]
    assert floors == pytest.approx([0.25, 1 / 12, 0, 0, 0, 0, 0])
    assert {float(row["mse_floor"]) for row in table if row["position"] == "before"} == {0.25}
    metrics = result(tmp_path / "run")["metrics"]
    assert metrics["below_floor"] == 0
    solvable = [float(row["row_accuracy"]) for row in table if float(row["mse_floor"]) == 0]
    assert metrics["least_row_accuracy_where_floor_is_zero"] == pytest.approx(min(solvable))
    assert metrics["construction_excess"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "table", "count", "metrics"),
    [
        (["task.mode=depth", "task.compare=[causal/string]", "task.depths.layers=[1,2]", "task.depths.heads=[1]",
          "task.depths.width=8"], "depth", 8, {"points": 8, "below_floor": 0}),
        (["task.mode=lengths", "task.lengths.size=2", "task.lengths.networks=[disentangled,none]",
          "task.lengths.layers=1", "task.depths.width=8"], "lengths", 10,
         {"construction_largest_row_accuracy": 1, "n": 3}),
        (["task.mode=fillers", "task.tokens.steps=2", "task.tokens.test_every=1", "task.tokens.hidden=16",
          "task.tokens.heads=2", "task.tokens.parameters=20000", "task.tokens.fillers=[0,2,6]",
          "task.tokens.test_examples=8"], "fillers", 3, {"n": 3}),
    ],
)  # fmt: skip
def test_modes_that_train_many(here, tmp_path, unsaved, keys, table, count, metrics):
    few = ["task.train.steps=4", "task.train.test_every=2", "task.train.batch=8", "task.train.test_examples=9"]
    done = here(*SMALL, *few, *keys, "run.dir=run")
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(rows(table, tmp_path / "run")) == count
    assert result(tmp_path / "run")["metrics"].items() >= metrics.items()


class Server(BaseHTTPRequestHandler):
    """Answers the last question of a conversation as its examples do, by reading words and places out of it."""

    asked: ClassVar[list[dict]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        lines = dict(line.split(": ", 1) for line in body["messages"][-1]["content"].splitlines()[:2])
        places = [int(place) for place in lines["Places"].split()]
        restored = [word for _, word in sorted(zip(places, lines["Shuffled"].split()))]
        content = "Restored: " + " ".join(restored)
        reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        pass


def test_prompt_asks_a_server(here, tmp_path, unsaved, monkeypatch):
    monkeypatch.setenv("PROBE_TEST_KEY", "k")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    Server.asked.clear()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        done = here(
            *BASE, "task.mode=prompt", f"task.prompt.base_url={address}", "task.prompt.model=tiny", "run.dir=run",
            "task.prompt.api_key_env=PROBE_TEST_KEY", "task.prompt.sizes=[2,5]", "task.prompt.styles=[plain,filler]",
            "task.prompt.examples=3", "task.prompt.shots=2",
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr + done.stdout
    table = rows("prompts", tmp_path / "run")
    assert [float(row["exact"]) for row in table] == [1.0] * 4 and {row["unanswered"] for row in table} == {"0"}
    assert len(Server.asked) == 12
    roles = [message["role"] for message in Server.asked[0]["messages"]]
    assert roles == ["system", *["user", "assistant"] * 2, "user"]
    assert Server.asked[0]["model"] == "tiny" and Server.asked[0]["temperature"] == 0


@pytest.mark.slow
def test_tokens(here, tmp_path, unsaved):
    done = here(
        *BASE, "task.mode=tokens", "task.n=3", "task.seeds=2", "task.tokens.steps=4",
        "task.tokens.hidden=32", "task.tokens.heads=4",
        "task.tokens.parameters=60000", "task.tokens.combinations=[gpt2/in_place,bert/in_place,t5/generate]",
        "task.tokens.test_examples=8", "run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "does not cover it" in done.stdout
    table = rows("combinations", tmp_path / "run")
    assert [row["theorem"].split(":")[0] for row in table] == ["yes", "yes", "no"]
    assert float(table[0]["ceiling"]) == pytest.approx((2 / 3) + (1 / 3) / 4)
    assert {row["seeds"] for row in table} == {"2"}
    seeds = rows("seeds", tmp_path / "run")
    assert [(row["arm"], row["seed"]) for row in seeds[:2]] == [("gpt2/in_place", "0"), ("gpt2/in_place", "1")]
    assert len(seeds) == 6 and {row["mechanism"] for row in seeds} == {"none"}, "four steps teach nothing"
    metrics = result(tmp_path / "run")["metrics"]
    accuracies = [float(row["accuracy"]) for row in seeds[:2]]
    assert metrics["gpt2_in_place_worst"] == min(accuracies) and metrics["gpt2_in_place_best"] == max(accuracies)
    sizes = [int(row["parameters"]) for row in table]
    assert max(sizes) / min(sizes) < 1.01


@pytest.mark.slow
def test_prompt_on_a_tiny_model(here, tmp_path, unsaved):
    done = here(
        *BASE, "task.mode=prompt", "model=tiny-llama", "model.scratch.hidden_size=32", "model.scratch.layers=1",
        "task.prompt.sizes=[2,3]", "task.prompt.styles=[plain,scratch]", "task.prompt.examples=4", "run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    table = rows("prompts", tmp_path / "run")
    assert [(row["n"], row["style"]) for row in table] == [(n, s) for n in "23" for s in ("plain", "scratch")]
    assert [float(row["chance_exact"]) for row in table] == pytest.approx([1 / 2, 1 / 2, 1 / 6, 1 / 6])
    assert "Shuffled:" in (tmp_path / "run" / "artifacts" / "samples.txt").read_text()
    assert len(rows("places", tmp_path / "run")) == 10


@pytest.mark.slow
def test_text_trains_a_model_in_every_style(here, tmp_path, unsaved):
    done = here(
        *BASE, "task.mode=text", "model=tiny-llama", "model.scratch.hidden_size=32", "model.scratch.layers=1",
        "task.n=2", "task.prompt.styles=[plain,filler]", "task.text.steps=3", "task.text.test_every=2",
        "task.text.batch=4", "task.text.test_examples=4", "run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert [row["style"] for row in rows("text", tmp_path / "run")] == ["plain", "filler"]
    steps = [int(row["step"]) for row in rows("text_curves", tmp_path / "run")]
    assert steps == [0, 2, 3, 0, 2, 3]


@pytest.mark.slow
def test_a_pretrained_directory_is_trained_on_shuffled_sentences(here, tmp_path, unsaved, monkeypatch):
    """model=local starts from the weights of the directory; tests ask about sentences that were not trained on."""
    from permlab.models.causal_lm import load_causal_lm
    from permlab.models.causal_lm_config import CausalLMConfig
    from permlab.probes import finetune as module

    texts = [
        f"{a} saw {b} near the {c}" for a in ("Ann", "Bob") for b in ("Cid", "Dot") for c in ("sea", "mill", "inn")
    ]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    config = CausalLMConfig(name="tiny-llama")
    config.scratch.hidden_size, config.scratch.layers = 32, 1
    words = ["Shuffled: Places: Restored: 1 2 3 4", *texts]
    model, tokenizer = load_causal_lm(config, words, torch.float32, torch.device("cpu"), 5, max_tokens=256)
    with torch.no_grad():
        model.lm_head.weight.fill_(0.125)
    model.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    seen, original = [], module.finetune

    def watched(model, tokenizer, prompt, recipe, seed, on_test, held_out):
        seen.append((model.lm_head.weight.min().item(), set(prompt.sentences), set(held_out.sentences)))
        return original(model, tokenizer, prompt, recipe, seed, on_test, held_out)

    monkeypatch.setattr(module, "finetune", watched)
    keys = ["task.mode=text", "model=local", "model.path=mine", "dataset=jsonl", "dataset.path=texts.txt", "task.n=3"]
    few = ["task.prompt.styles=[plain]", "task.text.steps=2", "task.text.batch=2", "task.text.test_examples=2"]
    done = here(*BASE, *keys, *few, "run.dir=run")
    assert done.returncode == 0, done.stderr + done.stdout
    ((start, trained, held_out),) = seen
    assert start == 0.125 and trained and held_out and not trained & held_out
    assert [row["style"] for row in rows("text", tmp_path / "run")] == ["plain"]
    assert "shuffled words of sentences (jsonl)" in done.stdout


def test_dry_run_counts_the_sentences(here, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(f"line {k} has five words" for k in "abcdefg"))
    keys = ["task.mode=prompt", "model=tiny-llama", "dataset=jsonl", "dataset.path=texts.txt", "run.dry_run=true"]
    done = here(*BASE, *keys, "task.prompt.sizes=[2,5]")
    assert done.returncode == 0, done.stderr
    assert "8 of 2, 7 of 5" in " ".join(done.stdout.split())
    done = here(*BASE, *keys, "task.prompt.sizes=[6]")
    assert done.returncode == 2 and "0 runs of n=6" in done.stdout


def test_dry_run_prints_floors_and_memory(here, tmp_path):
    done = here(*BASE, "task.variant=causal", "task.readout=string", "run.dry_run=true")
    assert done.returncode == 0
    assert "floor 1.125" in done.stdout and "MiB" in done.stdout
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["task.variant=causal", "task.readout=scratch"], "outside the sequence"),
        (["task.variant=scratch", "task.scratch=0"], "needs scratch rows"),
        (["task.n=1"], "at least 2"),
        (["task.n=20000"], "GiB"),
        (["task.n=200000", "task.mode=construct"], "GiB"),
        (["task.variant=scratched"], "did you mean 'scratch'"),
        (["task.mode=scratch-sweep"], "did you mean 'scratch_sweep'"),
        (["task.mode=prompt"], "model=local"),
        (["task.mode=text"], "task.mode=text needs a language model"),
        (["task.mode=text", "task.prompt.base_url=http://h", "task.prompt.model=m"], "name a model by model="),
        (["model=tiny-llama"], "task.mode=prompt"),
        (["dataset=people"], "dataset=people is for task.mode=prompt or text"),
        (["task.mode=text", "model=tiny-llama", "dataset=jsonl"], "dataset.path"),
        (["task.mode=prompt", "task.prompt.base_url=http://h/v1"], "needs task.prompt.model"),
        (["task.mode=prompt", "task.prompt.model=m"], "is for task.prompt.base_url"),
        (["task.mode=prompt", "task.prompt.base_url=h:1", "task.prompt.model=m"], "task.prompt.base_url=h:1 is not an"),
        (["task.mode=depth", "task.depths.heads=[3]"], "multiple of 2 x heads"),
        (["task.mode=lengths", "task.lengths.size=11"], "task.lengths.size=11"),
        (["task.mode=fillers", "task.tokens.fillers=[21]"], "task.tokens.fillers=21"),
        (["task.mode=fillers", "task.tokens.architectures=[t5]"], "no reading at filler tokens"),
        (["task.train.restarts=2"], "is for task.train.patience"),
        (["task.mode=tokens", "task.tokens.combinations=[bert/generate]"], "combinations:"),
        (["task.compare=[causal/strings]"], "did you mean 'string'"),
        (["task.train.betas=[0.9]"], "takes two"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(here, tmp_path, keys, says):
    done = here(*BASE, *keys)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("config.yaml"))


COMPOSED = [path.stem for path in sorted(EXPERIMENTS.glob("*.yaml"))]


@pytest.mark.parametrize(
    "name", [name if "quick" in name else pytest.param(name, marks=pytest.mark.slow) for name in COMPOSED]
)
def test_experiments_compose_and_fit(here, name):
    done = here(f"experiment=inverse_permutation/{name}", "run.dry_run=true", "tracker=none")
    assert done.returncode == 0, done.stderr
    assert "inverse_permutation" in done.stdout
