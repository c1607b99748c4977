"""LoRA adapters as collections of rank-one units: read, take apart, merge, write.

>>> from permlab.adapters import MergeRule, open_adapter, write_merge
>>> write_merge("merged", [open_adapter("A"), open_adapter("B")], MergeRule(method="lego", rank=16))
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
