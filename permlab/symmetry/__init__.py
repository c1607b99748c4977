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
Names are imported on demand (`__init__.pyi` lists them).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
