r"""Memory and time of merging networks on disk: `python scripts/bench_streaming.py --folder DIR`.

Writes Llamas of random bfloat16 weights to DIR (1.24 billion parameters each unless told otherwise: 2.3 GiB a network,
two networks, their ancestor where a method reads one, and one merge at a time; 17 million normal numbers, repeated),
then merges them in every way in a process of its own and prints peak anonymous memory (what the page cache cannot give
back), CPU seconds, and gigabytes a second beside those of copying one file. A Llama of 7 billion parameters:

    python scripts/bench_streaming.py --folder DIR --hidden 4096 --inner 11008 --layers 32 --vocab 32000 \
        --head 128 --kv-heads 32 --untied --methods average task_arithmetic
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from permlab.merging.table import COMBINES
from permlab.storage.tensors import SafetensorsStream
from permlab.symmetry import row_ranges

PLAIN = tuple(name for name, row in COMBINES.items() if row.streams and not row.files)
ANCESTRAL = tuple(name for name in PLAIN if "ancestor" in COMBINES[name].needs)
DRAWN = 16_777_259
"""Numbers that are drawn for a network; a prime."""


def names_of(count: int) -> list[str]:
    """Folders of so many networks."""
    return list("abcdefgh"[:count])


def make(folder: Path, options: argparse.Namespace) -> int:
    """Write the networks that are not there yet; bytes of one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from permlab.merging.networks.verification import empty_module

    config = LlamaConfig(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // options.head,
        num_key_value_heads=options.kv_heads or max(1, options.hidden // (4 * options.head)),
        intermediate_size=options.inner,
        vocab_size=options.vocab,
        tie_word_embeddings=not options.untied,
        architectures=["LlamaForCausalLM"],
    )
    module = empty_module(config, LlamaForCausalLM)
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    ancestral = set(options.methods) & set(ANCESTRAL)
    for seed, name in enumerate([*names_of(options.networks), *(["base"] if ancestral else [])]):
        place = folder / name
        if (place / "model.safetensors").is_file():
            continue
        place.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(place)
        if options.sparse:
            sparse_file(place / "model.safetensors", shapes)
            continue
        stated, numbers = {key: (shape, torch.bfloat16) for key, shape in shapes.items()}, Numbers(seed)
        with SafetensorsStream(place / "model.safetensors", stated) as file:
            for key, shape in shapes.items():
                row = math.prod(shape[1:])
                file.put_rows(key, (numbers.next(stop - start, row) for start, stop in row_ranges(shape)))
    return (folder / "a" / "model.safetensors").stat().st_size


class Numbers:
    """Normal numbers over and over: drawing billions would take longer than merging them.

    Their count is a prime, so that no two rows of a tensor are alike until as many of them have been read.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.drawn = (torch.randn(DRAWN, generator=generator) * 0.02).to(torch.bfloat16)
        self.at = 0

    def next(self, rows: int, row: int) -> Tensor:
        """The next so many rows."""
        parts, left = [], rows * row
        while left:
            part = self.drawn[self.at : self.at + left]
            self.at, left = (self.at + len(part)) % DRAWN, left - len(part)
            parts.append(part)
        return torch.cat(parts).reshape(rows, row)


def sparse_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of zeros that takes no disk: what the plain methods do with it takes the memory of any other numbers."""
    header, offset = {}, 0
    for key, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


class Anonymous:
    """Peak of this process's anonymous memory, looked at every 10 ms."""

    def __init__(self) -> None:
        self.peak, self.going = 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    @staticmethod
    def now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def _watch(self) -> None:
        while self.going:
            self.peak = max(self.peak, self.now())
            time.sleep(0.01)


def child(folder: Path, networks: int, method: str, memory_gb: float) -> None:
    """Merge in one way and print what it took."""
    from permlab.matching import match_networks
    from permlab.matching.memory import Memory
    from permlab.matching.setting import MatchSetting
    from permlab.merging import load_networks, save_network
    from permlab.merging.arm import Arm
    from permlab.merging.merge import combine_stored
    from permlab.merging.setting import Setting

    torch.set_num_threads(1)
    watch, before = Anonymous(), Anonymous.now()
    cpu, wall = time.process_time(), time.perf_counter()
    ancestor = str(folder / "base") if method in ANCESTRAL else None
    loaded = load_networks([str(folder / name) for name in names_of(networks)], ancestor=ancestor)
    loading = time.process_time() - cpu
    match, combine = ("weight", "average") if method == "weight" else ("identity", method)
    memory = Memory(memory_gb * 2**30, int(min(Memory.piece, memory_gb * 2**30 / 64)))
    setting = MatchSetting(keep_scores=False, memory=memory)
    matching = match_networks(match, loaded.spec, None, loaded.stored, setting)
    matched = time.process_time() - cpu
    merging = Setting(ancestor=loaded.ancestor, density=0.2)
    merged = combine_stored(Arm(match, combine), loaded.spec, loaded.stored, matching, merging)
    out = save_network(folder / "merged", merged, loaded, {"method": method}, shard_size="2GB")
    watch.going = False
    written = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    found = {
        "method": method,
        "peak anonymous GiB": watch.peak / 2**30,
        "libraries GiB": before / 2**30,
        "loading CPU s": loading,
        "matching CPU s": matched - loading,
        "CPU s": time.process_time() - cpu,
        "wall s": time.perf_counter() - wall,
        "GB written": written / 1e9,
        "sweeps": matching.sweeps,
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--head", type=int, default=64, help="units of a head")
    parser.add_argument("--kv-heads", type=int, help="default: one for four heads")
    parser.add_argument("--untied", action="store_true", help="embeddings and unembeddings of their own")
    parser.add_argument("--networks", type=int, default=2, choices=range(2, 9))
    parser.add_argument("--methods", nargs="+", default=[*PLAIN, "weight"], choices=[*PLAIN, "weight"])
    parser.add_argument("--sparse", action="store_true", help="networks of zeros in files of holes, plain methods only")
    parser.add_argument("--memory-gb", type=float, default=3.0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.folder, options.networks, options.child, options.memory_gb)
        return
    size = make(options.folder, options)
    begin = time.perf_counter()
    shutil.copyfile(options.folder / "a" / "model.safetensors", options.folder / "copy")
    copied = size / 1e9 / (time.perf_counter() - begin)
    (options.folder / "copy").unlink()
    print(f"one network: {size / 2**30:.2f} GiB; copying it: {copied:.2f} GB/s")
    for method in options.methods:
        shutil.rmtree(options.folder / "merged", ignore_errors=True)
        command = [sys.executable, __file__, "--folder", str(options.folder), "--child", method]
        command += ["--memory-gb", str(options.memory_gb), "--networks", str(options.networks)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"{method:16} peak anonymous {row['peak anonymous GiB']:.2f} GiB ({row['libraries GiB']:.2f} libraries), "
            f"{row['CPU s']:.1f} CPU s (loading {row['loading CPU s']:.1f}, matching {row['matching CPU s']:.1f}), "
            f"{row['wall s']:.1f} s, {row['GB written'] / row['wall s']:.2f} GB/s written",
            flush=True,
        )
    shutil.rmtree(options.folder / "merged", ignore_errors=True)


if __name__ == "__main__":
    main()
