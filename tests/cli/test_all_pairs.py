"""Every task with every model and data set option: what a dry run accepts starts, the rest is refused in one line."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
import struct
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from permlab import registry, shipped
from permlab.compose import compose_one, plan_jobs
from permlab.config import register_schemas, schema_for, typed, validate
from permlab.data.table import DATASETS
from permlab.errors import UserError
from permlab.models.causal_lm import load_causal_lm, save_causal_lm
from permlab.models.causal_lm_config import CausalLMConfig, ScratchConfig
from permlab.runs.execute import start
from permlab.runs.readiness import describe_plan

TASKS = registry.table("tasks").choices
MODELS, DATA = shipped.names("model"), shipped.names("dataset")
KINDS = shipped.kinds("model")
CAUSAL = ("tiny-llama", "one-block-llama")
BUILT = (*CAUSAL, "bert-tiny")
"""Language models that need no folder."""
TINY = {
    "spt": [
        *(
            "task.train.epochs=1",
            "task.train.batch_size=4",
            "task.evaluation.limit=1",
            "task.evaluation.save_model=false",
        ),
        "task.evaluation.likelihood=false",
    ],
    "state_tracking": ["task.train.steps=2", "task.seeds=1", "task.test_length=32"],
    "merge": [
        *("task.train.epochs=1", "task.points=3", "task.controls=false", "task.images=32", "task.text.limit=8"),
        "task.text.batch_size=8",
    ],
}
SIZES = {
    "people": ["dataset.people=3", "dataset.templates=1", "dataset.held_out=1"],
    "cups": ["dataset.texts=8", "dataset.swaps=2", "dataset.test_swaps=2"],
    "symbolic": ["dataset.pairs=4", "dataset.entity_words=2"],
    "imagefolder": ["dataset.side=8"],
    "facts": ["dataset.templates=1", "dataset.held_out=1"],
}
QUICK = [("merge", "mlp", "digits")]
"""Pairs that `make test` starts as well."""


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def offline(patch):
    """No hub: a model that is not on this disk is neither cached nor to be fetched."""
    from huggingface_hub import constants

    patch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, offline):
    """Small files for every data set that is read from disk, and a small model folder."""
    folder = tmp_path_factory.mktemp("data")
    texts = [f"Ada{n} Roe{n} is the mayor of Brindle{n}." for n in range(8)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "marked.txt").write_text("".join(text.replace(" is ", " [SEP] is [SEP] ") + "\n" for text in texts))
    rows = [f"Brindle{n},mayor,Ada{n} Roe{n}" for n in range(8)]
    (folder / "facts.csv").write_text("\n".join(["subject,relation,object", *rows]))
    write_berglund(folder / "berglund", texts)
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_text((folder / "texts.jsonl").read_text())
    for name in ("imagefolder", "pictures/train"):
        write_pictures(folder / name)
    write_idx(folder / "mnist")
    return folder


@pytest.fixture(scope="module")
def model_folder(tiny):
    """The same with weights."""
    import torch

    texts = [json.loads(line)["text"] for line in (tiny / "texts.jsonl").read_text().splitlines()]
    config = CausalLMConfig(scratch=ScratchConfig(hidden_size=16, layers=1, heads=2, kv_heads=2, intermediate_size=16))
    model, tokenizer = load_causal_lm(config, texts, torch.float32, torch.device("cpu"), 0)
    save_causal_lm(model, tokenizer, tiny / "model")
    return tiny


def write_berglund(folder: Path, texts: list[str]) -> None:
    from permlab.data.texts.berglund import TEST_FILES, TRAIN_FILES

    folder.mkdir()
    rows = [{"prompt": " ".join(text.split()[:2]), "completion": " ".join(text.split()[2:])} for text in texts]
    for stem in [*TRAIN_FILES.values(), *(stem for stem, _, _ in TEST_FILES)]:
        (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_pictures(folder: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, number in product(("cat", "dog"), range(24)):
        path = folder / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def write_idx(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for stem, array in (
        ("images-idx3", rng.integers(0, 255, (64, 8, 8))),
        ("labels-idx1", np.arange(64) % 2),
    ):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"train-{stem}-ubyte.gz").write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def path_of(model: str, data: str, folder: Path) -> Path | None:
    """Return the file or folder that stands for a data set, of pictures where the model sees."""
    names = {
        "facts": "facts.csv",
        "jsonl": "texts.jsonl",
        "presegmented": "marked.txt",
        "berglund": "berglund",
        "mnist": "mnist",
    }
    names |= {"imagefolder": "imagefolder", "hub": "pictures" if KINDS[model] == "vision" else "hub"}
    return folder / names[data] if data in names else None


@pytest.fixture(scope="module")
def options(patch):
    """(group, option) -> its part of a checked configuration; "rest" is the whole it is put into."""
    register_schemas()
    kinds = {group: shipped.kinds(group) for group in ("model", "dataset")}
    patch.setattr(shipped, "kinds", kinds.get)  # every refusal lists what fits, and reads all options again
    parts: dict[tuple[str, str], Any] = {}
    groups = {"task": TASKS, "model": MODELS, "dataset": DATA}
    for number in range(max(map(len, groups.values()))):  # several options in one composition: they do not interact
        chosen = {group: names[number % len(names)] for group, names in groups.items()}
        composed = compose_one([f"{group}={name}" for group, name in chosen.items()])
        plain = OmegaConf.to_container(composed, resolve=True)
        for group, name in chosen.items():
            parts[group, name] = typed(group, schema_for(group, plain[group]), plain[group])
    parts["rest", ""] = plan_jobs(["task=ntk", "tracker=none"], False).jobs[0].config
    return parts


def configured(options: dict[tuple[str, str], Any], chosen: dict[str, str], paths: dict[str, Path | None]) -> Any:
    """Check one pair from parts composed before: as `task=... model=... dataset=...`, in a hundredth of the time."""
    parts = {group: copy.deepcopy(options[group, name]) for group, name in chosen.items()}
    for group, path in paths.items():
        if path:
            parts[group].path = str(path)
    config = dataclasses.replace(options["rest", ""], **parts)
    validate(config)
    return config


def accepted(options: Any, folder: Path, task: str) -> list[tuple[str, str, bool, bool]]:
    """Return (model, data set, model path, data path) of all pairs of a task that a dry run accepts."""
    module, found = registry.task(task), []
    for model, data in product(MODELS, DATA):
        local = folder / "model" if KINDS[model] == "causal_lm" and model not in BUILT else None
        paths = product({None, local}, {None, path_of(model, data, folder)})
        if KINDS[model] not in module.MODELS or data not in module.DATASETS:
            paths = product({None}, {None})  # refused whatever the paths are
        for here, given in paths:
            try:
                chosen = {"task": task, "model": model, "dataset": data}
                describe_plan(configured(options, chosen, {"model": here, "dataset": given}))
            except UserError as error:
                assert str(error).strip() and len(str(error).splitlines()) <= 2, error
                continue
            found.append((model, data, here is not None, given is not None))
    return found


EXPECTED = {
    "spt": {(m, d) for m in MODELS for d in DATA if KINDS[m] == "causal_lm" and DATASETS[d].gives_texts},
    "merge": {
        (m, d)
        for m in MODELS
        for d in DATA
        if (KINDS[m] == "vision" and DATASETS[d].gives_images) or (m in CAUSAL and DATASETS[d].gives_texts)
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_dry_run_accepts_what_fits_and_refuses_the_rest(task, options, model_folder):
    tiny = model_folder
    found = accepted(options, tiny, task)
    pairs = {(model, data) for model, data, _, _ in found}
    assert pairs == EXPECTED.get(task, pairs) and pairs
    for model, data, here, given in found:
        # Hub models without a folder cannot be had here; data sets that are read need their path.
        assert here or model in ("none", *BUILT) or KINDS[model] == "vision"
        assert given or path_of(model, data, tiny) is None


def test_language_models_need_texts_in_the_dry_run():
    """dataset=jsonl without a path passed the dry run, and the run died with a TypeError."""
    with pytest.raises(UserError, match=r"dataset=jsonl needs dataset\.path=FILE"):
        plan_jobs(["task=merge", "model=tiny-llama", "dataset=jsonl"], False)


@pytest.mark.parametrize("name", ["gpt2", "HuggingFaceTB/SmolLM2-135M"])
def test_models_that_cannot_be_had_are_refused_in_the_dry_run(name, offline):
    """They passed, and the run ended when it began to load them."""
    for overrides in (
        ["model=gpt2", f"model.path={name}"],
        ["task.segmenter.name=llm", f"task.segmenter.path={name}"],
    ):
        with pytest.raises(UserError, match=f"{name} is not reachable and not in the cache") as refused:
            describe_plan(plan_jobs(["task=spt", *overrides], False).jobs[0].config)
        assert "\n" not in str(refused.value)


def test_an_unknown_kind_is_never_read_as_a_hub_id():
    from permlab.data import load_images, load_texts

    @dataclasses.dataclass
    class Other:
        kind: str = "digit"
        path: str = "owner/name"

    for load in (load_images, load_texts):
        with pytest.raises(UserError, match="did you mean 'digits'"):
            load(Other())
    with pytest.raises(UserError, match="digits gives no texts"):
        load_texts(Other("digits"))
    with pytest.raises(UserError, match="jsonl gives no images"):
        load_images(Other("jsonl"))


def starts(task: str, model: str, data: str, folder: Path, root: Path) -> None:
    place = path_of(model, data, folder)
    overrides = [
        f"task={task}",
        f"model={model}",
        f"dataset={data}",
        f"run.root={root}",
        "tracker=none",
        "hardware=cpu",
    ]
    overrides += [*TINY[task], *SIZES.get(data, []), *([f"dataset.path={place}"] if place else [])]
    kind = KINDS[model]
    if kind == "vision":
        overrides += ["model.width=8" if model == "mlp" else "model.width=0.25"]
        overrides += ["dataset.side=8"] if data == "hub" else []
    elif model in BUILT:
        sizes = {"hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 2, "intermediate_size": 16}
        overrides += [f"model.scratch.{key}={value}" for key, value in sizes.items()]
    else:
        overrides += [f"model.path={folder / 'model'}"]
    done = start(plan_jobs(overrides, False).jobs[0].config)
    assert done.status == "done", f"{overrides}: {done.message}"


@pytest.mark.parametrize(("task", "model", "data"), QUICK)
def test_some_pairs_start(task, model, data, tiny, tmp_path, unsaved):
    starts(task, model, data, tiny, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model", "data"),
    [
        (task, model, data)
        for task, pairs in EXPECTED.items()
        for model, data in sorted(pairs)
        # All pretrained options are the same code with another path.
        if model not in ("gpt2", "llama-1b", "llama-7b", "qwen2.5-0.5b", "smollm2-135m")
    ],
)
def test_every_accepted_pair_starts(task, model, data, model_folder, tmp_path, unsaved):
    starts(task, model, data, model_folder, tmp_path)
