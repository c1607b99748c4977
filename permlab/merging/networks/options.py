"""What people choose about networks that are trained to be merged, and about texts; `task=merge` has the same keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from permlab.errors import UserError, check_range
from permlab.keys import choice
from permlab.merging.table import DOMAINS, OPTIMIZERS, SCHEDULES
from permlab.models.table import VISION


@dataclass
class EndpointTraining:
    """Training of the networks to be merged; null takes the value that suits the architecture."""

    epochs: int | None = None
    """Passes over the training data."""
    batch_size: int | None = None
    """Examples per step."""
    rate: float | None = None
    """Learning rate."""
    weight_decay: float = 0.0
    """Of the optimizer."""
    optimizer: str = choice("adam", OPTIMIZERS)
    """What moves the weights."""
    schedule: str = choice("constant", SCHEDULES)
    """Of the learning rate."""
    tangent: bool = False
    """Networks with an ancestor: fine-tune, merge and score its first-order expansion (tangent space)."""


def recipe_of(network: str, training: EndpointTraining) -> dict[str, Any]:
    """Return the keyword arguments of `train_endpoint`: those given, or what suits the architecture `network`."""
    usual = VISION[network]
    return {
        "epochs": training.epochs or usual.epochs,
        "batch_size": training.batch_size or usual.batch_size,
        "rate": training.rate or usual.rate,
        "weight_decay": training.weight_decay,
        "optimizer": training.optimizer,
        "schedule": training.schedule,
    }


@dataclass(kw_only=True)
class PairOptions:
    """What the networks of a pair of image classifiers see, and what merging them reads."""

    images: int | None = None
    """Training images that activations, Gram matrices and statistics are taken from; null = all."""
    labels: int = 1
    """Parts the classes are cut into; with 2 the networks of a pair see different classes."""
    domains: list[str] = choice([], DOMAINS)
    """What each network sees of its images, one per network; empty is original for all."""
    share: float = 1.0
    """Share of the training images each network sees; below 1 the networks see different ones."""
    uneven: float | None = None
    """All images dealt out by class: a network's share of its part of the classes (0.8: 80/20); null deals none."""

    @property
    def apart(self) -> bool:
        """Whether the networks of a pair see different images."""
        return self.labels > 1 or self.share < 1 or self.uneven is not None


def check_parts(options: PairOptions, prefix: str = "") -> None:
    """Refuse what the networks of a pair cannot be trained on.

    Args:
        options: `labels`, `share` and `uneven` of these.
        prefix: in front of the names of keys, as `task.`.

    Raises:
        UserError: naming the key.
    """
    check_range(f"{prefix}labels", options.labels, 1, 2)
    check_range(f"{prefix}share", options.share, 0, 1)
    if options.share == 0:
        raise UserError(f"{prefix}share=0 leaves no images to train on: give a share above 0")
    if options.uneven is None:
        return
    check_range(f"{prefix}uneven", options.uneven, 0, 1, open_interval=True)
    if options.labels > 1 or options.share < 1:
        raise UserError(f"{prefix}uneven deals out all images by class: drop {prefix}labels and {prefix}share")


@dataclass
class ExpertOptions:
    """study=experts: the text, and how many experts of every layer stay."""

    corpus: str | None = None
    """Folder of .txt files, those with "test" in their names for scores; null generates text."""
    epochs: float = 0.6
    """Readings of the text by a mixture of experts that is trained here."""
    kept: list[int] = field(default_factory=lambda: [6, 4, 2])
    """Experts per layer that stay."""
    written: int = 4
    """Experts per layer of the network that is written, and of the differences that are tested."""
    rank: int | None = None
    """Rank of the matrices of merged experts in the network that is written; null keeps them whole."""
    ranks: list[int] = field(default_factory=lambda: [8, 16, 32])
    """Ranks of merged experts that are scored."""
    columns: int = 8
    """Columns of a matrix kept as they are beside its low rank."""
    sequences: int = 32
    """Pieces of 128 tokens that routing is counted on, and as many that are scored."""


@dataclass
class TextScoring:
    """Texts of language models."""

    held_out: float = 0.2
    """Share of the texts that no network is trained or matched on; perplexities are taken there."""
    limit: int = 1000
    """Most texts scored per set."""
    max_tokens: int = 256
    """Longer texts are cut."""
    batch_size: int = 64
    """Texts per forward pass."""
