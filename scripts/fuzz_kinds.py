"""Every kind of file that permlab reads, for `scripts/torture_fuzz.py`: which files, and the commands that read them.

`fuzz_templates.py` makes a good one of each, `fuzz_overrides.py` command lines that nobody would write.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        "tables of facts", "facts", ("*",),
        (
            (*_SPT, "dataset=facts", "dataset.path={in}/facts.csv", DRY),
            (*_SPT, "dataset=facts", "dataset.path={in}/facts.csv", "dataset.wordings={in}/wordings.yaml", DRY),
        ), quick=True,
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
