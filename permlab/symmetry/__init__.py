"""Permutation symmetries of networks: which tensor axes may be permuted together without changing the function.

    import torch
    from permlab.models.vision import build_vision_model
    from permlab.symmetry import apply, declare, infer, verify

    model = build_vision_model("resnet20", shape=(1, 8, 8), classes=10)
    images = torch.randn(4, 1, 8, 8)
    spec = declare(model)                                   # or infer(model, (images,)) for any fx-traceable module,
    print(spec.describe())                                  # or declare_huggingface(config, state_dict)
    verify(spec, model, (images,))                          # raises UserError if a group changes the outputs
    permutation = spec.random(torch.Generator().manual_seed(0))
    model.load_state_dict(apply(spec, model.state_dict(), permutation))   # the same function, other weights

A permutation is `{part: LongTensor}`; `perm[i]` is the old unit placed in slot i. Source: arXiv 2209.04836.
"""

from permlab.symmetry.declared import declare
from permlab.symmetry.groups import ChannelGroup, Group, HeadGroup, Permutation, compose, equal, inverse
from permlab.symmetry.huggingface import declare_huggingface
from permlab.symmetry.infer import infer
from permlab.symmetry.spec import (
    Block,
    Spec,
    apply,
    axis_index,
    check_same,
    check_state,
    permute_tensor,
    squared_distance,
)
from permlab.symmetry.verify import verify

__all__ = [
    "Block",
    "ChannelGroup",
    "Group",
    "HeadGroup",
    "Permutation",
    "Spec",
    "apply",
    "axis_index",
    "check_same",
    "check_state",
    "compose",
    "declare",
    "declare_huggingface",
    "equal",
    "infer",
    "inverse",
    "permute_tensor",
    "squared_distance",
    "verify",
]
