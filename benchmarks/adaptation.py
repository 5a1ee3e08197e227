"""Adaptation speed: learners trained with equal environment steps, adapted to the same held-out tasks, on one scale.

python benchmarks/adaptation.py                              # the small suite, minutes
python benchmarks/adaptation.py --suite full                 # all families and learners of experiments/curves.py, hours
python benchmarks/adaptation.py --add mine.json              # with additional rows, for example of another library

Each row is written when it is complete; an interrupted benchmark continues when started again. adaptation.json holds
rows and statistics, adaptation.md the tables, adaptation.png the curves and the performance profiles. A score of 0 is
the untrained policy before adaptation, 1 the oracle, which observes the task. `metarl_jax.runs.evaluation.adaptation`
defines the rows.
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import curves
from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import adaptation, comparisons
from metarl_jax.runs.evaluation.comparisons import ORACLE
from metarl_jax.runs.storage import files, json_text

SUITES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "small": (("point-nav",), ("promp", "maml", "rl2", "pretrain", ORACLE)),
    "full": (tuple(curves.FAMILIES), tuple(curves.ALGORITHMS)),
}
"""Families and learners; all suites also include the untrained policy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    suite: str = "small"
    """small: one family, minutes; full: all of them, hours"""
    seeds: int = 5
    """training seeds per learner"""
    first_seed: int = 0
    """the first seed"""
    steps: int | None = None
    """environment steps of the training, equal for all learners (None: 1.2 to 2.4 M, depending on the family)"""
    eval_tasks: int = 40
    """held-out tasks, equal for all learners"""
    eval_episodes: int = 80
    """episodes of a trial in a held-out task"""
    add: tuple[Path, ...] = ()
    """files with additional rows"""
    output: Path = Path("runs/adaptation")
    """folder of the results"""


def settings(arguments: Arguments) -> curves.Arguments:
    """Arguments for `experiments/curves.py`."""
    families, learners = SUITES[arguments.suite]
    return curves.Arguments(
        families=families,
        algorithms=learners,
        seeds=arguments.seeds,
        first_seed=arguments.first_seed,
        steps=arguments.steps,
        eval_tasks=arguments.eval_tasks,
        eval_episodes=arguments.eval_episodes,
    )


def milliseconds(function: Any, *inputs: Any, repeats: int = 5) -> float:
    """Median duration of a compiled call."""
    import jax

    jax.block_until_ready(function(*inputs))
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        taken.append(time.perf_counter() - began)
    return 1e3 * float(np.median(taken))


def speed(built: comparisons.Entry, theta: Any) -> dict[str, float | None]:
    """`ms_per_stage`: episodes and update of a stage in one task; `ms_per_action`: one call of the adapted policy."""
    import jax

    algorithm, env = built.algorithm, built.env
    key, task = jax.random.key(0), env.sample_task(jax.random.key(1))
    adapt = jax.jit(algorithm.adapt, static_argnames="steps")
    long, short = (
        milliseconds(lambda steps=steps: adapt(key, theta, task, steps=steps).returns) for steps in (built.steps, 0)
    )
    out = adapt(key, theta, task, steps=built.steps)
    stages = max(out.returns.shape[0] - adapt(key, theta, task, steps=0).returns.shape[0], 1)
    found: dict[str, float | None] = {"ms_per_stage": round((long - short) / stages, 3), "ms_per_action": None}
    if algorithm.policy is not None:
        policy, observation = algorithm.policy, jax.numpy.zeros(env.observation_size)
        act = jax.jit(lambda params: policy.apply(params, observation).sample(key))
        found["ms_per_action"] = round(milliseconds(act, out.params, repeats=50), 4)
    return found


def untrained(family: str, arguments: curves.Arguments) -> dict[str, Any]:
    """The row of initial parameters, one per seed, which adapt as in `maml`."""
    import jax
    import jax.numpy as jnp

    built = curves.build(family, "maml", arguments)
    roots = jnp.stack([jax.random.key(arguments.first_seed + seed) for seed in range(arguments.seeds)])
    params = jax.vmap(lambda key: built.algorithm.init(key).params)(roots)
    scores = comparisons.scores(built, params, arguments.eval_tasks)
    each = arguments.eval_episodes // scores.shape[-1]
    episodes = [each * stage for stage in range(scores.shape[-1])]
    own = {"minutes": 0.0, "iterations": 0, "episodes": episodes, "per_task": scores.round(3).tolist()}
    return {"family": family, "algorithm": adaptation.UNTRAINED, **own}


def run(family: str, name: str, arguments: curves.Arguments) -> dict[str, Any]:
    """A row of the suite."""
    import jax

    if name == adaptation.UNTRAINED:
        return untrained(family, arguments)
    row = curves.run(family, name, arguments)
    built = curves.build(family, name, arguments)
    return row | speed(built, built.algorithm.init(jax.random.key(0)).params)


def of_others(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads rows from files.

    Raises:
        ValueError: a file cannot be read, or a row is incomplete.
    """
    rows = []
    for path in paths:
        try:
            held = json_text.loads(files.read(path))
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        held = held["rows"] if isinstance(held, dict) and "rows" in held else held
        if not isinstance(held, list):
            raise ValueError(f"{path} holds no list of rows")
        rows += [adaptation.check_row(row, str(path)) | {"source": path.name} for row in held]
    return rows


def main(argv: Sequence[str]) -> None:
    arguments = cli.parse(Arguments, argv, prog="adaptation.py", description=__doc__)
    cli.prepare_jax()
    cli.import_modules()
    path = arguments.output / "rows.json"
    with cli.user_errors():
        from metarl_jax.checks import one_of

        one_of("suite", arguments.suite, SUITES)
        asked = settings(arguments)
        curves.check(asked)
        added = of_others(arguments.add)
        shown = ("output", "families", "algorithms")
        stored = comparisons.read(path, {k: str(v) for k, v in vars(asked).items() if k not in shown})
        done = {(row["family"], row["algorithm"]) for row in stored["rows"]}
        learners = (adaptation.UNTRAINED, *asked.algorithms)
        missing = [(f, name) for f in asked.families for name in learners if (f, name) not in done]
        arguments.output.mkdir(parents=True, exist_ok=True)
    comparisons.fill(path, stored, missing, lambda which: run(which[0], which[1], asked))
    with cli.user_errors():
        rows = stored["rows"] + added
        records, better = adaptation.summary(rows), adaptation.improvements(rows)
    told = {name: stored.get(name) for name in ("arguments", "machine", "date")}
    report = told | {"summary": records, "probability_of_improvement": better, "rows": rows}
    files.write(arguments.output / "adaptation.json", json.dumps(report) + "\n")
    text = adaptation.table(records)
    files.write(arguments.output / "adaptation.md", text)
    from metarl_jax.runs.pictures import plots

    plots.curves(rows, arguments.output / "adaptation.png")
    plots.profiles(rows, arguments.output / "profiles.png")
    print(text)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
