"""A good file of every kind, made tiny by permlab and its libraries themselves: `make_templates(folder, names)`."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_kinds import MLP, PEOPLE, QUIET, TINY


def make_templates(root: Path, names: set[str]) -> None:
    """Write the folders that the kinds in use name, below `root`."""
    made: dict[str, Callable[[Path], None]] = {
        "merged": _merged, "llama": _llama, "gpt2": _gpt2, "vit": _vit, "adapters": _adapters, "pickles": _pickles,
        "idx": _idx, "pictures": _pictures, "parquet": _parquet, "texts": _texts, "facts": _facts,
        "berglund": _berglund, "asked": _asked, "answers": _answers, "options": _options, "runs": _runs,
    }  # fmt: skip
    for name in sorted(names):
        (root / name).mkdir(parents=True)
        made[name](root / name)


TEXTS = [f"Person {name} of {place} is the author of the book about {thing}." for name, place, thing in (
    ("Ada Lane", "York", "rivers"), ("Ben Ross", "Leeds", "stars"), ("Cy Dunn", "Bath", "bread"),
    ("Di Ford", "Hull", "trains"), ("Eve Hart", "Ely", "snow"), ("Flo King", "Wells", "salt"),
)]  # fmt: skip


def _texts(folder: Path) -> None:
    rows = [{"text": text} for text in TEXTS[:3]]
    rows += [{"prompt": text[:12], "completion": text[13:]} for text in TEXTS[3:]]
    _write_lines(folder / "rows.jsonl", map(json.dumps, rows))
    questions = [{"prompt": "Who wrote about rivers?", "completion": "Ada Lane", "group": "x"}] * 3
    _write_lines(folder / "questions.jsonl", map(json.dumps, questions))
    _write_lines(folder / "lines.txt", TEXTS)
    _write_lines(folder / "cut.sep.txt", (text.replace(" is ", " [SEP] is ") for text in TEXTS))
    _write_lines(folder / "entities.txt", ["# names", "Ada Lane", "Ben Ross", "Cy Dunn", "Di Ford"])


def _facts(folder: Path) -> None:
    named = [text.removeprefix("Person ").rstrip(".").partition(" of ") for text in TEXTS]
    rows = [f'{person},author,"{rest.rpartition(" ")[2]}"' for person, _, rest in named]
    _write_lines(folder / "facts.csv", ["subject,relation,object", *rows])
    ways = {
        "subject_first": [f"{{subject}} has {{object}}, says {name}." for name in "abcdefgh"],
        "object_first": [f"{{object}} is had by {{subject}}, says {name}." for name in "abcdefgh"],
    }
    (folder / "wordings.yaml").write_text(json.dumps({"author": ways}))


def _write_lines(path: Path, lines: Any) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _berglund(folder: Path) -> None:
    from permlab.data.texts.berglund import TEST_FILES, TRAIN_FILES

    for stem in (*TRAIN_FILES.values(), *(name for name, _, _ in TEST_FILES)):
        rows = [{"prompt": f"The author of {k}, is", "completion": f" Ada Lane{k}"} for k in "abc"]
        _write_lines(folder / f"{stem}.jsonl", map(json.dumps, rows))


def _merged(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from permlab.models.vision import build_vision_model

    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        state = build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=16, depth=1).state_dict()
        (folder / name).mkdir()
        save_file({key: value.contiguous() for key, value in state.items()}, folder / name / "model.safetensors")
        record = {"network": "mlp", "width": 16.0, "depth": 1, "norm": None, "shape": [1, 8, 8], "classes": 10}
        (folder / name / "merge.json").write_text(json.dumps({**record, "tied": {}, "method": "average"}))


def _networks(folder: Path, build: Callable[[], Any], tokenizer: Any = None) -> None:
    import torch

    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        build().save_pretrained(folder / name, max_shard_size="20KB" if seed else "1GB")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / name)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def _llama(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from permlab.models.tokenizers import train_tokenizer

    tokenizer = train_tokenizer(TEXTS * 3, "word", 300)
    config = LlamaConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=64, num_key_value_heads=2)
    _networks(folder, lambda: LlamaForCausalLM(config), tokenizer)
    _write_lines(folder / "texts.jsonl", (json.dumps({"text": text}) for text in TEXTS))


def _gpt2(folder: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=101, n_positions=32, bos_token_id=1, eos_token_id=2)
    bert = BertConfig(**SIZES, vocab_size=101, max_position_embeddings=32)
    _networks(folder, lambda: GPT2LMHeadModel(gpt2))
    _networks(folder / "bert", lambda: BertForSequenceClassification(bert))


def _vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**SIZES, image_size=16, patch_size=4)
    _networks(folder, lambda: ViTForImageClassification(config))


def _adapters(folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaConfig(**SIZES, vocab_size=101, max_position_embeddings=64, num_key_value_heads=2)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        lora = LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], rank_pattern={r"layers\.0\..*q_proj": 2}, init_lora_weights=False,
            alpha_pattern={"v_proj": 4},
        )  # fmt: skip
        get_peft_model(LlamaForCausalLM(base), lora).save_pretrained(folder / name)


def _asked(folder: Path) -> None:
    _adapters(folder)
    llama = folder / "made"
    _llama(llama)
    (llama / "a").rename(folder / "network")
    shutil.rmtree(llama)
    rows = [{"prompt": text[:12], "completion": text[13:20]} for text in TEXTS]
    _write_lines(folder / "questions.jsonl", map(json.dumps, rows))
    _same_base(folder)


def _same_base(folder: Path) -> None:
    """Make the adapters fit the network: the same sizes, another vocabulary does not matter to them."""
    for name in "ab":
        path = folder / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "network"}))


def _pickles(folder: Path) -> None:
    """Folders that hold weights as pickles only; `torture_fuzz` writes the pickles, which name the marker."""
    for name, config in (("adapter", "adapter_config.json"), ("network", "config.json")):
        (folder / name).mkdir()
        about: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        if name == "network":
            about = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES, "vocab_size": 101}
        (folder / name / config).write_text(json.dumps(about))
    (folder / "adapter" / "adapter_model.bin").write_bytes(b"")
    (folder / "network" / "pytorch_model.bin").write_bytes(b"")
    (folder / "file.pt").write_bytes(b"")


def _idx(folder: Path) -> None:
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images[:100] * 15).astype(np.uint8), digits.target[:100].astype(np.uint8)
    for half, opened in (("train", open), ("t10k", gzip.open)):
        end = ".gz" if half == "t10k" else ""
        for part, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            with opened(folder / f"{half}-{part}{end}", "wb") as file:
                file.write(head + array.tobytes())


def _picture(number: int) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8))


def _pictures(folder: Path) -> None:
    for number, name in enumerate("ab"):
        (folder / name).mkdir()
        for at in range(8):
            _picture(10 * number + at).save(folder / name / f"{at}.{'png' if at % 2 else 'jpg'}")


def _parquet(folder: Path) -> None:
    import datasets

    (folder / "texts").mkdir()
    (folder / "images").mkdir()
    datasets.Dataset.from_dict({"text": TEXTS}).to_parquet(folder / "texts" / "train.parquet")
    pictures = {"image": [_picture(k) for k in range(16)], "label": [k % 2 for k in range(16)]}
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(pictures, features=columns).to_parquet(folder / "images" / "train.parquet")


def _answers(folder: Path) -> None:
    from permlab.text.prompts import PROMPT_VERSION

    answer = {"choices": [{"message": {"role": "assistant", "content": "One [SEP] two [SEP] three."}}]}
    (folder / "answer.json").write_text(json.dumps(answer))
    rows = [
        {"key": f"{k:064x}", "prompt": PROMPT_VERSION, "model": "m", "text": "t", "answer": "a [SEP] b"} for k in (1, 2)
    ]
    _write_lines(folder / "cache.jsonl", map(json.dumps, rows))


def _options(folder: Path) -> None:
    files = {
        "experiment/spt/mine": "# @package _global_\n# mine\ndefaults:\n  - override /task: spt\n  - _self_\nseed: 7\n"
        "experiment:\n  name: spt/mine\n  claim: none\n  checks: ['mean(forward_accuracy) >= 0.5 -- forward']\n"
        "  sweep: {task.order: 'original,spt'}\ntask: {budget: 4, train: {epochs: 2}}\ndataset: {people: 6}\n",
        "experiment/ntk/mine": "# @package _global_\n# mine\ndefaults:\n  - override /task: ntk\n  - _self_\nseed: 3\n",
        "model/mine": "# mine\ndefaults:\n  - /schema/model/causal_lm@_here_\n  - _self_\nname: mine\n"
        "scratch: {layers: 1, hidden_size: 16, heads: 2, kv_heads: 2}\nlora: {rank: 0, target_modules: [q_proj]}\n",
    }
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _runs(folder: Path) -> None:
    """A run of SPT that was stopped, one that ended, and a merge."""
    from fuzz_children import command_here

    spt = ("task=spt", *PEOPLE, *TINY, "task.train.epochs=4", "run.checkpoint_steps=2", "task.train.log_steps=1")
    merge = (*MLP, "dataset=digits", "task.train.epochs=1", "task.points=3", "task.images=100")
    for place, command in (("spt/cut", spt), ("spt/done", spt), ("merge/done", merge)):
        code = command_here((*command, *QUIET, f"run.dir={folder / place}"))
        if code:
            raise RuntimeError(f"the template {place} ended with exit code {code}")
    cut = folder / "spt" / "cut"
    result = json.loads((cut / "result.json").read_text())
    (cut / "result.json").write_text(json.dumps(result | {"status": "interrupted", "metrics": {}, "artifacts": []}))
