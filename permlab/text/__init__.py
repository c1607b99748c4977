"""Texts as units: segmenters, unit orders, ordered training and recall (`permlab task=spt`).

    from permlab.text import OrderedTexts, Ordering, segment_corpus
    examples = segment_corpus(corpus.examples, OracleSegmenter()).examples
    stream = OrderedTexts(examples, encode, Ordering(order="spt"), epochs=100, seed=0)

The names of orders, segmenters and budgets stand in `permlab.text.table`, without torch and numpy.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
