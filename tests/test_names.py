"""Every name that a table or a public function knows is refused with the nearest one when it is misspelt."""

from __future__ import annotations

import pytest

from permlab import registry
from permlab.errors import UserError

ROWS = [(table, name) for table in registry.TABLES for name in registry.table(table)]


def misspelt(name: str) -> str:
    """Double the last letter: weight -> weightt."""
    return name + name[-1]


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_tables_refuse_a_typo_with_the_nearest_name(table, name):
    with pytest.raises(UserError, match=f"did you mean '{name}'"):
        registry.table(table)[misspelt(name)]
    with pytest.raises(UserError, match=f"task.key={misspelt(name)} is not known; did you mean '{name}'"):
        registry.table(table).check("task.key", misspelt(name))


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_rows_say_what_they_are_and_load(table, name):
    row = registry.table(table)[name]
    assert len(row.about) > 5
    assert not row.target or callable(row.load())
    assert not row.color or row.color in figures_palette()


def figures_palette() -> set[str]:
    from permlab.figures import PALETTE

    return set(PALETTE)


def test_every_table_that_plugins_extend_has_a_row_class_of_its_own():
    kinds = [type(next(iter(registry.table(name).values()))) for name in registry.TABLES]
    assert len(kinds) == len(set(kinds)) and registry.Row not in kinds
