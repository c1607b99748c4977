"""Does ordering cost training speed, and how fast does the command start? Prints ratios.

    python scripts/bench_spt.py                                # about three minutes on 2 cores
    python scripts/bench_spt.py --only packing --threads 1     # beside other programs: seconds of one processor

Training: the same model on the same texts through permlab's stream (order=spt, drawn anew every epoch) and through the
plain transformers Trainer over token lists made before, in one process, alternating, in tokens per second; and through
our Trainer with texts packed into rows of 128 tokens (`task.train.pack=128`). Packing once more on texts of very
different lengths (one to eight of the same sentences, half of them one), where rows of their own are mostly padding.
Start-up: `permlab --version` and `--help` against a minimal Hydra application, fresh processes, alternating.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTHS = (1, 8, 1, 3, 1, 1, 5, 2)
"""Sentences of the uneven texts, in turn."""
MINIMAL_HYDRA = """
import hydra
@hydra.main(version_base="1.3", config_path=None)
def main(config): print("done")
main()
"""


def bench_training(rounds: int, epochs: int, threads: int | None, *, uneven: bool = False, plain: bool = True) -> None:
    """Alternate our Trainer, the plain one and packing on the embedded default.

    Args:
        rounds: how often.
        epochs: readings of every text in each.
        threads: of torch; of one thread the seconds of the processor count, which other programs do not take.
        uneven: texts of one to eight sentences in place of one.
        plain: the plain Trainer too.
    """
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from permlab.data import Example, people_corpus
    from permlab.models.causal_lm import load_causal_lm
    from permlab.models.causal_lm_config import CausalLMConfig
    from permlab.text import Hooks, OrderedTexts, Ordering, TrainingSettings, encoder, make_trainer
    from permlab.text.batches import Collator
    from permlab.threads import set_threads

    set_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    corpus = people_corpus()
    if uneven:
        sentences = iter([example.text for example in corpus.examples])
        joined = [" ".join(itertools.islice(sentences, count)) for count in LENGTHS * len(corpus.examples)]
        corpus.examples = [Example(text) for text in joined if text]
    texts = [example.text for example in corpus.examples]
    order = "original" if uneven else "spt"

    def fresh() -> tuple:
        return load_causal_lm(CausalLMConfig(), texts, torch.float32, torch.device("cpu"), seed=0)

    def ours(folder: Path, pack: int = 0) -> float:
        model, tokenizer = fresh()
        ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
        stream = OrderedTexts(corpus.examples, encoder(tokenizer), Ordering(order=order), epochs=epochs, seed=0, **ids)
        hooks = Hooks(lambda step, loss, rate: (False, False))
        trainer = make_trainer(model, tokenizer.pad_token_id, stream, folder, TrainingSettings(pack=pack), hooks)
        began = clock()
        trainer.train()
        seconds = clock() - began
        return sum(len(stream[i]["input_ids"]) for i in range(len(stream))) / seconds

    def packed(folder: Path) -> float:
        return ours(folder, pack=128)

    def simple(folder: Path) -> float:
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
        began = clock()
        trainer.train()
        seconds = clock() - began
        return epochs * sum(len(row["input_ids"]) for row in rows) / seconds

    with tempfile.TemporaryDirectory() as folder:
        sides = {"ours": ours, "packed": packed} | ({"plain": simple} if plain else {})
        for side in sides.values():  # warm all of them up: imports, allocator, thread pool
            side(Path(folder))
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in sides if number % 2 == 0 else reversed(sides):
                speeds[name].append(sides[name](Path(folder)))
            print(f"round {number}, tokens/s: " + ", ".join(f"{name} {each[-1]:,.0f}" for name, each in speeds.items()))
    print(
        f"{'uneven' if uneven else 'even'} texts, medians of {rounds} rounds, tokens per second of "
        + ("a processor" if threads == 1 else "time")
    )
    for name, each in speeds.items():
        ratio = statistics.median(mine / other for mine, other in zip(each, speeds["ours"], strict=True))
        print(f"{name:8} {statistics.median(each):>8,.0f}   {ratio:.3f} of ours, a row for every text")


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
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, help="of torch; as the work wants where this is not given")
    parser.add_argument("--only", choices=("startup", "training", "packing"))
    options = parser.parse_args()
    training = (options.rounds, options.epochs, options.threads)
    if options.only in (None, "startup"):
        bench_startup(options.rounds)
    if options.only in (None, "training", "packing"):
        bench_training(*training, plain=options.only != "packing")
    if options.only in (None, "packing"):
        bench_training(*training, plain=False, uneven=True)


if __name__ == "__main__":
    main()
