"""The data sets: one row per kind; each option in conf/dataset/ is of one kind.

    from permlab.data.table import DATASETS
    DATASETS.where(gives_images=True)

A new data set is one file with its configuration, its check and its reader, one row here and one option in
conf/dataset/.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class DataRow(Row):
    """A kind of data set; `target` is its configuration dataclass.

    Attributes:
        check: "module:function", called with the configuration before anything heavy is imported; empty for none.
        texts: "module:function" from (configuration, seed) to a `Corpus`; empty where it gives no texts.
        images: "module:function" from the configuration to an `ImageData`; empty where it gives no images.
        fetches: "module:function" from the configuration to whether reading would download; empty where nothing does.
        knows_units: its texts bring the units that they are made of.
        segmenter: the one that suits its texts, taken where none is named (`permlab.text.table.SEGMENTERS`).
    """

    check: str = ""
    texts: str = ""
    images: str = ""
    fetches: str = ""
    knows_units: bool = False
    segmenter: str = "entities"

    @property
    def gives_texts(self) -> bool:
        """Whether it can be trained on as text."""
        return bool(self.texts)

    @property
    def gives_images(self) -> bool:
        """Whether it has labelled images."""
        return bool(self.images)


DATASETS = Table(
    "data set",
    [
        DataRow("none", "the task brings its own data", target="permlab.config:NoneConfig"),
        DataRow(
            "people",
            "generated fictitious persons: name first, description first, both ways",
            target="permlab.data.texts.people:PeopleConfig",
            check="permlab.data.texts.people:check_people",
            texts="permlab.data.texts.people:load_people",
            knows_units=True,
            segmenter="oracle",
        ),
        DataRow(
            "symbolic",
            "generated entity pairs under a relation and its inverse",
            target="permlab.data.texts.symbolic:SymbolicConfig",
            paper="2403.13799",
            check="permlab.data.texts.symbolic:check_symbolic",
            texts="permlab.data.texts.symbolic:load_symbolic",
            knows_units=True,
            segmenter="oracle",
        ),
        DataRow(
            "cups",
            "generated swaps in a row of cups, and where each cup is in the end",
            target="permlab.data.texts.cups:CupsConfig",
            paper="2404.08819",
            check="permlab.data.texts.cups:check_cups",
            texts="permlab.data.texts.cups:load_cups",
            knows_units=True,
            segmenter="oracle",
        ),
        DataRow(
            "berglund",
            "the reverse_experiments files of Berglund et al.",
            target="permlab.data.texts.berglund:BerglundConfig",
            paper="2309.12288",
            check="permlab.data.texts.berglund:check_berglund",
            texts="permlab.data.texts.berglund:load_berglund",
        ),
        DataRow(
            "facts",
            "a CSV of facts (subject, relation, object), written and asked in both directions",
            target="permlab.data.texts.facts:FactsConfig",
            check="permlab.data.texts.facts:check_facts",
            texts="permlab.data.texts.facts:load_facts",
            knows_units=True,
            segmenter="oracle",
        ),
        DataRow(
            "jsonl",
            "JSON lines, or one text per line",
            target="permlab.data.texts.jsonl:JsonlConfig",
            check="permlab.data.texts.jsonl:check_jsonl",
            texts="permlab.data.texts.jsonl:load_jsonl",
        ),
        DataRow(
            "presegmented",
            "texts with a separator between their units",
            target="permlab.data.texts.presegmented:PresegmentedConfig",
            paper="2403.00758",
            check="permlab.data.texts.presegmented:check_presegmented",
            texts="permlab.data.texts.presegmented:load_presegmented",
            knows_units=True,
            segmenter="presegmented",
        ),
        DataRow(
            "hub",
            "a data set of the Hugging Face hub, or a folder in its format",
            target="permlab.data.hub:HubConfig",
            check="permlab.data.hub:check_hub",
            texts="permlab.data.hub:load_hub_corpus",
            images="permlab.data.hub:load_hub_pictures",
            fetches="permlab.data.hub:would_download",
        ),
        DataRow(
            "digits",
            "scikit-learn's handwritten digits, 8 x 8 pixels",
            target="permlab.data.images.digits:DigitsConfig",
            check="permlab.data.images.digits:check_digits",
            images="permlab.data.images.digits:load_digits",
        ),
        DataRow(
            "mnist",
            "IDX files of MNIST or alike",
            target="permlab.data.images.mnist:MnistConfig",
            check="permlab.data.images.mnist:check_mnist",
            images="permlab.data.images.mnist:load_idx_folder",
        ),
        DataRow(
            "imagefolder",
            "one folder of pictures per class",
            target="permlab.data.images.imagefolder:ImageFolderConfig",
            check="permlab.data.images.imagefolder:check_imagefolder",
            images="permlab.data.images.imagefolder:load_class_folders",
        ),
    ],
)
