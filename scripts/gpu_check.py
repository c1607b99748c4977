"""What permlab does on a GPU: the same numbers as on the CPU, and how fast. One table, and JSON.

    make gpu-check                                   # or: python scripts/gpu_check.py [--json gpu_check.json]
    python scripts/gpu_check.py --tiny               # every part on the CPU with tiny sizes: what the tests do

Under eight minutes on one CUDA GPU of 40 GB or more, without network. Where torch, transformers, peft and accelerate
are installed and the rest is not, the wheels of `make gpu-bundle` are taken (`--wheels FOLDER`). No account, no
download: Llama-1B is built from its sizes with random weights.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = {
    "hydra": "hydra-core", "omegaconf": "omegaconf", "antlr4": "antlr4-python3-runtime", "datasets": "datasets",
    "wandb": "wandb", "rich": "rich", "lazy_loader": "lazy-loader", "dill": "dill", "multiprocess": "multiprocess",
    "sacrebleu": "sacrebleu", "portalocker": "portalocker", "markdown_it": "markdown-it-py", "mdurl": "mdurl",
    "pygments": "pygments", "xxhash": "xxhash", "platformdirs": "platformdirs", "tabulate": "tabulate",
    "colorama": "colorama", "lxml": "lxml",
}  # fmt: skip
"""Module -> package of what a CUDA machine with torch, transformers, peft and accelerate often lacks."""
UNBUILT = ("antlr4-python3-runtime",)
"""Of these there is only the source, in Python alone."""
MOST_MIB = 60
PEAK = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12,
    "L40": 181e12, "L4": 121e12, "A10": 125e12, "4090": 165e12, "3090": 71e12,
}  # fmt: skip
"""Dense bfloat16 products a second by the vendor's data sheets, the first name that is part of the device's."""
LLAMA_1B = dict(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, head_dim=64, max_position_embeddings=2048, tie_word_embeddings=True,
)  # fmt: skip
TINY_LLAMA = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
)  # fmt: skip
TOLERANCE = 0.02
"""Between CPU and GPU, of a metric of a tiny run and beside 0.02: sums are rounded in another order."""
Row = dict[str, Any]


def install(wheels: Path) -> list[str]:
    """Install what is missing from the wheels into a folder of this process; return what is still missing."""
    lacking = [module for module in BUNDLED if importlib.util.find_spec(module) is None]
    if lacking and wheels.is_dir():
        place = tempfile.mkdtemp(prefix="permlab-gpu-")
        found = [str(path) for path in wheels.glob("*.whl") if belongs(path, lacking)]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", place]
        subprocess.run([*pip, *found], check=True)
        sys.path.insert(0, place)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (place, os.environ.get("PYTHONPATH"))))
        importlib.invalidate_caches()
    needed = ("hydra", "omegaconf", "antlr4", "rich", "lazy_loader")
    return [BUNDLED[module] for module in needed if importlib.util.find_spec(module) is None]


def bundle(folder: Path, python: str) -> int:
    """Collect the wheels of `BUNDLED` for a Linux machine with an x86-64 processor; return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip"]
    sources = [name for name in BUNDLED.values() if name in UNBUILT]
    built = [name for name in BUNDLED.values() if name not in UNBUILT]
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for number in (34, 31, 28, 27, 24, 17):  # pip takes a platform as it is written, and not those before it
        target += ["--platform", f"manylinux_2_{number}_x86_64"]
    target += ["--platform", "manylinux2014_x86_64"]
    known = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "download", "-q", "--no-deps", "-d", str(folder), *target, *known, *built], check=True)
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), *known, *sources], check=True)
    size = sum(path.stat().st_size for path in folder.glob("*.whl")) / 2**20
    print(f"{len(list(folder.glob('*.whl')))} wheels, {size:.0f} MiB, for Python {python}: {folder}")
    return 0 if size < MOST_MIB else 1


def belongs(wheel: Path, lacking: list[str]) -> bool:
    """Whether a wheel is of a module that is lacking."""
    name = wheel.name.partition("-")[0].replace("_", "-").lower()
    return any(BUNDLED[module] == name for module in lacking)


@contextmanager
def quiet() -> Iterator[None]:
    """Send what a run prints to nowhere."""
    from tiny_runs import silent

    with silent():
        yield


