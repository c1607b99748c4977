"""The networks of the project: causal language models of transformers, small image classifiers, files of checkpoints.

    from permlab.models import build_vision_model
    build_vision_model("resnet20", shape=(1, 8, 8), classes=10, width=4)

The names stand in `permlab.models.table`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
