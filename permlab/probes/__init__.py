"""Can attention undo a permutation, and what does the causal mask cost? (arXiv 2509.24125)

    from permlab.probes import Layout, Transformer, Training, Recipe, mse_floor
    layout = Layout.variant("scratch", n=10)
    training = Training(Transformer(layout), Recipe(), seeds=[0, 1, 2])
    print(training.run().test_mse, mse_floor(layout))

Names are imported on demand (`__init__.pyi` lists them), so that checking a layout does not load torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
