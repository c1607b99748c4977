"""Data sets of texts, one file each: `from permlab.data.texts import people_corpus; people_corpus(people=6)`."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
