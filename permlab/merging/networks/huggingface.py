"""Hugging Face checkpoints for `permlab.merging.networks.loading`: compared by configuration, verified in float64.

loaded = load_huggingface([open_checkpoint("A"), open_checkpoint("B")])
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, blaming, first_line
from permlab.merging.networks.experts import ExpertFiles, expert_files, modern
from permlab.merging.networks.frames import Frame, plan_frame, write_tokenizer
from permlab.merging.networks.loaded import Loaded, read_tensors, say_differences, tensor_differences, unique_names
from permlab.merging.networks.states import State
from permlab.merging.networks.verification import empty_module, verify_huggingface
from permlab.merging.networks.vocabularies import Wanted, compare_vocabularies
from permlab.models.checkpoints import CONFIG, Checkpoint
from permlab.models.quiet import quiet_transformers
from permlab.symmetry import Spec, declare_huggingface
from permlab.symmetry.table import SYMMETRIES

IRRELEVANT = {
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map",
    "_attn_implementation", "attn_implementation", "output_attentions", "output_hidden_states", "return_dict",
    "chunk_size_feed_forward", "initializer_range", "finetuning_task", "task_specific_params", "problem_type",
    "gradient_checkpointing", "pretraining_tp", "attention_dropout", "hidden_dropout_prob", "classifier_dropout",
    "attention_probs_dropout_prob", "attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout", "label2id",
    "_commit_hash", "is_encoder_decoder", "is_decoder",
}  # fmt: skip
"""Keys that change neither the function nor the tensors of a trained network."""
OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
VIT_NAMES = (
    ("encoder.layer.", "layers."), ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"), ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
)  # fmt: skip
"""(old, new) parts of names, replaced in this order."""
NOTED = {"max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "n_positions"}
"""Keys that are told to the user; where they matter, the shapes of the tensors differ too."""


def load_huggingface(
    checkpoints: Sequence[Checkpoint], wanted: Wanted | None = None, ancestral: bool = False
) -> Loaded:
    """Compare, read and verify checkpoints of one architecture.

    Args:
        checkpoints: the networks.
        wanted: the vocabulary that they are brought to.
        ancestral: the last one is an ancestor.

    Raises:
        UserError: as `load_networks`.
    """
    first = checkpoints[0]
    configs, notes, frame = compare_headers(checkpoints, wanted, ancestral)
    broken = f"{first.folder / CONFIG} describes no network that transformers can build"
    with blaming(broken, "mend it, or get it again"):
        module = empty_module(configs[0], _model_class(first))
    mixture = SYMMETRIES[str(first.config.get("model_type"))].experts
    experts = expert_files(first.tensors) if mixture else None
    names, extra = file_names(first, module, experts)
    if extra:
        notes.append(f"{len(extra)} tensors that {type(module).__name__} does not use are left out ({extra[0]})")
    wide = names | {name: name for name in (experts.stored if experts is not None else ())}
    read = [read_tensors(each, wide) for each in checkpoints]
    for each, tensors in zip(checkpoints, read):
        drop_aliases(each.path, module, tensors)
    if frame is not None:
        write_tokenizer(frame)
        read = frame.mapped(vocabulary_tensors(module), read)
    stored: list[State] = [experts.flat(tensors) for tensors in read] if experts is not None else list(read)
    own_names = all(name in module.state_dict() for name in stored[0])
    kind = _kind(type(module).__name__)
    with blaming(f"{first.path}: its tensors and its config.json do not belong together", "get both again"):
        spec = declare_huggingface(configs[0], stored[0])
        _check_coverage(first, spec, configs[0], module)
        checks, verified_on = verify_huggingface(configs[0], type(module), stored[0] if own_names else None)
        if own_names and kind == "image_huggingface":
            module = type(module)(configs[0]).float().eval()
            module.load_state_dict({name: value.float() for name, value in stored[0].items()})
    return Loaded(
        kind=kind,
        names=unique_names(checkpoints),
        checkpoints=list(checkpoints),
        stored=stored,
        spec=spec,
        module=module if own_names else None,
        config=configs[0],
        file_names={name: stored_as for name, stored_as in names.items() if name != stored_as},
        checks=checks,
        verified_on=verified_on,
        notes=list(dict.fromkeys(notes)),
        frame=frame,
        experts=experts,
        tokenizer=None if frame is None else frame.tokenizer,
    )


def vocabulary_tensors(module: Any) -> list[str]:
    """Names of the parameters with one row per token: embedding, unembedding and its bias."""
    layers = (module.get_input_embeddings(), module.get_output_embeddings())
    owned = {id(value) for layer in layers if layer is not None for value in layer.parameters()}
    return [name for name, value in module.named_parameters(remove_duplicate=False) if id(value) in owned]


def untrained_state(loaded: Loaded, seed: int) -> dict[str, Tensor]:
    """Random weights as `transformers` draws them for the architecture of loaded networks, under their names."""
    module = loaded.module
    assert module is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(module)(loaded.config).float().state_dict()
    return {name: fresh[name].detach() for name in loaded.stored[0]}


def compare_headers(
    checkpoints: Sequence[Checkpoint], wanted: Wanted | None = None, ancestral: bool = False
) -> tuple[list[Any], list[str], Frame | None]:
    """(configurations, notes on differences that do no harm, common vocabulary where there has to be one).

    No tensor is read. The first configuration has the common vocabulary.

    Raises:
        UserError: an architecture that is not covered, or networks that do not belong together.
    """
    for each in checkpoints:
        _check_type(each)
    configs = [_config(each) for each in checkpoints]
    frame = plan_frame(checkpoints, wanted, ancestral) if wanted is not None else None
    if frame is not None and _kind(_model_class(checkpoints[0]).__name__) != "causal_lm":
        raise UserError(f"{checkpoints[0].path} is no causal language model: vocabularies are mapped for those only")
    notes: list[str] = []
    for other, config in zip(checkpoints[1:], configs[1:]):
        notes += _compare(checkpoints[0], other, configs[0], config, mapped=frame is not None)
        notes += [] if frame is not None else compare_vocabularies(checkpoints[0], other)
    for key, value in (frame.changes if frame is not None else {}).items():
        setattr(configs[0], key, value)
    return configs, notes, frame


def _kind(architecture: str) -> str:
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal_lm"
    return "image_huggingface" if architecture.endswith("ForImageClassification") else "huggingface"


def _check_type(each: Checkpoint) -> None:
    if each.kind != "huggingface":
        raise UserError(
            f"{each.path} has no config.json beside its weights, the others have: give Hugging Face folders"
        )
    kind = str(each.config.get("model_type"))
    if kind not in SYMMETRIES:
        raise UserError(
            f"{each.path} is of model type '{kind}', whose permutations are not declared; supported are "
            f"{', '.join(SYMMETRIES)}"
        )


def _config(each: Checkpoint) -> Any:
    from transformers import AutoConfig

    quiet_transformers()
    try:
        return AutoConfig.from_pretrained(each.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a broken config.json makes transformers raise
        raise UserError(f"{each.folder / CONFIG} cannot be used: {first_line(error)}") from error


def _model_class(each: Checkpoint) -> type:
    import transformers

    named = each.config.get("architectures") or []
    found = getattr(transformers, str(named[0]), None) if named else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UserError(
            f"{each.folder / CONFIG} names {', '.join(map(str, named)) or 'no'} architecture, which transformers does "
            'not have: put in "architectures": ["LlamaForCausalLM"] or what it is'
        )
    return found


def _compare(first: Checkpoint, other: Checkpoint, one: Any, two: Any, mapped: bool = False) -> list[str]:
    """Notes on differences that do no harm; vocabularies that are mapped may differ.

    Raises:
        UserError: listing the keys and tensors that differ.
    """
    keys = config_differences(one.to_dict(), two.to_dict())
    sizes = None
    if mapped:
        keys.pop("vocab_size", None)
        sizes = (one.vocab_size, two.vocab_size)
    fatal = [line for key, line in keys.items() if key not in NOTED]
    if fatal or tensor_differences(first, other, sizes):
        hint = "; vocabularies can be mapped: tokenizer=union or base" if "vocab_size" in keys else ""
        raise UserError(say_differences(first, other, list(keys.values()), sizes) + hint)
    names = [getattr(each, "id2label", None) or {} for each in (one, two)]
    custom = all(names) and not any(str(v).startswith("LABEL_") for each in names for v in each.values())
    if "id2label" in keys and custom and "classifier.weight" in first.tensors:
        raise UserError(
            f"{first.name} and {other.name} have different classes ({keys['id2label']}), so rows of their classifiers "
            "do not correspond: train them with the same id2label"
        )
    return [f"{first.name} and {other.name} differ in {line}; {first.name}'s is kept" for line in keys.values()]


def config_differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, str]:
    """Key -> "key: value | value" for the keys that matter and differ."""
    return {
        key: f"{key}: {_short(one.get(key))} | {_short(two.get(key))}"
        for key in dict.fromkeys((*one, *two))
        if key not in IRRELEVANT and one.get(key) != two.get(key)
    }


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- names -----------------------------------------------------------------------------------------------------------


def file_names(first: Checkpoint, module: Any, experts: ExpertFiles | None = None) -> tuple[dict[str, str], list[str]]:
    """(name in the module -> name in the files, tensors of the files that the module does not use); experts left out.

    Files of a bare model lack the prefix of one with a head, old ones call norms gamma and beta, and those of ViT keep
    the layer names of transformers 4. Where that does not explain all, the names of the files are used throughout.

    Raises:
        UserError: a tensor is missing.
    """
    made, held = (set(experts.made), set(experts.stored)) if experts is not None else (set(), set())
    wanted = set(module.state_dict())
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    names: dict[str, str] = {}
    extra: list[str] = []
    renames = OLD_NAMES + (VIT_NAMES if module.config.model_type == "vit" else ())
    for stored in first.tensors:
        if stored in held:
            continue
        name = modern(stored)
        for old, new in renames:
            name = name.replace(old, new)
        found = next((each for each in (name, prefix + name, name.removeprefix(prefix)) if each in wanted), None)
        if found is None:
            extra.append(stored)
        else:
            names[found] = stored
    missing = [name for name in _missing(module, names) if name not in made]
    if missing and extra:
        renamed = module.config.model_type == "vit" and len(missing) == len(extra)
        if renamed:
            return {name: name for name in first.tensors}, []
    if missing:
        raise UserError(
            f"{first.path} lacks {len(missing)} tensors of a {type(module).__name__} ({missing[0]}): "
            "is the download complete, and is architectures in config.json right?"
        )
    return names, extra


def _missing(module: nn.Module, names: Mapping[str, str]) -> list[str]:
    """Tensors of the module that the files have under none of their names."""
    aliases = _aliases(module)
    return [n for n in module.state_dict() if n not in names and not any(a in names for a in aliases.get(n, ()))]


def _aliases(module: nn.Module) -> dict[str, list[str]]:
    """Name -> the other names of the same parameter."""
    owners: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return {name: [o for o in group if o != name] for group in owners.values() for name in group if len(group) > 1}


def drop_aliases(path: str, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Keep one name of every tied tensor, in place.

    Raises:
        UserError: the files hold different tensors for what the configuration ties.
    """
    for name, others in _aliases(module).items():
        for other in others:
            if name in state and other in state:
                if not torch.equal(state[name], state[other]):
                    raise UserError(
                        f"{path}: config.json ties {name} and {other}, but the files hold two different tensors: set "
                        "tie_word_embeddings to false there"
                    )
                # The embedding is the name that specs use.
                del state[other if "embed" in name or "wte" in name else name]


# ---- verification ----------------------------------------------------------------------------------------------------


def _check_coverage(first: Checkpoint, spec: Spec, config: Any, module: nn.Module) -> None:
    """The spec read off the files must have the groups and axes of the one read off the architecture."""
    shapes = module.state_dict()
    built = declare_huggingface(config, {name: value for name, value in shapes.items() if name not in spec.tied})
    one, two = ({name: len(each.members(name)) for name in each.groups} for each in (spec, built))
    if one != two:
        odd = next(name for name in {**one, **two} if one.get(name) != two.get(name))
        raise UserError(
            f"{first.path}: the tensors of {odd} in the files are not those of a {type(module).__name__}: load it with "
            "transformers and save it again"
        )
