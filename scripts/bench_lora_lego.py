"""Time LEGO and the svd merge on eight rank-16 adapters with the module shapes of Llama-3.2-1B.

    python scripts/bench_lora_lego.py            # about 3 minutes, most of it PEFT's dense SVD of two modules
    python scripts/bench_lora_lego.py --peft-modules k_proj

Random factors, 16 layers x 7 modules, float32 safetensors on disk. Peak memory is that of a fresh process that opens
the folders, merges and writes, less what the same process holds after its imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {
    "self_attn.q_proj": (2048, 2048),
    "self_attn.k_proj": (512, 2048),
    "self_attn.v_proj": (512, 2048),
    "self_attn.o_proj": (2048, 2048),
    "mlp.gate_proj": (8192, 2048),
    "mlp.up_proj": (8192, 2048),
    "mlp.down_proj": (2048, 8192),
}
LAYERS, ADAPTERS, RANK = 16, 8, 16


def make_adapters(folder: Path) -> list[Path]:
    """Write the random adapters, one module at a time."""
    from permlab.adapters import random_adapter, write_adapter

    shapes = {f"model.layers.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    paths = []
    for index in range(ADAPTERS):
        paths.append(folder / f"adapter-{index}")
        write_adapter(paths[-1], random_adapter(paths[-1].name, shapes, RANK, index))
    return paths


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def merge_once(folder: Path, method: str) -> None:
    """The measured process: prints one JSON line."""
    import torch  # noqa: F401  imported before the baseline is taken

    from permlab.adapters import MergeRule, open_adapter, write_merge

    paths = sorted(folder.glob("adapter-*"))
    before = peak_bytes()
    start = time.perf_counter()
    adapters = [open_adapter(path) for path in paths]
    merged = write_merge(folder / f"merged-{method}", adapters, MergeRule(method, gauge="none"))  # as in the paper
    seconds = time.perf_counter() - start
    reports = list(merged.reports.values())
    ratio = sum(report.norm_ratio for report in reports) / len(reports) if reports else None
    size = sum(adapter.n_bytes() for adapter in adapters)
    line = {"seconds": seconds, "peak_bytes": peak_bytes() - before, "input_bytes": size, "norm_ratio": ratio}
    print(json.dumps(line))


def our_svd_seconds(folder: Path, modules: list[str], layer: int) -> float:
    """Seconds of our svd merge for one layer's `modules`, reading included."""
    from permlab.adapters import MemoryAdapter, MergeRule, merge_adapters, open_adapter

    opened = [open_adapter(path) for path in sorted(folder.glob("adapter-*"))]
    start = time.perf_counter()
    subset = []
    for adapter in opened:
        names = [f"model.layers.{layer}.{module}" for module in modules]
        subset.append(MemoryAdapter(adapter.name, {name: adapter.load(name) for name in names}))
    merge_adapters(subset, MergeRule(method="svd", rank=RANK))
    return time.perf_counter() - start


def peft_svd_seconds(folder: Path, modules: list[str]) -> float:
    """Seconds of PEFT's add_weighted_adapter(combination_type="svd") for the same modules of one layer."""
    import peft
    import torch
    from torch import nn

    from permlab.adapters import open_adapter

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for module in modules:
                d_out, d_in = SHAPES[module]
                setattr(self, module.replace(".", "_"), nn.Linear(d_in, d_out, bias=False))

    names = [module.replace(".", "_") for module in modules]
    model = None
    for path in sorted(folder.glob("adapter-*")):
        config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names)
        if model is None:
            model = peft.get_peft_model(Layer(), config, adapter_name=path.name)
        else:
            model.add_adapter(path.name, config)
        opened = open_adapter(path)
        for module, name in zip(modules, names):
            layer = getattr(model.base_model.model, name)
            part = opened.load(f"model.layers.0.{module}")
            with torch.no_grad():
                layer.lora_A[path.name].weight.copy_(part.a)
                layer.lora_B[path.name].weight.copy_(part.b)
    inputs = [path.name for path in sorted(folder.glob("adapter-*"))]
    start = time.perf_counter()
    model.add_weighted_adapter(inputs, [1.0] * len(inputs), "merged", combination_type="svd", svd_rank=RANK)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peft-modules", default="self_attn.q_proj,self_attn.k_proj", help="subset timed with PEFT")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "METHOD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        merge_once(Path(arguments.worker[0]), arguments.worker[1])
        return
    modules = arguments.peft_modules.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_adapters(folder)
        for method in ("lego", "svd", "knots"):
            command = [sys.executable, __file__, "--worker", name, method]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            share = found["peak_bytes"] / found["input_bytes"]
            print(
                f"{method:6s} {found['seconds']:6.2f} s for {LAYERS * len(SHAPES)} modules, written to disk; "
                f"peak memory {share:.2f} x the {found['input_bytes'] / 2**20:.0f} MiB of the adapters"
            )
        our_svd_seconds(folder, modules, LAYERS - 1)  # the first call of a process also starts its libraries
        before = [our_svd_seconds(folder, modules, layer) for layer in (0, 1)]
        theirs = peft_svd_seconds(folder, modules)
        ours = statistics.median(before + [our_svd_seconds(folder, modules, layer) for layer in (2, 3, 4)])
        print(
            f"svd of {', '.join(modules)} of one layer: ours {ours:.3f} s (median of five layers, before and after "
            f"PEFT), PEFT {theirs:.1f} s, {theirs / ours:.0f} x"
        )


if __name__ == "__main__":
    main()