class Check:
    """One machine: its device, the sizes that are tried, and the rows of the table."""

    def __init__(self, tiny: bool, seconds: float) -> None:
        import torch

        self.tiny, self.ends, self.rows = tiny, time.monotonic() + seconds, list[Row]()
        self.device = torch.device("cpu" if tiny else "cuda")
        self.name = "CPU, tiny sizes" if tiny else torch.cuda.get_device_name()

    def part(self, name: str, work: Callable[[], Iterator[Row]]) -> None:
        """Run one part and print its rows as they come; what fails is a row."""
        if time.monotonic() > self.ends:
            self.add({"part": name, "ok": None, "said": "left out: the time was over"})
            return
        began = time.monotonic()
        try:
            for row in work():
                self.add({"part": name, "seconds": round(time.monotonic() - began, 1), **row})
                began = time.monotonic()
        except Exception as error:  # the other parts are worth having
            self.add({"part": name, "ok": False, "said": f"{type(error).__name__}: {str(error)[:200]}"})

    def add(self, row: Row) -> None:
        self.rows.append(row)
        words = " ".join(f"{key}={value}" for key, value in row.items() if key not in ("part", "ok", "said"))
        verdict = {True: "ok", False: "FAILED", None: "-"}[row.get("ok")]
        print(f"{verdict:6} {row['part']:18} {words} {row.get('said', '')}".rstrip(), flush=True)

    def sync(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_gib(self) -> float:
        """Peak memory since the last call: of the GPU, or of the process."""
        import torch

        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return round(peak, 2)
        from permlab.runs.environment import peak_rss_mb

        return round(peak_rss_mb() / 1024, 2)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def tasks(self) -> Iterator[Row]:
        """Every task on the CPU and on the device, in float32 and with one seed."""
        from tiny_runs import TINY, permlab

        for task in TINY:
            with tempfile.TemporaryDirectory(prefix="permlab-gpu-") as root:
                found = []
                for profile in ("cpu", "cpu" if self.tiny else "gpu"):
                    keys = [f"task={task}", *TINY[task], "tracker=none", f"hardware={profile}"]
                    keys += ["hardware.dtype=float32", "hardware.threads=1", f"run.root={root}/{len(found)}"]
                    with quiet():
                        code = permlab(*keys)
                    paths = list(Path(root, str(len(found))).glob("*/*/result.json"))
                    found.append(json.loads(paths[0].read_text())["metrics"] if paths else {"exit code": code})
            yield {"task": task, **compared(*found)}

    def products(self) -> Iterator[Row]:
        """A large product in bfloat16: what the device does, beside what its maker says."""
        import torch

        size = 64 if self.tiny else 8192
        a = torch.randn(size, size, device=self.device, dtype=torch.bfloat16)
        seconds = self.timed(lambda: a @ a, 2, 3 if self.tiny else 20)
        speed = 2 * size**3 / seconds
        sheet = next((value for key, value in PEAK.items() if key in self.name), None)
        self.flops = sheet or speed
        yield {"ok": True, "tflops": f"{speed / 1e12:.4g}", "data_sheet": f"{sheet / 1e12:.0f}" if sheet else "-"}

    def timed(self, work: Callable[[], Any], warm: int, count: int) -> float:
        """Return the mean seconds of a call."""
        for _ in range(warm):
            work()
        self.sync()
        began = time.perf_counter()
        for _ in range(count):
            work()
        self.sync()
        return (time.perf_counter() - began) / count

    def llama(self) -> Iterator[Row]:
        """Training steps of Llama-1B: attention and compilation, tokens a second, utilisation, memory."""
        attentions = ["sdpa", "eager"]
        if importlib.util.find_spec("flash_attn"):
            attentions.insert(1, "flash_attention_2")
        for attention in attentions:
            for compiled in (False, True):
                if not (compiled and (self.tiny or attention == "eager")):
                    yield self.llama_steps(attention, compiled)

    def llama_steps(self, attention: str, compiled: bool) -> Row:
        """One row of `llama`."""
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        gc.collect()  # the model of the row before
        self.peak_gib()
        sizes, length, batch = (TINY_LLAMA, 16, 2) if self.tiny else (LLAMA_1B, 512, 8)
        config = LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)
        torch.manual_seed(0)
        with self.device:
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
        model.train()
        parameters = sum(value.numel() for value in model.parameters())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        step_model = torch.compile(model) if compiled else model
        ids = torch.randint(3, config.vocab_size, (batch, length), device=self.device)
        losses = []

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = step_model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())

        seconds = self.timed(step, 1 if self.tiny else 3, 2 if self.tiny else 10)
        speed = batch * length / seconds
        # 6 floating point operations a weight and token, and 12 h T a layer for the products of attention.
        work = 6 * parameters + 12 * config.num_hidden_layers * config.hidden_size * length
        first, last = float(losses[0]), float(losses[-1])
        return {
            "ok": last < first,
            "attention": attention,
            "compile": "on" if compiled else "off",
            "parameters": f"{parameters / 1e9:.3g}e9",
            "tokens_per_second": round(speed),
            "utilisation": f"{speed * work / self.flops:.3f}",
            "peak_gib": self.peak_gib(),
        }

    def matching(self) -> Iterator[Row]:
        """Weight matching at the shapes of Llama-1B: a permutation that was planted is found again."""
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        from permlab.matching import weight_matching
        from permlab.symmetry import apply, declare_huggingface, squared_distance

        config = LlamaConfig(**(TINY_LLAMA if self.tiny else LLAMA_1B))
        torch.manual_seed(0)
        with self.device:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        a = {key: value.detach() for key, value in model.state_dict().items()}
        spec = declare_huggingface(config, a)
        b = apply(spec, a, spec.random(torch.Generator().manual_seed(1)))
        b = {key: value + 0.002 * torch.randn_like(value) for key, value in b.items()}
        before = squared_distance(spec, a, b)
        ends = time.monotonic() + 120
        began = time.perf_counter()
        found = weight_matching(
            spec, a, b, max_sweeps=2, keep_costs=False, keep_scores=False, should_stop=lambda: time.monotonic() > ends
        )
        self.sync()
        seconds = time.perf_counter() - began
        noise = 0.002**2 * sum(a[name].numel() for name in spec.axes)
        row = {"ok": bool(abs(found.objective / noise - 1) < 0.05), "match_seconds": round(seconds, 1)}
        yield row | {"distance": f"{before:.4g} -> {found.objective:.4g}", "noise": f"{noise:.4g}",
                     "peak_gib": self.peak_gib()}  # fmt: skip

    def lego(self) -> Iterator[Row]:
        """LEGO on eight adapters of rank 16 at the shapes of Llama-1B, on the device and on the CPU."""
        from bench_lora_lego import SHAPES

        from permlab.adapters import MergeRule, merge_adapters, random_adapter

        layers, count, rank = (1, 2, 2) if self.tiny else (16, 8, 16)
        scale = 64 if self.tiny else 1
        shapes = {
            f"model.layers.{layer}.{name}": (out // scale, into // scale)
            for layer in range(layers)
            for name, (out, into) in SHAPES.items()
        }
        adapters = [random_adapter(str(seed), shapes, rank, seed) for seed in range(count)]
        norms, seconds = [], []
        for device in ("cpu", self.device):
            began = time.perf_counter()
            merged = merge_adapters(adapters, MergeRule("lego", rank=rank), device=device)
            self.sync()
            seconds.append(round(time.perf_counter() - began, 2))
            norms.append(sum(report.norm_ratio for report in merged.reports.values()) / len(merged.reports))
        same = abs(norms[0] - norms[1]) <= TOLERANCE * norms[0]
        yield {"ok": bool(same), "cpu_seconds": seconds[0], "device_seconds": seconds[1],
               "norm_ratio": f"{norms[0]:.4f}, {norms[1]:.4f}", "peak_gib": self.peak_gib()}  # fmt: skip

    def probe(self) -> Iterator[Row]:
        """The inverse-permutation network at n = 128: seconds of a step."""
        import math

        from permlab.probes import Layout, Recipe, Training, Transformer

        n = 4 if self.tiny else 128
        recipe = Recipe(test_examples=16, batch=4 if self.tiny else None)
        training = Training(Transformer(Layout.variant("scratch", n=n)), recipe, [0], self.device)
        seconds = self.timed(training.train_step, 2, 3 if self.tiny else 20)
        loss = float(training.last_loss.max())
        yield {"ok": math.isfinite(loss), "n": n, "batch": training.batch, "step_seconds": f"{seconds:.4g}",
               "minutes_of_training": f"{seconds * training.steps / 60:.3g}", "peak_gib": self.peak_gib()}  # fmt: skip


def compared(a: dict[str, float], b: dict[str, float]) -> Row:
    """Return whether two runs found the same, and by how much the metric that differs most does."""
    changing = ("seconds", "per_second", "rss")
    names = [name for name in a if name in b and not any(word in name for word in changing)]
    numbers = [name for name in names if isinstance(a[name], int | float) and isinstance(b[name], int | float)]
    apart = {name: abs(a[name] - b[name]) / (TOLERANCE + TOLERANCE * abs(a[name])) for name in numbers}
    worst = max(apart, key=apart.__getitem__, default="none")
    ok = "exit code" not in a and bool(numbers) and a.keys() == b.keys() and apart[worst] <= 1
    row: Row = {"ok": ok, "metrics": len(numbers), "largest": worst}
    return row | {"cpu": f"{a.get(worst, 0):.6g}", "device": f"{b.get(worst, 0):.6g}"}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist" / "gpu-bundle")
    parser.add_argument("--only", default="", help="parts, with commas")
    parser.add_argument("--seconds", type=float, default=450, help="no part is begun after so long")
    parser.add_argument("--bundle", metavar="PYTHON", help="collect the wheels for this version of Python: 3.12")
    options = parser.parse_args(words)
    if options.bundle:
        return bundle(options.wheels, options.bundle)
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: see https://pytorch.org/get-started")
        return 2
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    lacking = install(options.wheels)
    if lacking:
        print(f"missing: {', '.join(lacking)}. On a machine with network: make gpu-bundle, then copy {options.wheels}")
        return 2
    import torch

    if not options.tiny and not torch.cuda.is_available():
        print("no CUDA GPU here: nothing is measured; --tiny runs every part on the CPU with tiny sizes")
        return 2
    check = Check(options.tiny, options.seconds)
    print(f"{check.name}, torch {torch.__version__}")
    parts = {name: getattr(check, name) for name in ("tasks", "products", "llama", "matching", "lego", "probe")}
    chosen = options.only.split(",") if options.only else list(parts)
    for name in parts:
        if name in chosen or (name == "products" and "llama" in chosen):
            check.part(name, parts[name])
    result = {"device": check.name, "torch": torch.__version__, "rows": check.rows}
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.json}")
    return 1 if any(row.get("ok") is False for row in check.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
