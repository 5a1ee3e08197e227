"""Which rows of a table the default suite runs. The rest are marked thorough: CI runs them, after the default suite."""

import pytest


def by_default(rows, keep):
    """The rows of a table, those that are not in `keep` marked thorough.

    Kept are rows that show what the others repeat: one for each path through the code that the test is about.
    """
    missing = [row for row in keep if row not in rows]
    assert not missing, f"no rows of the table: {missing}"
    return [row if row in keep else thorough(*row if isinstance(row, tuple) else (row,)) for row in rows]


def thorough(*values, **options):
    """A row that the default suite leaves out."""
    return pytest.param(*values, marks=pytest.mark.thorough, **options)


HEAVY = ("humanoid", "pusher", "walker")
"""robots whose physics the default suite does not compile, since it has four others"""


def of_environments(names):
    """Rows of environments on recordings (`tests.conftest`), those of heavy robots thorough."""
    return by_default(list(names), [name for name in names if not name.startswith(HEAVY)])
