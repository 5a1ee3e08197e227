"""Tables in Markdown."""

from metarl_jax.runs.evaluation import markdown


def test_a_table_has_a_line_for_each_row_and_a_bar_stays_in_its_cell():
    assert markdown.table(["a", "b"], [["`x|y`", "1"], ["z", ""]]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        r"| `x\|y` | 1 |",
        "| z |  |",
    ]
