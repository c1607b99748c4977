"""Networks of the user, ready to be matched: `load_networks(["A", "B"])`.

    loaded = load_networks(["finetuned-a", "finetuned-b"])     # Hugging Face folders
    matching = weight_matching(loaded.spec, *loaded.states)
    moved = [Permuted(loaded.spec, *each) for each in zip(loaded.stored, matching.permutations)]
    merged = average(moved, tied=loaded.spec.tied)
    save_network("merged", merged, loaded, {"method": "weight matching"})

Headers and configurations are compared before a tensor is read; the tensors are views of the memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from permlab.errors import UserError
from permlab.merging.networks.huggingface import load_huggingface
from permlab.merging.networks.loaded import Loaded
from permlab.merging.networks.vision import load_vision
from permlab.merging.networks.vocabularies import Wanted
from permlab.models.checkpoints import open_checkpoint


def load_networks(
    paths: Sequence[str],
    model: Any = None,
    data: Any = None,
    *,
    ancestor: str | None = None,
    vocabulary: Wanted | None = None,
) -> Loaded:
    """Open, compare, check and verify networks that are to be merged.

    Args:
        paths: Hugging Face folders or hub ids (Llama family, GPT-2, BERT, ViT), folders written by `save_merged`, run
            directories, or .safetensors files of a network of `permlab.models.vision`.
        model: for bare .safetensors files: name, width, depth and norm (a `VisionConfig`).
        data: for those too: anything with `shape` (channels, height, width) and `classes`.
        ancestor: the network that all were fine-tuned from.
        vocabulary: which vocabulary language models are brought to, where theirs differ.

    Raises:
        UserError: fewer than two; a missing, torn, foreign or pickled file; different architectures (with the keys that
            differ); NaN or infinite weights; an architecture without declared symmetry.
    """
    if len(paths) < 2:
        raise UserError(f"{len(paths)} network given: merging needs two or more")
    checkpoints = [open_checkpoint(path) for path in [*paths, *([ancestor] if ancestor else [])]]
    if any(each.kind == "huggingface" for each in checkpoints):
        loaded = load_huggingface(checkpoints, vocabulary, ancestral=ancestor is not None)
    else:
        loaded = load_vision(checkpoints, model, data)
    if ancestor:
        loaded.ancestor = loaded.stored.pop()
        loaded.names.pop()
    return loaded
