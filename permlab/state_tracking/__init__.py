"""Which sequence models can follow a permutation through a product? (arXiv 2404.08819, 2411.12537, 2502.10297)

    from permlab.state_tracking import Words, group
    words = Words(group("S3"), "all")
    symbols, states = words.draw(8, 64, seed=0)      # [8, 64] each: what is read, and the product up to there

Names are imported on demand (`__init__.pyi` lists them), so that checking settings loads no torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
