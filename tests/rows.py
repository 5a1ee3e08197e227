"""Rows of tables of tests: those that the default suite runs, and those that only CI runs, which are marked thorough.

By default there is one row for each path through the code; the others repeat it.
"""

import pytest


def thorough(*values, **options):
    """A row that the default suite leaves out."""
    return pytest.param(*values, marks=pytest.mark.thorough, **options)


def by_default(table, kept):
    """The rows of a table, each a value or a tuple of values; those that are not kept are thorough."""
    table = list(table)
    missing = [row for row in kept if row not in table]
    assert not missing, f"not in the table: {missing}"
    return [row if row in kept else thorough(*(row if isinstance(row, tuple) else (row,))) for row in table]


def of_environments(names):
    """Rows of environments on recordings (`tests.conftest`), thorough where the physics takes longest to compile."""
    return by_default(names, [name for name in names if not name.startswith("humanoid")])
