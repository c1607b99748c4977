"""Every kind of file that permlab reads, for `scripts/torture_fuzz.py`: a good one, and the command that reads it.

The good files are made by permlab and its libraries themselves, tiny, by `make_templates(folder)`.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUIET = ("tracker=none", "hardware=cpu", "hardware.threads=1")
DRY = "run.dry_run=true"
PEOPLE = ("dataset=people", "dataset.people=6", "dataset.templates=2", "dataset.held_out=1")
TINY = (
    *("model.scratch.hidden_size=16", "model.scratch.layers=1", "model.scratch.heads=2", "model.scratch.kv_heads=2"),
    *("model.scratch.intermediate_size=32", "task.train.epochs=1", "task.train.batch_size=8"),
    *("task.evaluation.likelihood=false", "task.evaluation.save_model=false"),
)
MLP = ("task=merge", "model=mlp", "model.width=16", "model.depth=1")


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        name: of the row.
        folder: of the templates; copied for every input.
        targets: which files of it are spoiled, as patterns.
        commands: command lines, `{in}` stands for the folder; one is drawn per input.
        quick: needs no transformers: for the short form.
        weight: how often it is drawn.
        server: an assistant answers at {url}, with the bytes of answer.json.
        codes: exit codes that are documented for this kind.
        writes: whether the command may change its input.
    """

    name: str
    folder: str
    targets: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    quick: bool = False
    weight: int = 2
    server: bool = False
    codes: tuple[int, ...] = (0, 2)
    writes: bool = False


def dry_and_real(*command: str) -> tuple[tuple[str, ...], ...]:
    """Return a command as a dry run and as a run."""
    return (*command, DRY), command


