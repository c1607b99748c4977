"""Merging language models, and any other Hugging Face network: the part of `permlab task=merge` for `transformers`.

permlab task=merge model=tiny-llama dataset=people                       # pairs trained here, scored by perplexity
permlab task=merge task.models=[DIR_A,DIR_B] dataset=jsonl dataset.path=texts.jsonl     # networks of your own
permlab task=merge task.models=[DIR_A,DIR_B] dataset=none                # merged and written, not scored

`loss` is nats per token. Classifiers and masked models (BERT, ViT) are merged and written without scores.
"""

from __future__ import annotations

from permlab.config import Config
from permlab.data import DATASETS, check_dataset
from permlab.errors import UserError, check_range
from permlab.matching.table import MATCHES
from permlab.merging.arm import Arm
from permlab.merging.networks.vocabularies import BASE, UNION, check_common, read_vocabularies
from permlab.merging.table import COMBINES, RENORMS
from permlab.models.checkpoints import Checkpoint, open_checkpoint
from permlab.models.table import MODELS
from permlab.storage.hub import is_hub_id
from permlab.tasks.merge.checks import arms_of, check_weights
from permlab.tasks.merge.numbers import check_files
from permlab.tasks.merge.recipe import stacks
from permlab.tasks.merge.settings import MergeConfig

MEMORY_GB = 3.0
"""`task.memory_gb` where none is given."""
DEFAULT_IMAGES = "digits"
"""The data set that task=merge takes when none is named: with language models of the user it means no data set."""


def is_language(config: Config[MergeConfig]) -> bool:
    """Whether the networks are of `transformers`: trained here as a causal language model, or such folders given.

    Hugging Face image classifiers are not, where `dataset` has images for them: they are scored like networks of ours.
    """
    if config.task.models:
        first = config.task.models[0]
        if is_hub_id(first):
            return True
        opened = open_checkpoint(first)
        return opened.kind == "huggingface" and not sees(config, opened)
    return MODELS[config.model.kind].texts


def sees(config: Config[MergeConfig], opened: Checkpoint) -> bool:
    """Whether a network is an image classifier and `dataset` has images for it.

    The data set that is taken when none is named counts only where its images have the size that the network takes.
    """
    named = str((opened.config.get("architectures") or [""])[0])
    if not named.endswith("ForImageClassification") or not DATASETS[config.dataset.kind].gives_images:
        return False
    size = (opened.config.get("num_channels", 3), opened.config.get("image_size", 224))
    return config.dataset.kind != DEFAULT_IMAGES or size == (1, 8)


def text_kind(config: Config[MergeConfig]) -> bool:
    """Whether `dataset` gives texts."""
    return DATASETS[config.dataset.kind].gives_texts


def validate_language(config: Config[MergeConfig]) -> None:
    """Check keys and files; nothing is downloaded.

    Raises:
        UserError: with the key and the remedy.
    """
    task = config.task
    if task.study != "merge":
        raise UserError(f"task.study={task.study} analyses image networks; language models have task.study=merge only")
    if RENORMS[task.renorm].changes:
        raise UserError(f"task.renorm={task.renorm}: these networks normalise every token anew; set task.renorm=none")
    for key, usual in (("budget", 1), ("labels", 1), ("share", 1), ("uneven", None)):
        if getattr(task, key) != usual:
            raise UserError(f"task.{key} is for image networks; drop it for language models")
    for arm in arms_of(config):
        _check_arm(config, arm)
    check_files(config, texts=text_kind(config))
    if task.memory_gb is not None:
        check_range("task.memory_gb", task.memory_gb, 0.25)
    check_range("task.text.held_out", task.text.held_out, 0, 0.9, open_interval=True)
    check_range("task.text.limit", task.text.limit, 1)
    check_range("task.text.max_tokens", task.text.max_tokens, 8)
    check_range("task.text.batch_size", task.text.batch_size, 1)
    if task.models:
        _check_models(config)
    else:
        _check_training(config)
    if text_kind(config):
        check_dataset(config.dataset)


