"""Configuration of the text datasets: `permlab dataset=people dataset.people=90`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PeopleConfig:
    """Generated fictitious persons in three groups: name first, description first, both ways (`data/people.py`)."""

    name: str = "people"
    kind: str = "people"
    people: int = 60
    """Persons in all, a third per group."""
    templates: int = 10
    """Training wordings per direction."""
    held_out: int = 3
    """Wordings per direction that only the second table asks."""


@dataclass
class SymbolicConfig:
    """Entity pairs under a relation and its inverse (`data/symbolic.py`)."""

    name: str = "symbolic"
    kind: str = "symbolic"
    pairs: int = 400
    """Entity pairs; half are trained in both directions, half forward only."""
    entity_words: int = 2
    """Words per entity; a word is two sub-tokens."""
    symbols: int = 24
    """Alphabet of sub-tokens."""
    forms: str = "inverse"
    """inverse (a relation and its inverse) | matrix (four surface forms: first entity x relation word)"""
    train_form: int = 0
    """forms=matrix: the surface form trained for the asked pairs (0..3)."""


@dataclass
class BerglundConfig:
    """A folder of Berglund et al.'s reverse_experiments files."""

    name: str = "berglund"
    kind: str = "berglund"
    path: str | None = None
    """Folder with all_prompts_train.jsonl or all.jsonl and the *_prompts_test.jsonl files."""
    on_bad_row: str = "raise"
    """raise | skip"""


@dataclass
class JsonlConfig:
    """JSON lines with prompt and completion, or text; or a plain .txt file with one text per line."""

    name: str = "jsonl"
    kind: str = "jsonl"
    path: str | None = None
    text_field: str = "text"
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    protected_field: str | None = None
    """Field with a list of strings that no segmenter may split."""
    test_path: str | None = None
    """Prompt/completion rows asked after training as reverse recall."""
    forward_test_path: str | None = None
    """Prompt/completion rows asked after training as forward recall."""
    on_bad_row: str = "raise"
    """raise | skip"""


@dataclass
class PresegmentedConfig:
    """Text files with one text per line and a separator between units."""

    name: str = "presegmented"
    kind: str = "presegmented"
    path: str | None = None
    separator: str = "[SEP]"
    test_path: str | None = None
    """Prompt/completion JSON lines asked after training as reverse recall."""
    forward_test_path: str | None = None
    """Prompt/completion JSON lines asked after training as forward recall."""
    on_bad_row: str = "raise"
    """raise | skip"""


@dataclass
class HubConfig:
    """A dataset id of the Hugging Face hub, or a local dataset folder."""

    name: str = "hub"
    kind: str = "hub"
    path: str | None = None
    """Dataset id, or a folder of data files or of `save_to_disk`."""
    subset: str | None = None
    split: str = "train"
    text_column: str = "text"
    image_column: str = "image"
    """task=merge: column with pictures."""
    label_column: str = "label"
    """task=merge: column with class numbers or names."""
    test_split: str | None = None
    """task=merge: split that is tested on; null keeps a quarter of `split` for testing."""
    side: int = 32
    """task=merge: pictures are scaled to side x side pixels."""
    channels: int = 3
    """task=merge: 3 (colour) | 1 (grey)"""
    limit: int | None = None
    """First rows to use; null = all."""
    on_bad_row: str = "raise"
    """raise | skip"""


TEXT_DATASETS = ("people", "symbolic", "berglund", "jsonl", "presegmented", "hub")
"""Dataset kinds that give training texts."""
