"""All algorithms on one task family at equal environment steps: seeds trained together by vmap, one table at the end.

python experiments/compare.py                                      # every algorithm on point-nav, three seeds
python experiments/compare.py --algorithms maml promp --steps 2000000 --output runs/compare

Each row is written when it is complete; to continue an interrupted comparison, run the same command again.
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import comparisons, markdown
from metarl_jax.runs.evaluation.comparisons import DENSE, MEMORY, ORACLE, SMALL_BASE
from metarl_jax.runs.storage import files

POLICY = {"init_std": 0.5, "min_std": 0.1}
# Settings of single algorithms in addition to the common ones; all others are defaults. Chosen on seeds 100 and 101, on
# the held-out tasks of an earlier table.
SETTINGS: dict[str, dict[str, Any]] = {
    "anil": {"inner_lr": 1.0},  # only the head adapts
    "cavia": {"inner_lr": 1.0},
    "es-maml": {"outer_lr": 0.03},  # half as many outer steps
    "reptile": {"adaptation_steps": 3, "outer_lr": 0.01},  # with one step it is `pretrain`
    "promp": {"outer_lr": 1e-3},  # five steps on the same data
    "rl2": MEMORY | DENSE,
    "rl2-hyper": MEMORY | DENSE | {"policy": POLICY | SMALL_BASE},
}
# Additional rows: registered algorithms with one changed option.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    ORACLE: (ORACLE, {}),
    "e-maml, credit 0.1": ("e-maml", {"credit": 0.1}),
    "e-maml, by influence": ("e-maml", {"credit_estimator": "influence"}),
    "maml, rate 0.03": ("maml", {"inner_lr": 0.03}),
    "meta-sgd, rate 0.03": ("meta-sgd", {"inner_lr": 0.03}),
}

SET_BY = {"tasks": "--tasks", "episodes": "--episodes", "horizon": "--horizon"}
"""Options by which environment steps are counted, with their flags"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    task: str = "point-nav"
    """task family"""
    algorithms: tuple[str, ...] = ()
    """names of rows (none: all algorithms that learn from trials, and the oracle)"""
    seeds: int = 3
    """number of seeds, trained together in one program"""
    first_seed: int = 0
    """the first seed; the others follow"""
    steps: int = 2_400_000
    """environment steps of the training, equal for all algorithms"""
    tasks: int = 10
    """B"""
    episodes: int = 20
    """N"""
    inner_lr: float = 0.1
    """α of algorithms without an individual setting"""
    outer_lr: float = 3e-3
    """Adam's rate of algorithms without an individual setting"""
    eval_tasks: int = 100
    """held-out tasks, equal for all algorithms"""
    eval_steps: int = 3
    """inner steps on the held-out tasks"""
    action_scale: float = 10.0
    """option of the task family, if it has it: policy outputs are divided by it"""
    horizon: int | None = None
    """T (None: the family's default)"""
    option: tuple[str, ...] = ()
    """options for every algorithm that has them, as NAME=VALUE"""
    output: Path = Path("runs/compare")
    """folder of comparison.json and comparison.md"""


def settings(name: str, arguments: Arguments) -> tuple[str, dict[str, Any]]:
    """The algorithm of a row and its options; unsupported options are dropped later."""
    registered, individual = VARIANTS.get(name, (name, SETTINGS.get(name, {})))
    common = {
        "tasks": arguments.tasks,
        "episodes": arguments.episodes,
        "inner_lr": arguments.inner_lr,
        "outer_lr": arguments.outer_lr,
        "policy": POLICY,
    }
    return registered, common | individual | comparisons.options_of_any(arguments.option, SET_BY)


