"""Tiny Hugging Face networks on disk, for tests that load them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from architectures import HUGGINGFACE
from safetensors.torch import load_file, save_file
from transformers.utils import logging

logging.disable_progress_bar()


def network(name, seed=0):
    """A network with weights that are all different, norms and biases too."""
    torch.manual_seed(seed)
    model = HUGGINGFACE[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs_of(name):
    """Inputs of one forward call."""
    generator = torch.Generator().manual_seed(5)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    return {"input_ids": torch.randint(3, 101, (2, 9), generator=generator)}


def save_pair(folder, name="llama-tied", **options):
    """Folders a and b: two networks from different seeds."""
    for seed in (0, 1):
        network(name, seed).save_pretrained(folder / "ab"[seed], **options)
    return [str(folder / "a"), str(folder / "b")]


def edit(folder, **changes):
    """Change keys of config.json."""
    path = Path(folder, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def weights(folder, change):
    """Change tensors of model.safetensors."""
    path = f"{folder}/model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
