"""Does ordering cost training speed, and how fast does the command start? Prints ratios.

    python scripts/bench_spt.py            # about three minutes on 2 cores

Training: the same model on the same texts through permlab's stream (order=spt, drawn anew every epoch) and through the
plain transformers Trainer over token lists made before, in one process, alternating, in tokens per second; and through
our Trainer with texts packed into rows of 128 tokens (`task.train.pack=128`). Start-up:
`permlab --version` and `--help` against a minimal Hydra application, fresh processes, alternating.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MINIMAL_HYDRA = """
import hydra
@hydra.main(version_base="1.3", config_path=None)
def main(config): print("done")
main()
"""


def bench_training(rounds: int, epochs: int) -> None:
    """Alternate our Trainer and the plain one on the embedded default."""
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from permlab.data import people_corpus
    from permlab.models.causal_lm import load_causal_lm
    from permlab.models.causal_lm_config import CausalLMConfig
    from permlab.text import Hooks, OrderedTexts, Ordering, TrainingSettings, encoder, make_trainer
    from permlab.text.batches import Collator
    from permlab.threads import set_threads

    set_threads(None)
    corpus = people_corpus()
    texts = [example.text for example in corpus.examples]

    def fresh() -> tuple:
        return load_causal_lm(CausalLMConfig(), texts, torch.float32, torch.device("cpu"), seed=0)

    def ours(folder: Path, pack: int = 0) -> float:
        model, tokenizer = fresh()
        ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
        stream = OrderedTexts(corpus.examples, encoder(tokenizer), Ordering(), epochs=epochs, seed=0, **ids)
        hooks = Hooks(lambda step, loss, rate: (False, False))
        trainer = make_trainer(model, tokenizer.pad_token_id, stream, folder, TrainingSettings(pack=pack), hooks)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        return sum(len(stream[i]["input_ids"]) for i in range(len(stream))) / seconds

    def packed(folder: Path) -> float:
        return ours(folder, pack=128)

    def plain(folder: Path) -> float:
        model, tokenizer = fresh()
        rows = [
            {"input_ids": [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]} for ids in encoder(tokenizer)(texts)
        ]
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=TrainingSettings().batch_size,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            optim="adamw_torch_fused",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, data_collator=Collator(tokenizer.pad_token_id)
        )
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        return epochs * sum(len(row["input_ids"]) for row in rows) / seconds

    with tempfile.TemporaryDirectory() as folder:
        ours(Path(folder))  # warm both sides up: imports, allocator, thread pool
        plain(Path(folder))
        pairs, packings = [], []
        for number in range(rounds):
            sides = (ours, plain, packed) if number % 2 == 0 else (packed, plain, ours)
            speeds = {side.__name__: side(Path(folder)) for side in sides}
            pairs.append((speeds["ours"], speeds["plain"]))
            packings.append(speeds["packed"] / speeds["ours"])
            shown = ", ".join(f"{side} {speed:,.0f}" for side, speed in sorted(speeds.items()))
            print(f"round {number}, tokens/s: {shown}")
    ratios = [mine / theirs for mine, theirs in pairs]
    print(f"training tokens per second, ours / plain: median ratio {statistics.median(ratios):.3f} of {rounds} rounds")
    print(f"packed / a row for every text: median ratio {statistics.median(packings):.3f} of {rounds} rounds")


def bench_startup(rounds: int) -> None:
    """Alternate fresh processes; the smallest of each counts, the rest is noise of the machine."""
    command = str(Path(sys.executable).with_name("permlab"))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "minimal.py"
        script.write_text(MINIMAL_HYDRA)
        sides = {
            "permlab --version": [command, "--version"],
            "permlab --help": [command, "--help"],
            "permlab task=sptt (a mistake)": [command, "task=sptt"],
            "minimal Hydra app --help": [sys.executable, str(script), "--help"],
            "minimal Hydra app": [sys.executable, str(script), f"hydra.run.dir={folder}/out"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, arguments in sides.items():
                began = time.perf_counter()
                subprocess.run(arguments, capture_output=True, check=False, cwd=folder)
                seconds[name].append(time.perf_counter() - began)
    base = min(seconds["minimal Hydra app --help"])
    for name, measured in seconds.items():
        print(f"{name:32} {min(measured):.3f} s, {min(measured) / base:.2f} of the minimal Hydra app's --help")


def main() -> None:
    """Run both benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    bench_startup(options.rounds)
    bench_training(options.rounds, options.epochs)


if __name__ == "__main__":
    main()