def _check_arm(config: Config[MergeConfig], arm: Arm) -> None:
    match, combine = MATCHES[arm.match], COMBINES[arm.combine]
    if not (match.streams and combine.streams) or RENORMS[arm.renorm].changes:
        raise UserError(
            f"{arm.text} is for image networks; language models take match {', '.join(MATCHES.where(streams=True))} "
            f"and combine {', '.join(COMBINES.where(streams=True))}"
        )
    if "data" in match.needs and not text_kind(config):
        raise UserError(
            f"match={arm.match} reads activations on texts: set dataset=jsonl dataset.path=FILE, or match=weight"
        )
    if "ancestor" in combine.needs and not config.task.ancestor:
        raise UserError(f"combine={arm.combine} adds up changes since a common ancestor: set task.ancestor=DIR")


def _check_models(config: Config[MergeConfig]) -> None:
    task = config.task
    if len(task.models) < 2 and not stacks(config):
        raise UserError(f"task.models has {len(task.models)} network: merging needs two or more")
    check_weights(config, len(task.models))
    for arm in arms_of(config):
        if COMBINES[arm.combine].pairs_only and len(task.models) > 2:
            raise UserError(f"combine={arm.combine} joins two networks, not {len(task.models)}: use combine=average")
    opened = local_checkpoints(config)
    if config.dataset.kind not in ("none", DEFAULT_IMAGES) and not text_kind(config):
        raise UserError(
            f"dataset={config.dataset.name} has no texts: set dataset=jsonl dataset.path=FILE, or dataset=none"
        )
    if text_kind(config) and opened and not speaks(opened[0]):
        named = (opened[0].config.get("architectures") or ["network"])[0]
        raise UserError(f"{opened[0].path} is a {named}, which is merged but not scored: set dataset=none")
    if task.tokenizer in (BASE, UNION) and not stacks(config):
        check_common(opened, read_vocabularies(opened))


def speaks(checkpoint: Checkpoint) -> bool:
    """Whether it is a causal language model, by its configuration."""
    named = str((checkpoint.config.get("architectures") or [""])[0])
    return named.endswith(("ForCausalLM", "LMHeadModel"))


def local_checkpoints(config: Config[MergeConfig]) -> list[Checkpoint]:
    """Headers of the networks that are on this disk, ancestor last."""
    paths = [*config.task.models, *([config.task.ancestor] if config.task.ancestor else [])]
    return [open_checkpoint(path) for path in paths if not is_hub_id(path)]


def _check_training(config: Config[MergeConfig]) -> None:
    from permlab.models.causal_lm_config import validate_causal_lm

    task, model = config.task, config.model
    validate_causal_lm(model)
    if not text_kind(config):
        raise UserError(f"dataset={config.dataset.name} has no texts to train {model.name} on: set dataset=people")
    if model.weights == "pretrained" or model.lora.rank:
        raise UserError(
            "networks that are trained here start from random weights: set model.weights=scratch without "
            "model.lora.rank, or give finished networks with task.models=[A,B]"
        )
    check_weights(config, 2)
    if task.ancestor:
        raise UserError("task.ancestor belongs to task.models: networks trained here have none")
    if task.train.tangent:
        raise UserError("task.train.tangent is for image networks; drop it for language models")
    if task.train.optimizer != "adam":
        raise UserError(f"task.train.optimizer={task.train.optimizer}: language models are trained with adam")


def memory_cap(config: Config[MergeConfig]) -> float:
    """Bytes that networks merged from files may take beside the libraries."""
    return (config.task.memory_gb or MEMORY_GB) * 2**30


def memory(config: Config[MergeConfig], networks: list[Checkpoint]) -> float:
    """Bytes at the peak: cost matrices and pieces; where networks are run, files and float32 copies of all."""
    scored, ancestral = text_kind(config), "ancestor" in COMBINES[config.task.combine].needs
    stored, wide = sum(each.bytes for each in networks), max(each.parameters for each in networks) * 4
    if not scored:
        many = wide if len(config.task.models) > 2 and config.task.match == "weight" else 0
        return min(memory_cap(config), stored + 4.0 * wide) + many
    copies = 2 + (len(networks) > 2) + (len(networks) + 1 if scored else 0) + (len(networks) if ancestral else 0)
    return stored + networks[0].bytes + copies * wide
