"""Section of `task=ntk`: N against k with law, band and published points; accuracy against N; finite widths."""

from __future__ import annotations

from permlab.reports.collection import Collection, own_figures, words
from permlab.reports.document import Block
from permlab.reports.writer import Output
from permlab.tables import Row

TITLE = "Ensembles that learn a permutation exactly (ntk)"
QUESTION = "How many networks must be averaged to learn a permutation exactly? (arXiv 2502.16763)"
CAPTIONS = {
    "n_against_k": "Networks N needed against input size k: law, band of simulated runs, published points where asked",
    "accuracy_against_networks": "Accuracy against the number of networks N: law, simulated or trained, published runs",
    "published_transformed": "Published sizes as probabilities under simulated first passages; their distribution",
    "sizes_of_variants": "Ensemble sizes of other networks, of noisy labels, and of one step of addition, by law",
    "size_against_width": "Ensemble size of real networks against their width, with the laws",
}
COLUMNS = {
    "configuration": "configuration", "k": "k", "ones": "ones", "width": "width",
    "ensemble_size": "N, expected accuracy", "ensemble_size_law": "N by the law",
    "first_low": "first passage 2.5 %", "first_median": "median", "first_high": "97.5 %",
    "low": "2.5 %", "median": "median", "high": "97.5 %", "published": "published", "transformed": "u of the published",
    "law_over_published": "law / published", "against_band": "published point in the band", "mean": "mean of runs",
    "necessary": "necessary N", "sufficient_bound": "sufficient N (bound)", "success": "success",
    "success_law": "success by the law", "stopping_mean": "mean stopping N",
}  # fmt: skip


def blocks(collection: Collection, out: Output) -> list[Block]:
    """The figures that the runs drew, the ensemble sizes of every configuration, and the growth fits."""
    made = own_figures(collection, out, list(CAPTIONS), lambda name: CAPTIONS.get(name, words(name)))
    for table, title in (("ensemble_size", "Ensemble sizes"), ("fits", "Growth fits: least squares on log N")):
        rows: list[Row] = []
        for group in collection.groups:
            # The law is the same for every seed; simulated bands of the newest run are shown.
            rows += [{"configuration": group.label, **row} for row in group.newest.table(table)]
        if rows:
            columns = dict(COLUMNS) if table == "ensemble_size" else None
            if columns and not collection.many:
                columns.pop("configuration")
            made.append(out.table(collection.prefix(table), rows, title, columns))
    return made
