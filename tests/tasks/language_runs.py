"""Runs of `permlab task=merge` on language models in this process: networks that speak, and what is read back."""

from __future__ import annotations

from checkpoints_made import network
from here import command, rows

from permlab.merging.measure.summary import NAMES
from permlab.models.tokenizers import train_tokenizer
from permlab.symmetry import declare_huggingface

TINY = [
    "model=tiny-llama", "dataset=people", "dataset.people=6", "dataset.templates=2", "model.scratch.hidden_size=32",
    "model.scratch.layers=2", "model.scratch.kv_heads=2", "model.scratch.intermediate_size=48", "task.points=3",
    "task.train.epochs=2", "task.train.batch_size=8",
]  # fmt: skip
TEXTS = ["the cat sat on the mat", "a dog ran to the cat", "the dog sat", "a cat ran to the mat and sat there"]


def merge(*arguments: str) -> int:
    return command("task=merge", *arguments)


def arms(run="run") -> dict[tuple[str, str], dict[str, float]]:
    """(arm, set of texts) -> numbers of its last pair."""
    found = {}
    for row in rows("arms", run):
        numbers = {k: float(v) for k, v in row.items() if v and k not in NAMES}
        train = {k.removeprefix("train_"): v for k, v in numbers.items() if k.startswith("train_")}
        test = {k: v for k, v in numbers.items() if not k.startswith("train_")}
        for name, own in (("test", test), ("train", train)):
            if own:
                found[row["arm"], name] = own | {"loss": own.get("midpoint_loss")}
    return found


def speakers(folder, name="llama-tied", change=None):
    """Folders a and b with a tokenizer each, and a file of texts."""
    tokenizer = train_tokenizer(TEXTS, "word", 101)
    model = network(name, 0)
    spec = declare_huggingface(model.config, model.state_dict())
    for at, letter in enumerate("ab"):
        other = network(name, at)
        if change is not None and at:
            other.load_state_dict(change(spec, model.state_dict()))
        other.save_pretrained(folder / letter)
        tokenizer.save_pretrained(folder / letter)
    (folder / "texts.txt").write_text("\n".join(TEXTS * 1))
    return f"task.models=[{folder}/a,{folder}/b]", ["dataset=jsonl", f"dataset.path={folder}/texts.txt"]
