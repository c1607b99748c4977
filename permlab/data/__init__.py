"""Data sets: texts for language models, labelled images for classifiers, adapter tasks for LoRA.

    from permlab.data import load_texts
    from permlab.data.texts.people import PeopleConfig
    load_texts(PeopleConfig(people=6), seed=0).examples[0].text

One file per data set holds its configuration, its check and its reader; `permlab.data.table` lists them all.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
