"""Does a second thread pay? `python scripts/bench_threads.py`, on a quiet machine; four minutes on two cores.

Training steps of networks of growing size, with one thread and with all cores, alternately in one process. Prints the
multiply-accumulates of a step, the seconds of both, their ratio, and what `permlab.threads.for_work` would choose.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command has it

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from permlab import threads
from permlab.data import load_digits_images
from permlab.models import build_vision_model
from permlab.probes import Layout, Recipe, Training, Transformer

Steps = Callable[[int], None]


def probe(n: int) -> tuple[float, Steps]:
    training = Training(Transformer(Layout.variant("scratch", n=n)), Recipe(), seeds=[0, 1, 2])

    def steps(count: int) -> None:
        for _ in range(count):
            training.train_step()

    return 3.0 * training.weights.numel() * training.batch * training.model.layout.length, steps


def classifier(name: str, width: float, batch: int = 64) -> tuple[float, Steps]:
    data = load_digits_images()
    model = build_vision_model(name, shape=data.shape, classes=data.classes, width=width)
    x, y = data.x_train[:batch], data.y_train[:batch]
    return threads.macs_of(model, x), trainer(model, lambda: nn.functional.cross_entropy(model(x), y))


def language(hidden: int, layers: int, batch: int = 32, tokens: int = 24) -> tuple[float, Steps]:
    sizes = {"hidden_size": hidden, "intermediate_size": 8 * hidden // 3, "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=330, num_attention_heads=4, tie_word_embeddings=True, **sizes))
    ids = torch.randint(0, 330, (batch, tokens))
    macs = 3.0 * sum(p.numel() for p in model.parameters()) * ids.numel()
    return macs, trainer(model, lambda: model(input_ids=ids, labels=ids).loss)


def trainer(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Steps:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()

    return steps


CASES: dict[str, Callable[[], tuple[float, Steps]]] = {
    "probe n = 10, 3 seeds": lambda: probe(10),
    "probe n = 32, 3 seeds": lambda: probe(32),
    "MLP 128, batch 64": lambda: classifier("mlp", 128),
    "MLP 512, batch 64": lambda: classifier("mlp", 512),
    "MLP 1024, batch 64": lambda: classifier("mlp", 1024),
    "MLP 2048, batch 64": lambda: classifier("mlp", 2048),
    "ResNet x4, batch 64": lambda: classifier("resnet-tiny", 4),
    "Llama 96 x 3, batch 32": lambda: language(96, 3),
    "Llama 256 x 4, batch 32": lambda: language(256, 4),
}


def seconds(steps: Steps, count: int, workers: int) -> float:
    torch.set_num_threads(workers)
    start = time.perf_counter()
    steps(count)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    cores = threads.usable_cores()
    print(f"{'':26}{'MACs a step':>12}{'1 thread':>11}{f'{cores} threads':>11}{'ratio':>7}  chosen")
    for name, case in CASES.items():
        macs, steps = case()
        once = seconds(steps, 2, 1)
        count = max(2, int(1.0 / max(once / 2, 1e-4)))  # about a second a side
        pairs = [(seconds(steps, count, 1) / count, seconds(steps, count, cores) / count) for _ in range(rounds)]
        one, all_cores = (statistics.median(side) for side in zip(*pairs))
        chosen = max(1, min(cores, int(macs / threads.MACS_A_THREAD)))
        print(
            f"{name:26}{macs:12.2e}{one * 1e3:9.2f}ms{all_cores * 1e3:9.2f}ms{one / all_cores:7.2f}  {chosen}",
            flush=True,
        )


if __name__ == "__main__":
    main()