def build(name: str, arguments: Arguments) -> comparisons.Entry:
    """Environment and algorithms of a row.

    Raises:
        ValueError: a name is unknown or a value is out of range.
    """
    import metarl_jax as mrl

    family = mrl.envs.FAMILIES.get(arguments.task.partition("@")[0])
    scaled = family is not None and "action_scale" in next(iter(family.versions.values()))
    scale: dict[str, Any] = {"action_scale": arguments.action_scale} if scaled else {}
    env = mrl.envs.make(arguments.task, horizon=arguments.horizon, **scale)
    registered, options = settings(name, arguments)
    return comparisons.entry(env, registered, options, (arguments.eval_steps + 1) * arguments.episodes)


def run(name: str, arguments: Arguments) -> dict[str, Any]:
    """Trains all seeds of one algorithm and adapts them to the held-out tasks."""
    built = build(name, arguments)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    params, training = comparisons.train(name, built, arguments.steps, seeds)
    scores = comparisons.scores(built, params, arguments.eval_tasks)
    # If a stage is a single episode, average over as many as one inner step of the others uses.
    steps = scores.reshape(*scores.shape[:2], arguments.eval_steps + 1, -1).mean(-1)
    return {"algorithm": name, **training, "per_task": steps.round(4).tolist()}


def interval(values: np.ndarray, draws: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values [seeds, tasks], both resampled."""
    random = np.random.default_rng(0)
    seeds = random.integers(len(values), size=(draws, len(values), 1))
    tasks = random.integers(values.shape[1], size=(draws, 1, values.shape[1]))
    low, high = np.percentile(values[seeds, tasks].mean((1, 2)), [2.5, 97.5])
    return float(low), float(high)


def table(rows: list[dict[str, Any]], at: Sequence[int]) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: -np.mean(row["per_task"], (0, 1))[min(1, at[-1])]):
        values = np.asarray(row["per_task"])
        cells = []
        for step in at:
            low, high = interval(values[:, :, step])
            cells.append(f"{values[:, :, step].mean():.1f} ({low:.1f} to {high:.1f})")
        lines.append([f"`{row['algorithm']}`", *cells, f"{row['minutes']:.1f}"])
    return markdown.table(["algorithm", *(f"after {step}" for step in at), "minutes"], lines)


def check(arguments: Arguments, rows: Sequence[str]) -> None:
    """Checks that all rows can be computed.

    Raises:
        ValueError: a value is not allowed.
    """
    from metarl_jax import checks

    for name in ("seeds", "steps", "eval_tasks"):
        checks.integer(name, getattr(arguments, name))
    checks.integer("eval_steps", arguments.eval_steps, least=0)
    checks.seeds(arguments.first_seed, arguments.seeds)
    comparisons.options_of_any(arguments.option, SET_BY)
    for name in rows:
        comparisons.plan(name, build(name, arguments), arguments.steps)


def main(argv: Sequence[str]) -> None:
    arguments = cli.parse(Arguments, argv, prog="compare.py", description=__doc__)
    cli.prepare_jax()
    cli.import_modules()
    from metarl_jax import algorithms, checks

    # Agents that live on have no trials, and are not comparable after a few steps of a new one.
    with_trials = [name for name in algorithms.names() if algorithms.kind(name) != "life"]
    choices = (*with_trials, *VARIANTS)
    path = arguments.output / "comparison.json"
    described = {name: str(value) for name, value in vars(arguments).items() if name not in ("output", "algorithms")}
    with cli.user_errors():
        comparisons.check_names()
        for name in arguments.algorithms:
            checks.one_of("algorithm", name, choices)
        stored = comparisons.read(path, described)
        complete = {row["algorithm"] for row in stored["rows"]}
        rows = [name for name in dict.fromkeys(arguments.algorithms or choices) if name not in complete]
        check(arguments, rows)
        arguments.output.mkdir(parents=True, exist_ok=True)
    at = [step for step in (0, 1, 3) if step <= arguments.eval_steps]

    def compute(name: str) -> list[dict[str, Any]]:
        return [run(name, arguments)]

    comparisons.fill(path, stored, rows, compute)
    text = table(stored["rows"], at)
    files.write(arguments.output / "comparison.md", text + "\n")
    print(text)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
