"""From the configuration of a data set to its data, by its row: `load_texts(PeopleConfig(people=6), seed=0).examples`.

A data set is one file with a configuration, a check and one or two readers, and one row in `permlab.data.table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab import registry
from permlab.data.table import DATASETS
from permlab.errors import UserError

if TYPE_CHECKING:
    from permlab.data.examples import Corpus
    from permlab.data.images import ImageData


def check_dataset(config: Any) -> None:
    """Check all that can be known of a data set before anything heavy is imported: paths, ranges, choices.

    Args:
        config: the configuration of any kind of data set.

    Raises:
        UserError: naming the key (`dataset.path=...`) and the remedy.
    """
    row = DATASETS[config.kind]
    if row.check:
        registry.load(row.check)(config)


def load_texts(config: Any, seed: int = 0) -> Corpus:
    """Generate or read the corpus that a configuration names.

    Args:
        config: of a kind of data set that gives texts.
        seed: decides what is generated; data sets that are read do not depend on it.

    Raises:
        UserError: a data set without texts, missing files, bad rows (with file and line), sizes that cannot be made.
    """
    row = DATASETS[config.kind]
    if not row.texts:
        raise UserError(f"{config.kind} gives no texts; these do: {', '.join(DATASETS.where(gives_texts=True))}")
    corpus: Corpus = registry.load(row.texts)(config, seed)
    return corpus


def preview_texts(config: Any, seed: int = 0) -> Corpus | None:
    """Return what `load_texts` does, or None where that would download: for a dry run.

    Raises:
        UserError: as `load_texts`.
    """
    row = DATASETS[config.kind]
    if row.fetches and registry.load(row.fetches)(config):
        return None
    return load_texts(config, seed)


def load_images(config: Any) -> ImageData:
    """Read the images that a configuration names, cut into training and test images (the same for every seed).

    Args:
        config: of a kind of data set that gives images.

    Raises:
        UserError: a data set without images, missing or broken files.
    """
    row = DATASETS[config.kind]
    if not row.images:
        raise UserError(f"{config.kind} gives no images; these do: {', '.join(DATASETS.where(gives_images=True))}")
    images: ImageData = registry.load(row.images)(config)
    return images
