"""The texts and units of a run, read and cut once: what a dry run or the check before a run has seen, the run takes.

    corpus = corpus_of(config); segmented = units_of(config, corpus)

Only the last corpus and its units are kept, and only as long as no file that they came from has changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data.examples import limit_examples
from permlab.data.loading import preview_texts
from permlab.text.table import SEGMENTERS

if TYPE_CHECKING:
    from permlab.data import Corpus
    from permlab.tasks.spt import SptConfig
    from permlab.text.segment import SegmentedCorpus, Segmenter

_kept: dict[str, tuple[Any, Any]] = {}
"""What was made last -> (everything that decided it, the thing itself)."""


def corpus_of(config: Config[SptConfig]) -> Corpus | None:
    """Return texts and questions, at most `debug.examples` of the texts; None where they would have to be fetched."""

    def read() -> Corpus | None:
        corpus = preview_texts(config.dataset, config.seed)
        return limit_examples(corpus, config.debug.examples) if corpus else None

    found: Corpus | None = _once("corpus", _deciding(config, config.dataset), read)
    return found


def units_of(
    config: Config[SptConfig],
    corpus: Corpus,
    segmenter: Segmenter | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentedCorpus:
    """Return the checked segmentation of the texts of `corpus_of`.

    Args:
        config: of the run.
        corpus: what is cut.
        segmenter: already made; otherwise as the settings say.
        progress: called with (texts done, texts in all).

    Raises:
        UserError: too few units, see `check_segmented`.
    """
    from permlab.text.segment import check_segmented, segment_texts

    settings, kind = config.task.segmenter, config.dataset.kind

    def cut() -> SegmentedCorpus:
        made = segment_texts(corpus.examples, settings, kind, config.seed, segmenter=segmenter, progress=progress)
        check_segmented(made, settings, "task.segmenter.")
        return made

    if "model" in SEGMENTERS[settings.chosen(kind)].needs:
        return cut()  # a model's answers have a cache of their own, and its counts are those of this run
    found: SegmentedCorpus = _once("units", _deciding(config, config.dataset, settings), cut)
    return found


def _deciding(config: Config[SptConfig], *settings: Any) -> tuple[Any, ...]:
    """Return what decides a result: settings, seed, limits, and the state of every file that the settings name."""
    values = [value for each in settings for value in dataclasses.asdict(each).values() if isinstance(value, str)]
    paths = [Path(value) for value in values if len(value) < 4096 and "\0" not in value and Path(value).exists()]
    files = [file for path in paths for file in ([path, *sorted(path.iterdir())] if path.is_dir() else [path])]
    states = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return (*map(repr, settings), config.seed, config.debug.examples, *states)


def _once(name: str, deciding: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Return what was made last if the same things decided it, else make it."""
    if name not in _kept or _kept[name][0] != deciding:
        _kept.pop(name, None)
        _kept[name] = (deciding, make())
    return _kept[name][1]