_MODELS = "task.models=[{in}/a,{in}/b]"
_SPT = ("task=spt", *TINY)
_LLM = ("task.segmenter.name=llm", "task.segmenter.model=stand-in", "task.segmenter.base_url={url}")
KINDS = (
    Kind(
        "networks of permlab (safetensors, merge.json)", "merged", ("a/*", "b/*"),
        (
            *dry_and_real("task=merge", "model=none", _MODELS, "task.points=3", "dataset=digits"),
            (*MLP, "task.models=[{in}/a/model.safetensors,{in}/b/model.safetensors]", "dataset=digits", DRY),
        ), quick=True, weight=4,
    ),
    Kind(
        "folders of Hugging Face (config.json, index, safetensors)", "llama", ("a/config.json", "a/*"),
        (
            *dry_and_real("task=merge", "model=none", _MODELS, "dataset=none"),
            ("task=merge", "model=none", _MODELS, "dataset=none"),
        ), weight=4,
    ),
    Kind(
        "GPT-2 and BERT folders", "gpt2", ("a/config.json", "a/*.json", "a/*"),
        dry_and_real("task=merge", "model=none", _MODELS, "dataset=none"),
    ),
    Kind(
        "image classifiers of Hugging Face", "vit", ("a/config.json", "a/*"),
        dry_and_real("task=merge", "model=none", _MODELS, "dataset=none"),
    ),
    Kind(
        "tokenizer and generation files", "llama", ("a/tok*", "a/gen*", "a/special*", "a/config.json", "a/chat*"),
        (
            ("task=merge", "model=none", _MODELS, "dataset=jsonl", "dataset.path={in}/texts.jsonl"),
            (*_SPT, *PEOPLE, "model=local", "model.path={in}/a", "task.train.epochs=0.2"),
        ), weight=3,
    ),
    Kind(
        "adapters of PEFT (config, safetensors, index)", "adapters", ("a/adapter*", "a/adapter_config.json", "b/adap*"),
        (
            ("task=lora_lego", "model=none", "task.adapters=[{in}/a,{in}/b]", DRY),
            ("task=lora_lego", "model=none", "task.adapters=[{in}/a,{in}/b]", DRY),
            ("task=lora_lego", "model=none", "task.adapters=[{in}/a,{in}/b]", "task.rank=2", "task.spread_seeds=0"),
        ), quick=True, weight=4,
    ),
    Kind(
        "pickles in the place of weights", "pickles", ("*/*.bin", "*.pt"),
        (
            ("task=lora_lego", "model=none", "task.adapters=[{in}/adapter,{in}/adapter]", DRY),
            ("task=merge", "model=none", "task.models=[{in}/network,{in}/network]", "dataset=none"),
            ("task=merge", "model=none", "task.models=[{in}/file.pt,{in}/file.pt]", "dataset=none"),
            (*_SPT, *PEOPLE, "model=local", "model.path={in}/network", "task.train.epochs=0.2"),
        ), weight=1,
    ),
    Kind(
        "IDX files, gzipped or not", "idx", ("*",), ((*MLP, "dataset=mnist", "dataset.path={in}", DRY),), quick=True,
    ),
    Kind(
        "folders of pictures", "pictures", ("*/*.png", "*/*.jpg"),
        ((*MLP, "dataset=imagefolder", "dataset.path={in}", "dataset.side=8", DRY),), quick=True,
    ),
    Kind(
        "Parquet: texts and pictures", "parquet", ("*/*",),
        (
            (*_SPT, "dataset=hub", "dataset.path={in}/texts", DRY),
            (*MLP, "dataset=hub", "dataset.path={in}/images", "dataset.side=8", DRY),
        ),
    ),
    Kind(
        "JSON lines and texts", "texts", ("*",),
        (
            (*_SPT, "dataset=jsonl", "dataset.path={in}/rows.jsonl", "dataset.test_path={in}/questions.jsonl", DRY),
            (*_SPT, "dataset=jsonl", "dataset.path={in}/rows.jsonl", "dataset.on_bad_row=skip", DRY),
            (*_SPT, "dataset=jsonl", "dataset.path={in}/lines.txt", DRY),
            (*_SPT, "dataset=jsonl", "dataset.path={in}/lines.txt"),
        ), quick=True, weight=3,
    ),
    Kind(
        "presegmented texts", "texts", ("cut.sep.txt", "questions.jsonl"),
        (
            (*_SPT, "dataset=presegmented", "dataset.path={in}/cut.sep.txt", DRY),
            (*_SPT, "dataset=presegmented", "dataset.path={in}/cut.sep.txt", "dataset.test_path={in}/questions.jsonl"),
        ), quick=True, weight=1,
    ),
    Kind(
        "the Berglund folder", "berglund", ("*",), ((*_SPT, "dataset=berglund", "dataset.path={in}", DRY),),
        quick=True, weight=1,
    ),
    Kind(
        "lists of entities", "texts", ("entities.txt",),
        (
            (
                *_SPT, "dataset=jsonl", "dataset.path={in}/lines.txt", "task.segmenter.name=entities",
                "task.segmenter.entities={in}/entities.txt",
            ),
        ), weight=1,
    ),
    Kind(
        "questions for merged adapters", "asked", ("questions.jsonl",),
        (
            (
                "task=lora_lego", "model=local", "model.path={in}/network", "task.adapters=[{in}/a,{in}/b]",
                "task.data=[{in}/questions.jsonl,{in}/questions.jsonl]", "task.rank=2", "task.spread_seeds=0",
            ),
        ), weight=1,
    ),
    Kind(
        "caches of answers", "answers", ("cache.jsonl",),
        ((*_SPT, *PEOPLE, *_LLM, "task.segmenter.cache={in}/cache.jsonl"),),
        server=True, writes=True, weight=1,
    ),
    Kind(
        "answers of an assistant", "answers", ("answer.json",), ((*_SPT, *PEOPLE, *_LLM),), server=True, weight=2,
    ),
    Kind(
        "YAML in --config-dir", "options", ("*/*/*.yaml", "*/*.yaml"),
        (
            ("--config-dir", "{in}", "experiment=spt/mine", DRY),
            ("--config-dir", "{in}", "task=ntk", "experiment=ntk/mine", DRY),
            ("--config-dir", "{in}", "model=mine", "task=spt", DRY),
        ), quick=True, weight=4,
    ),
    Kind("overrides on the command line", "texts", (), (), quick=True, weight=4),
    Kind("run directories that are resumed", "runs", ("spt/cut/*", "spt/cut/*/*", "spt/cut/*/*/*"),
         (("resume", "{in}/spt/cut"),), weight=4, writes=True),
    Kind("run directories in a report", "runs", ("*/*/*", "*/*/*/*"),
         (("task=report", "report.runs=[{in}]"),), weight=4),
)  # fmt: skip

