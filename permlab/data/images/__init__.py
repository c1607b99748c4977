"""Data sets of labelled images, one file each: `from permlab.data.images import load_digits_images`."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
