"""The data sets: one row per kind; each option in conf/dataset/ is of one kind.

from permlab.data.table import DATASETS
DATASETS.where(images=True)
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class DataRow(Row):
    """A kind of data set: `target` is its configuration dataclass; `texts` and `images` say what it can give."""

    texts: bool = False
    images: bool = False


DATASETS = Table(
    "data set",
    [
        DataRow("none", "the task brings its own data", target="permlab.config:NoneConfig"),
        DataRow(
            "people",
            "generated fictitious persons: name first, description first, both ways",
            target="permlab.data.text_configs:PeopleConfig",
            texts=True,
        ),
        DataRow(
            "symbolic",
            "generated entity pairs under a relation and its inverse",
            target="permlab.data.text_configs:SymbolicConfig",
            paper="2403.13799",
            texts=True,
        ),
        DataRow(
            "berglund",
            "the reverse_experiments files of Berglund et al.",
            target="permlab.data.text_configs:BerglundConfig",
            paper="2309.12288",
            texts=True,
        ),
        DataRow(
            "jsonl", "JSON lines, or one text per line", target="permlab.data.text_configs:JsonlConfig", texts=True
        ),
        DataRow(
            "presegmented",
            "texts with a separator between their units",
            target="permlab.data.text_configs:PresegmentedConfig",
            texts=True,
        ),
        DataRow(
            "hub",
            "a data set of the Hugging Face hub, or a folder in its format",
            target="permlab.data.text_configs:HubConfig",
            texts=True,
            images=True,
        ),
        DataRow(
            "digits",
            "scikit-learn's handwritten digits, 8 x 8 pixels",
            target="permlab.data.image_configs:DigitsConfig",
            images=True,
        ),
        DataRow("mnist", "IDX files of MNIST or alike", target="permlab.data.image_configs:MnistConfig", images=True),
        DataRow(
            "imagefolder",
            "one folder of pictures per class",
            target="permlab.data.image_configs:ImageFolderConfig",
            images=True,
        ),
    ],
)
