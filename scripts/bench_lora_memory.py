"""Memory and time of merging ten rank-64 adapters with the module shapes of Llama-3.1-8B.

    python scripts/bench_lora_memory.py                   # linear and lego, ten adapters of 320 MiB
    python scripts/bench_lora_memory.py --methods linear --folder /big/disk

Random bfloat16 factors, 32 layers x 7 modules. Peak memory is that of a fresh process that opens the folders, merges
and writes, less what it holds after its imports. The bound: 1.5 adapters and the output. LEGO starts k-means once for
each module. Processor time is given beside the time that passed: on a busy machine the second says little.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
LAYERS, ADAPTERS, RANK = 32, 10, 64


def make_adapter(path: Path, seed: int, layers: int) -> None:
    """Write one random adapter; modules of one kind have the same entries in all layers, which are merged apart."""
    import torch

    from permlab.adapters import Factors, ModuleInfo, write_adapter

    class Drawn:
        def __init__(self) -> None:
            self.name = path.name
            self.modules = {
                f"model.layers.{layer}.{name}": ModuleInfo(RANK, (d_in,), d_out, 1.0, "linear", torch.bfloat16)
                for layer in range(layers)
                for name, (d_out, d_in) in SHAPES.items()
            }

        @functools.cache  # noqa: B019  as long-lived as one adapter
        def drawn(self, kind: str) -> Factors:
            d_out, d_in = SHAPES[kind]
            draws = torch.Generator().manual_seed(1000 * seed + list(SHAPES).index(kind))
            a = torch.randn(RANK, d_in, generator=draws) / d_in**0.5
            return Factors(a, torch.randn(d_out, RANK, generator=draws) / RANK**0.5)

        def load(self, module: str) -> Factors:
            return self.drawn(module.split(".", 3)[3])

    write_adapter(path, Drawn())


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def merge_once(folder: Path, method: str) -> None:
    """The measured process: prints one JSON line."""
    import torch  # noqa: F401  imported before the baseline is taken

    from permlab.adapters import MergeRule, open_adapter, write_merge

    before, start, worked = peak_bytes(), time.perf_counter(), time.process_time()
    adapters = [open_adapter(path) for path in sorted(folder.glob("adapter-*"))]
    # One start of k-means and one module at a time: what is measured is memory, and these set the time alone.
    rule = MergeRule(method, rank=RANK, n_init=1) if method != "linear" else MergeRule(method)
    write_merge(folder / f"merged-{method}", adapters, rule, workers=1)
    line = {"seconds": time.perf_counter() - start, "worked": time.process_time() - worked}
    line |= {"peak": peak_bytes() - before, "process": peak_bytes()}
    written = open_adapter(folder / f"merged-{method}")
    print(json.dumps(line | {"adapter": adapters[0].n_bytes(), "output": written.n_bytes()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["linear", "lego"])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--folder", type=Path, help="where the adapters are made; removed afterwards")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return merge_once(Path(options.child[1]), options.child[0])
    folder = Path(tempfile.mkdtemp(prefix="permlab-lora-", dir=options.folder))
    try:
        for index in range(ADAPTERS):
            make_adapter(folder / f"adapter-{index}", index, options.layers)
        for method in options.methods:
            command = [sys.executable, __file__, "--child", method, str(folder)]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            bound = 1.5 * found["adapter"] + found["output"]
            mib = {name: f"{found[name] / 2**20:.0f} MiB" for name in ("peak", "adapter", "output", "process")}
            times = f"{found['worked']:.0f} s of one core in {found['seconds']:.0f} s"
            print(
                f"{method:7} {times}; peak {mib['peak']}, {found['peak'] / bound:.2f} of the bound of 1.5 x one "
                f"adapter ({mib['adapter']}) + the output ({mib['output']}); whole process {mib['process']}"
            )
            shutil.rmtree(folder / f"merged-{method}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
