"""Dataset configuration to corpus: `load_corpus(config.dataset, seed)` for every `dataset=` that gives texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from permlab.data.examples import Corpus, Query
from permlab.data.text_files import read_jsonl, read_queries


def load_corpus(dataset: Any, seed: int) -> Corpus:
    """Generate or read the corpus that a dataset configuration names.

    Raises:
        UserError: for missing files, bad rows (with file and line), and sizes that cannot be generated.
    """
    kind = dataset.kind
    if kind == "people":
        from permlab.data.people import people_corpus

        return people_corpus(dataset.people, dataset.templates, dataset.held_out, seed)
    if kind == "symbolic":
        from permlab.data.symbolic import symbolic_corpus

        sizes = (dataset.pairs, dataset.entity_words, dataset.symbols, dataset.forms, dataset.train_form)
        return symbolic_corpus(*sizes, seed)
    if kind == "berglund":
        from permlab.data.berglund import read_berglund

        return read_berglund(dataset.path, on_bad_row=dataset.on_bad_row)
    if kind == "hub":
        from permlab.data.hub import read_hub

        named = {"split": dataset.split, "text_column": dataset.text_column, "subset": dataset.subset}
        return read_hub(dataset.path, **named, limit=dataset.limit, on_bad_row=dataset.on_bad_row)
    if kind == "jsonl":
        fields = {key: getattr(dataset, key) for key in ("text_field", "prompt_field", "completion_field")}
        fields["protected_field"] = dataset.protected_field
        corpus = read_jsonl(dataset.path, **fields, on_bad_row=dataset.on_bad_row)
    else:
        from permlab.text.presegmented import read_presegmented

        corpus = read_presegmented(dataset.path, dataset.separator, on_bad_row=dataset.on_bad_row)
    corpus.queries += asked(dataset)
    return corpus


def asked(dataset: Any) -> list[Query]:
    """Read the questions of a dataset that names them in files of their own."""
    keys = getattr(dataset, "prompt_field", "prompt"), getattr(dataset, "completion_field", "completion")
    queries: list[Query] = []
    for direction, path in (("forward", dataset.forward_test_path), ("reverse", dataset.test_path)):
        if path:
            queries += read_queries(path, direction=direction, keys=keys, on_bad_row=dataset.on_bad_row)
    return queries


def limit_queries(queries: Sequence[Query], limit: int | None) -> list[Query]:
    """Keep at most `limit` queries per wording, direction, group and kind, spread evenly over each."""
    if limit is None:
        return list(queries)
    groups: dict[tuple[str, ...], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.wording, query.direction, query.group, query.kind), []).append(query)
    kept = []
    for items in groups.values():
        step = max(1, len(items) / limit)
        kept += [items[int(i * step)] for i in range(min(limit, len(items)))]
    return kept
