"""The tables of the README, generated from the registries.

python docs/tables.py            # rewrites README.md between the markers
python docs/tables.py --check    # status 1 if that would change it
"""

import inspect
import re
import sys
from pathlib import Path

import metarl_jax as mrl

README = Path(__file__).resolve().parent.parent / "README.md"


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"


def algorithms() -> str:
    """One row per registered algorithm: its docstring's first line, its own options, its papers."""
    rows = [_row("name", "meta-update", "its own options (default)", "paper"), _row(*["---"] * 4)]
    for name in mrl.algorithms.names():
        function = mrl.algorithms.ALGORITHMS[name]
        documentation = inspect.getdoc(function) or ""
        own = {
            parameter.name: parameter.default
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        papers = re.findall(r"arXiv:(\d{4}\.\d{5})", documentation)
        rows.append(
            _row(
                f"`{name}`",
                documentation.split("\n\n")[0],
                ", ".join(f"`{option}` ({default})" for option, default in own.items()),
                ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers),
            )
        )
    return "\n".join(rows)


def environments() -> str:
    """One row per version of every registered family, from its card."""
    rows = [_row("name", "reward of a step; end", "tasks", "T", "options (default)", "physics"), _row(*["---"] * 6)]
    notes = []
    for family in mrl.envs.names():
        for version in mrl.envs.versions(family):
            card = mrl.envs.card(version)
            options = ", ".join(f"`{name}` ({value})" for name, value in card.options.items())
            physics = f"Brax ({card.backends[0]})" if card.backends else "pure JAX"
            rows.append(_row(f"`{version}`", card.formula, card.tasks, str(card.horizon), options, physics))
        card = mrl.envs.card(family)
        notes.append(f"* `{family}`: {card.source}. {card.differences}")
    return "\n".join([*rows, "", "Where they come from, and how they differ from the literature:", "", *notes])


TABLES = {"algorithms": algorithms, "environments": environments}


def rendered(text: str) -> str:
    """`text` with every table brought up to date.

    Raises:
        ValueError: a table's markers are missing.
    """
    for name, table in TABLES.items():
        opening, closing = f"<!-- table: {name} -->\n", "<!-- end of table -->"
        before, opened, rest = text.partition(opening)
        _, closed, after = rest.partition(closing)
        if not (opened and closed):
            raise ValueError(f"README.md has no markers for the table {name!r}")
        text = f"{before}{opening}{table()}\n{closing}{after}"
    return text


def main(arguments: list[str]) -> int:
    """Rewrites the README or, with --check, compares; returns the exit status."""
    text = README.read_text(encoding="utf-8")
    current = rendered(text)
    if arguments == ["--check"]:
        return int(current != text)
    README.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
