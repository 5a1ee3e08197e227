"""Every kind of f_θ on one axis: return against episodes seen, trained at equal environment steps.

python experiments/curves.py                                       # three families, about an hour on a busy core
python experiments/curves.py --families point-nav --output runs/curves

Gradient-based algorithms change φ after every stage of N episodes, those with a memory at every step; the oracle sees
the task. All adapt to the same held-out tasks with equally many episodes, more than they were trained with. Rows are
written as they are done; what was cut off goes on where it stopped if it is started again.
"""

if __name__ == "__main__":  # Ctrl-C while the rest is imported
    from metarl_jax.runs import startup

    startup.quiet()

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.runs import cli, comparisons
from metarl_jax.runs.comparisons import DENSE, MEMORY, ORACLE, SMALL_BASE


class Family(NamedTuple):
    """How a family is trained on; the settings of an algorithm are the same on all families but for these."""

    environment: dict[str, Any]
    """options of the family"""
    steps: int
    """environment steps of a training, equal for all algorithms"""
    gradient: dict[str, Any]
    """options of the algorithms that take inner steps"""
    memory: dict[str, Any]
    """options of the algorithms with a memory"""


FAMILIES = {
    "point-nav": Family({"action_scale": 10.0}, 2_400_000, {"tasks": 10}, DENSE),
    "point-sparse": Family({"action_scale": 10.0}, 1_200_000, {"tasks": 20}, {}),
    "reacher-goal": Family({"horizon": 50, "backend": "spring"}, 1_600_000, {"tasks": 10}, DENSE),
}
POLICY = {"init_std": 0.5, "min_std": 0.1}
GRADIENT = {"episodes": 20, "inner_lr": 0.1, "outer_lr": 3e-3, "policy": POLICY}
# What an algorithm needs besides; of the gradient-based ones as in experiments/compare.py.
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
    """task families, a panel each"""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """which algorithms"""
    seeds: int = 3
    """independent runs, trained together in one program"""
    first_seed: int = 0
    """the first of them; the others follow"""
    steps: int | None = None
    """environment steps of a training, equal for all (None: each family's own, 1.2 to 2.4 M)"""
    eval_tasks: int = 40
    """held-out tasks, the same for all"""
    eval_episodes: int = 80
    """episodes of a trial on them, a multiple of N"""
    output: Path = Path("runs/curves")
    """folder of curves.json, curves.md and curves.png"""


def build(family: str, name: str, arguments: Arguments) -> comparisons.Entry:
    """Environment and algorithms of a row.

    Raises:
        ValueError: a name is unknown or a value is out of range.
    """
    import metarl_jax as mrl

    chosen = FAMILIES[family]
    own = chosen.memory if name.startswith("rl2") else chosen.gradient
    env = mrl.envs.make(family, **chosen.environment)
    return comparisons.entry(env, name, ALGORITHMS[name] | own, arguments.eval_episodes)


def run(family: str, name: str, arguments: Arguments) -> dict[str, Any]:
    """Trains all seeds of one algorithm on one family, and adapts them to the held-out tasks."""
    built = build(family, name, arguments)
    steps = FAMILIES[family].steps if arguments.steps is None else arguments.steps
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    params, told = comparisons.train(f"{family}, {name}", built, steps, seeds)
    scores = comparisons.scores(built, params, arguments.eval_tasks)
    each = arguments.eval_episodes // scores.shape[-1]
    episodes = [each * stage for stage in range(scores.shape[-1])]
    return {"family": family, "algorithm": name, **told, "episodes": episodes, "per_task": scores.round(3).tolist()}


def marks(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Where the table looks: at the start, after an episode and a few, and wherever a gradient step is taken."""
    gradient = max((row["episodes"] for row in rows), key=lambda episodes: np.diff(episodes).max(initial=0))
    return sorted({0, 1, 3, *gradient} & set(range(rows[0]["episodes"][-1] + 1) or {0}))


def at(row: dict[str, Any], episodes: int) -> int:
    """The stage of a row whose φ has seen at most that many episodes."""
    return int(np.searchsorted(row["episodes"], episodes, side="right") - 1)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For each family IQM and interval of the return of an episode, by what was seen before it."""
    from metarl_jax.evaluation import iqm_interval

    texts = []
    for family in dict.fromkeys(row["family"] for row in rows):
        of_family = [row for row in rows if row["family"] == family]
        columns = marks(of_family)
        head = " | ".join(f"{episodes} seen" for episodes in columns)
        texts += [f"### {family}", "", f"| algorithm | {head} | minutes |", "| --- " * (len(columns) + 2) + "|"]
        for row in of_family:
            found = iqm_interval(np.array(row["per_task"]))
            cells = [" to ".join(f"{end[at(row, seen)]:.2f}" for end in found[1:]) for seen in columns]
            cells = [f"{found.estimate[at(row, seen)]:.2f} ({cell})" for seen, cell in zip(columns, cells, strict=True)]
            texts.append(f"| `{row['algorithm']}` | {' | '.join(cells)} | {row['minutes']:.1f} |")
        texts.append("")
    return "\n".join(texts)


def check(arguments: Arguments) -> None:
    """Whether every row can be computed.

    Raises:
        ValueError: a value is not allowed.
    """
    from metarl_jax import checks

    for name, given, known in (
        ("family", arguments.families, FAMILIES),
        ("algorithm", arguments.algorithms, ALGORITHMS),
    ):
        if not given:
            raise ValueError(f"no {name} given; choose from {', '.join(known)}")
        for value in given:
            if value not in known:
                raise checks.unknown(name, value, known)
    checks.integer("seeds", arguments.seeds, least=2)  # for an interval over seeds
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
    from metarl_jax.runs import files, plots

    files.write(arguments.output / "curves.md", text)
    plots.curves(stored["rows"], arguments.output / "curves.png")
    print(text)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
