"""Rows for `plugins=[permlab_example_extra]`: known without entry points."""

from permlab.merging.table import CombineRow

PERMLAB_ROWS = [
    CombineRow(
        "first_network", "the first network alone: a control", target="permlab_example_extra:combine_first", line=True
    )
]


def combine_first(networks, setting):
    """The first network."""
    return dict(networks.states[0])
