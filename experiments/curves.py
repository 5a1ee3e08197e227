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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import comparisons
from metarl_jax.runs.evaluation.comparisons import DENSE, MEMORY, ORACLE, SMALL_BASE


class Family(NamedTuple):
    """Settings per family; other settings of an algorithm are the same on all families."""

    environment: dict[str, Any]
    """options of the family"""
    steps: int
    """environment steps of the training, equal for all algorithms"""
    gradient: dict[str, Any]
    """options of the gradient-based algorithms"""
    memory: dict[str, Any]
    """options of the recurrent algorithms"""


FAMILIES = {
    "point-nav": Family({"action_scale": 10.0}, 2_400_000, {"tasks": 10}, DENSE),
    "point-sparse": Family({"action_scale": 10.0}, 1_200_000, {"tasks": 20}, {}),
    "reacher-goal": Family({"horizon": 50, "backend": "spring"}, 1_600_000, {"tasks": 10}, DENSE),
}
POLICY = {"init_std": 0.5, "min_std": 0.1}
GRADIENT = {"episodes": 20, "inner_lr": 0.1, "outer_lr": 3e-3, "policy": POLICY}
# Settings of single algorithms; gradient-based ones as in experiments/compare.py.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "maml": GRADIENT,
    "promp": GRADIENT | {"outer_lr": 1e-3},  # five steps on the same data
    "e-maml": GRADIENT | {"credit": 0.1},  # the whole term is noise at this budget
    "pretrain": GRADIENT,
    "rl2": MEMORY | {"policy": POLICY},
    "rl2-hyper": MEMORY | {"policy": POLICY | SMALL_BASE},
    ORACLE: GRADIENT,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    families: tuple[str, ...] = tuple(FAMILIES)
    """task families, one panel each"""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """names of algorithms"""
    seeds: int = 3
    """number of seeds, trained together in one program"""
    first_seed: int = 0
    """the first seed; the others follow"""
    steps: int | None = None
    """environment steps of the training, equal for all algorithms (None: 1.2 to 2.4 M, depending on the family)"""
    eval_tasks: int = 40
    """held-out tasks, equal for all algorithms"""
    eval_episodes: int = 80
    """episodes of a trial in a held-out task, a multiple of N"""
    output: Path = Path("runs/curves")
    """folder of curves.json, curves.md and curves.png"""


def build(family: str, name: str, arguments: Arguments) -> comparisons.Entry:
    """Environment and algorithms of a row.

    Raises:
        ValueError: a name is unknown or a value is out of range.
    """
    import metarl_jax as mrl

    chosen = FAMILIES[family]
    kind = mrl.algorithms.kind(comparisons.registered_name(name))
    of_family = chosen.memory if kind == "memory" else chosen.gradient
    env = mrl.envs.make(family, **chosen.environment)
    return comparisons.entry(env, name, ALGORITHMS[name] | of_family, arguments.eval_episodes)


def run(family: str, name: str, arguments: Arguments) -> dict[str, Any]:
    """Trains all seeds of one algorithm on one family, and adapts them to the held-out tasks."""
    built = build(family, name, arguments)
    steps = FAMILIES[family].steps if arguments.steps is None else arguments.steps
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    params, training = comparisons.train(f"{family}, {name}", built, steps, seeds)
    scores = comparisons.scores(built, params, arguments.eval_tasks)
    each = arguments.eval_episodes // scores.shape[-1]
    episodes = [each * stage for stage in range(scores.shape[-1])]
    return {"family": family, "algorithm": name, **training, "episodes": episodes, "per_task": scores.round(3).tolist()}


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
        head = " | ".join(f"{episodes} seen" for episodes in columns)
        texts += [f"### {family}", "", f"| algorithm | {head} | minutes |", "| --- " * (len(columns) + 2) + "|"]
        for row in of_family:
            interval = iqm_interval(np.array(row["per_task"]))
            cells = [" to ".join(f"{end[at(row, episodes)]:.2f}" for end in interval[1:]) for episodes in columns]
            cells = [
                f"{interval.estimate[at(row, episodes)]:.2f} ({cell})"
                for episodes, cell in zip(columns, cells, strict=True)
            ]
            texts.append(f"| `{row['algorithm']}` | {' | '.join(cells)} | {row['minutes']:.1f} |")
        texts.append("")
    return "\n".join(texts)


def check(arguments: Arguments) -> None:
    """Checks that all rows can be computed.

    Raises:
        ValueError: a value is not allowed.
    """
    from metarl_jax import checks

    for name, chosen, choices in (
        ("family", arguments.families, FAMILIES),
        ("algorithm", arguments.algorithms, ALGORITHMS),
    ):
        if not chosen:
            raise ValueError(f"no {name} given; choose from {', '.join(choices)}")
        for value in chosen:
            if value not in choices:
                raise checks.unknown(name, value, choices)
    checks.integer("seeds", arguments.seeds, least=2)  # required for an interval over seeds
    for name in ("eval_tasks", "eval_episodes"):
        checks.integer(name, getattr(arguments, name))
    if arguments.steps is not None:
        checks.integer("steps", arguments.steps)
    if checks.seed("first_seed", arguments.first_seed) + arguments.seeds > 2**32:
        raise ValueError(f"first_seed is {arguments.first_seed}; the last of {arguments.seeds} must stay below 2**32")
    for name in arguments.algorithms:
        build(arguments.families[0], name, arguments)


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
        done = {(row["family"], row["algorithm"]) for row in stored["rows"]}
        asked = [(family, name) for family in arguments.families for name in arguments.algorithms]
        arguments.output.mkdir(parents=True, exist_ok=True)

    def row(which: tuple[str, str]) -> dict[str, Any]:
        return run(*which, arguments)

    comparisons.fill(path, stored, [which for which in asked if which not in done], row)
    text = table(stored["rows"])
    from metarl_jax.runs.pictures import plots
    from metarl_jax.runs.storage import files

    files.write(arguments.output / "curves.md", text)
    plots.curves(stored["rows"], arguments.output / "curves.png")
    print(text)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
