"""What declared symmetries of `transformers` models are put together from: `Builder(config, state, Spec())`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from permlab.errors import UserError
from permlab.symmetry.spec import Block, Spec

HEADLESS = "the model returns its hidden states, so the units of the residual stream are outputs and keep their places"


class Builder:
    """A spec under construction, which skips tensors that the state dict does not have (optional biases)."""

    def __init__(self, config: Any, state: Mapping[str, Tensor], spec: Spec) -> None:
        self.config, self.state, self.spec = config, state, spec

    def prefix(self, tail: str) -> str:
        """What stands before `tail` in the state dict ("" in a bare model, "model." in one with a head)."""
        for name in self.state:
            if name.endswith(tail) and (name == tail or name[: -len(tail)].endswith(".")):
                return name[: -len(tail)]
        raise UserError(f"the {self.config.model_type} model has no tensor {tail}: is the checkpoint complete?")

    def use(self, tensor: str, axis: int, *blocks: Block | str) -> None:
        """Attach an axis to groups, where there is such a tensor."""
        if tensor in self.state:
            self.spec.use(tensor, axis, *blocks)

    def vector(self, name: str, stream: str) -> None:
        """A norm: weight and, where there is one, bias."""
        self.use(f"{name}.weight", 0, stream)
        self.use(f"{name}.bias", 0, stream)

    def linear(self, name: str, before: Block | str | None, after: Block | str | None) -> None:
        """A Linear layer [out, in] with an optional bias."""
        if after is not None:
            self.use(f"{name}.weight", 0, after)
            self.use(f"{name}.bias", 0, after)
        if before is not None:
            self.use(f"{name}.weight", 1, before)

    def head(self, stream: str, head: str, embedding: str) -> bool:
        """Attach an unembedding; tied ones are one tensor under two names. False when the model has none."""
        if getattr(self.config, "tie_word_embeddings", False):
            # Files leave the second name of a tied tensor out; the model still has it.
            self.spec.tied[head] = embedding
            return True
        self.use(head, 1, stream)
        return head in self.state


def finish(b: Builder, root: str, stream: str) -> None:
    """The last norm and what reads it."""
    b.vector(f"{root}norm", stream)
    classifier = "score.weight" in b.state
    b.use("score.weight", 1, stream)
    # Without a prefix it is the bare decoder, which ties nothing and returns the stream itself.
    if not classifier and not (root and b.head(stream, "lm_head.weight", f"{root}embed_tokens.weight")):
        b.spec.pin(stream, HEADLESS)


def gated(b: Builder, name: str, group: str, stream: str) -> None:
    """An MLP whose act(gate) * up is elementwise: both matrices write the same hidden units."""
    packed, down = f"{name}.gate_up_proj.weight", f"{name}.down_proj.weight"
    if down not in b.state:
        return
    size = b.state[down].shape[1]
    hidden = b.spec.channel(group, size)
    b.linear(f"{name}.gate_proj", stream, hidden)
    b.linear(f"{name}.up_proj", stream, hidden)
    b.use(packed, 0, Block(hidden), Block(hidden, offset=size))
    b.use(packed, 1, stream)
    b.linear(f"{name}.down_proj", hidden, stream)
