"""All kinds of f_θ in one plot: return against episodes seen, after training with equal environment steps.

python experiments/curves.py                                       # three families, about an hour on a busy core
python experiments/curves.py --families point-nav --output runs/curves

Gradient-based algorithms change φ after each stage of N episodes, recurrent ones at each step; the oracle observes the
task. All adapt to the same held-out tasks with the same number of episodes, more than in training. Each row is written
when it is complete; to continue an interrupted comparison, run the same command again.
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import comparisons, markdown, suites


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(suites.Sizes):
    families: tuple[str, ...] = ("point-nav", "point-sparse", "reacher-goal")
    """task families, one panel each"""
    algorithms: tuple[str, ...] = tuple(suites.ALGORITHMS)
    """names of algorithms"""
    output: Path = Path("runs/curves")
    """folder of curves.json, curves.md and curves.png"""


def marks(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The numbers of episodes in the table: 0, a few small numbers, and those after each gradient step."""
    gradient = max((row["episodes"] for row in rows), key=lambda episodes: np.diff(episodes).max(initial=0))
    return sorted({0, 1, 3, *gradient} & set(range(rows[0]["episodes"][-1] + 1) or {0}))


def at(row: dict[str, Any], episodes: int) -> int:
    """The last stage of a row that starts after at most that many episodes."""
    return int(np.searchsorted(row["episodes"], episodes, side="right") - 1)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For each family, IQM and interval of the return, by the number of episodes before it."""
    from metarl_jax.evaluation import iqm_interval

    texts = []
    for family in dict.fromkeys(row["family"] for row in rows):
        of_family = [row for row in rows if row["family"] == family]
        columns = marks(of_family)
        header = ["algorithm", *(f"{episodes} seen" for episodes in columns), "minutes"]
        lines = []
        for row in of_family:
            interval = iqm_interval(np.array(row["per_task"]))
            cells = [" to ".join(f"{end[at(row, episodes)]:.2f}" for end in interval[1:]) for episodes in columns]
            cells = [
                f"{interval.estimate[at(row, episodes)]:.2f} ({cell})"
                for episodes, cell in zip(columns, cells, strict=True)
            ]
            lines.append([f"`{row['algorithm']}`", *cells, f"{row['minutes']:.1f}"])
        texts += [f"### {family}", "", markdown.table(header, lines), ""]
    return "\n".join(texts)


def rows_of(arguments: Arguments) -> list[tuple[str, str]]:
    """Family and algorithm of each row."""
    return list(dict.fromkeys(itertools.product(arguments.families, arguments.algorithms)))


def check(arguments: Arguments) -> None:
    """Checks that all rows can be computed.

    Raises:
        ValueError: a value is not allowed.
    """
    suites.known(arguments.families, arguments.algorithms)
    arguments.check()
    for which in rows_of(arguments):
        suites.planned(*which, arguments)


def main(argv: Sequence[str]) -> None:
    arguments = cli.parse(Arguments, argv, prog="curves.py", description=__doc__)
    cli.prepare_jax()
    cli.import_modules()
    path = arguments.output / "curves.json"
    shown = ("output", "families", "algorithms")
    described = {name: str(value) for name, value in vars(arguments).items() if name not in shown}
    with cli.user_errors():
        check(arguments)
        stored = comparisons.read(path, described)
        suites.check_stored(path, stored["rows"], set(rows_of(arguments)), arguments)
        done = {(row["family"], row["algorithm"]) for row in stored["rows"]}
        asked = rows_of(arguments)
        arguments.output.mkdir(parents=True, exist_ok=True)

    def rows(which: tuple[str, str]) -> list[dict[str, Any]]:
        return [suites.row(*which, arguments)]

    comparisons.fill(path, stored, [which for which in asked if which not in done], rows)
    text = table(stored["rows"])
    from metarl_jax.runs.pictures import plots
    from metarl_jax.runs.storage import files

    files.write(arguments.output / "curves.md", text)
    plots.curves(stored["rows"], arguments.output / "curves.png")
    print(text)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
