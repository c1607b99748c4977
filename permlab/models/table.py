"""The kinds of networks that `model=` describes; each option in conf/model/ is of one kind."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class ModelRow(Row):
    """A kind of network: `target` is its configuration dataclass."""


MODELS = Table(
    "kind of model",
    [
        ModelRow("none", "no network of one's own: the task brings what it needs", target="permlab.config:NoneConfig"),
        ModelRow(
            "causal_lm",
            "causal language models of transformers, from scratch, a folder or the hub",
            target="permlab.models.causal_lm_config:CausalLMConfig",
        ),
        ModelRow(
            "vision",
            "small image classifiers with random weights",
            target="permlab.models.vision_config:VisionConfig",
        ),
    ],
)