OVERRIDES = (
    "seed=7", "dataset.people=6", "task.train.epochs=1", "task.order=spt", "task.budget=4", "model.scratch.layers=1",
    "model.scratch.hidden_size=16", "model.vocab_size=512", "task.segmenter.name=rule", "hardware.threads=1",
    "run.name=x", "model.lora.rank=2", "task.train.batch_size=4", "dataset.templates=2", "model.width=16",
    "model.depth=1", "task=merge", "task=ntk", "task=lora_lego", "model=mlp", "dataset=digits", "task.train.rate=0.1",
    "task.pairs=2", "task.points=3", "task=inverse_permutation", "task.compare=[weight/average]", "run.root=outputs",
    "experiment=spt/quick", "report.runs=[outputs]", "task.models=[a,b]", "plugins=[x]", "hydra.run.dir=x",
)  # fmt: skip
VALUES = (
    "1e308", "-1", "9223372036854775808", "1000000000", "10000000", "nan", "inf", "null", "''", "[]", "{}", "[[1]]",
    "[" * 2000, "{a:" * 500, "1,2", "range(1,1000000000)", "range(0,1e308,1e-9)", "range(1,5,0)", "choice(1,2)",
    "shuffle(range(0,1000000000))", "sort(3,2,1)", "interval(0,1)", "glob(*)", "${oc.env:HOME}", "${seed}", "${x",
    "größe",
    "a" * 20_000, "\x1b[31mred", "\u202egnp", "'\u2028'", "a b", "a=b", "%", "\\", "\udcff", "!!python/x", "~", "true",
    "../..", "/dev/null", "/dev/zero", "1e9", "0", "1_000", "0x10", "'", '"', "$(id)", "1,range(1,99999)", "x" * 300,
)  # fmt: skip


def draw_overrides(rng: Any) -> tuple[str, ...]:
    """Return a command line with values that nobody would give, and keys that are none."""
    given = [rng.choice(OVERRIDES) for _ in range(rng.choice((1, 1, 2, 3)))]
    for at, text in enumerate(given):
        key, _, value = text.partition("=")
        way = rng.random()
        if way < 0.7:
            given[at] = f"{key}={rng.choice(VALUES)}"
        elif way < 0.8:
            given[at] = f"{rng.choice(('+', '++', '~', '', '.', '='))}{key}{rng.choice(('', '=', '.x='))}{value}"
        elif way < 0.9:
            given[at] = f"{key}.{rng.choice(('', 'a', '0', '__class__', 'x' * 500))}={value}"
        else:
            cut = rng.randrange(len(text) + 1)
            given[at] = text[:cut] + rng.choice(VALUES)[:2000] + text[cut:]
    flags = [[], [], ["-m"], ["-m"], ["--config-dir", "nowhere"], ["--cfg"], ["--config-name", "x"]]
    return (*rng.choice(flags), *given, DRY)


# ---- the good files --------------------------------------------------------------------------------------------------


def make_templates(root: Path, names: set[str]) -> None:
    """Write the folders that the kinds in use name, below `root`."""
    made: dict[str, Callable[[Path], None]] = {
        "merged": _merged, "llama": _llama, "gpt2": _gpt2, "vit": _vit, "adapters": _adapters, "pickles": _pickles,
        "idx": _idx, "pictures": _pictures, "parquet": _parquet, "texts": _texts, "berglund": _berglund,
        "asked": _asked, "answers": _answers, "options": _options, "runs": _runs,
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
    from torture_fuzz import command_here

    spt = ("task=spt", *PEOPLE, *TINY, "task.train.epochs=4", "run.checkpoint_steps=2", "task.train.log_steps=1")
    merge = (*MLP, "dataset=digits", "task.train.epochs=1", "task.points=3", "task.images=100")
    for place, command in (("spt/cut", spt), ("spt/done", spt), ("merge/done", merge)):
        code = command_here((*command, *QUIET, f"run.dir={folder / place}"))
        if code:
            raise RuntimeError(f"the template {place} ended with exit code {code}")
    cut = folder / "spt" / "cut"
    result = json.loads((cut / "result.json").read_text())
    (cut / "result.json").write_text(json.dumps(result | {"status": "interrupted", "metrics": {}, "artifacts": []}))
