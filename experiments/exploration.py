"""Which algorithms learn to explore: `risky-rooms` with and without free episodes, compared to the exact optimum.

python experiments/exploration.py                                   # e-maml and maml, K = 0 and K = N, five seeds
python experiments/exploration.py --algorithms e-maml --inner-lr 100 --output runs/exploration-100

A trial has H = 2N episodes, of which the first K are free. Algorithms with an inner step take it after N of them.
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import comparisons, markdown
from metarl_jax.runs.storage import files

if TYPE_CHECKING:
    import metarl_jax as mrl

FAMILY = "risky-rooms"

_BY_THE_ROW = "the row: a trial has 2N episodes, of which 0 or N are free"
SET_BY = {"tasks": "--tasks", "episodes": "--episodes", "horizon": "the family"}
SET_BY |= {"burn_in": _BY_THE_ROW, "adaptation_steps": _BY_THE_ROW}
"""Options that the optimum of a row depends on, with what sets them"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    algorithms: tuple[str, ...] = ("e-maml", "maml")
    """names of algorithms"""
    seeds: int = 5
    """number of seeds, trained together in one program"""
    first_seed: int = 0
    """the first seed; the others follow"""
    iterations: int = 300
    """meta-updates of the training"""
    tasks: int = 40
    """B"""
    episodes: int = 2
    """N, half of a trial"""
    inner_lr: float = 75.0
    """α of algorithms with an inner step"""
    outer_lr: float = 0.1
    """Adam's rate of algorithms with an inner step"""
    option: tuple[str, ...] = ()
    """options for every algorithm that has them, as NAME=VALUE"""
    eval_tasks: int = 1000
    """trials in the evaluation of a trained θ"""
    output: Path = Path("runs/exploration")
    """folder of exploration.json and exploration.md, which must not exist yet"""


def table_policy(env: "mrl.TaskEnv") -> "mrl.Policy":
    """θ are the logits of each room, [rooms, 2], initially 0; a shared bias would transfer from one empty room to all.

    Args:
        env: whose observations are one-hot.
    """
    import jax.numpy as jnp

    import metarl_jax as mrl

    shape = (env.observation_size, env.action_size)
    return mrl.Policy(lambda key: jnp.zeros(shape), lambda logits, room: mrl.policies.Categorical(room @ logits))


def settings(name: str, burn_in: int, arguments: Arguments) -> dict[str, Any]:
    """The options of an algorithm for a trial of H = 2N episodes.

    Args:
        name: a registered algorithm.
        burn_in: K, in episodes: 0 or N.
        arguments: of the script.

    Raises:
        ValueError: the name is unknown, or an option is not of the form NAME=VALUE.
    """
    import metarl_jax as mrl

    overrides = comparisons.options_of_any(arguments.option, SET_BY)
    accepted = mrl.algorithms.options(name)
    if mrl.algorithms.kind(name) == "memory":  # a stage is one episode
        chosen = {"episodes": 2 * arguments.episodes, "burn_in": burn_in}
    else:
        chosen = {
            "episodes": arguments.episodes,
            "adaptation_steps": 1,
            "burn_in": burn_in // arguments.episodes,
            "inner_lr": arguments.inner_lr,
            "outer_lr": arguments.outer_lr,
            "policy": table_policy(mrl.envs.make(FAMILY)),
            # Actions do not affect the walk, so each one only affects the reward of its step.
            "advantage": "returns",
            "discount": 0.0,
        }
    return {option: value for option, value in (chosen | overrides).items() if option in accepted}


def run(name: str, burn_in: int, arguments: Arguments) -> dict[str, Any]:
    """Trains and evaluates all seeds of one algorithm.

    Args:
        name: a registered algorithm.
        burn_in: K, in episodes: 0 or N.
        arguments: of the script.

    Returns:
        A row: `returns` and `opened` [seeds, H] are the mean return and the fraction of opened rooms per episode;
        `minutes` is the duration of the training, including compilation.

    Raises:
        ValueError: a value is not allowed.
    """
    import jax
    import jax.numpy as jnp

    import metarl_jax as mrl

    env = mrl.envs.make(FAMILY)
    options = settings(name, burn_in, arguments)
    algorithm = mrl.algorithms.make(name, env, tasks=arguments.tasks, **options)
    roots = jnp.stack([jax.random.key(arguments.first_seed + seed) for seed in range(arguments.seeds)])
    params, seconds = None, 0.0
    for chunk in mrl.training.train(algorithm, roots, arguments.iterations):
        params = chunk.state.params
        seconds += chunk.seconds
        now = np.asarray(chunk.metrics["return"]).mean((0, 1)).round(2)
        print(f"\r{name}, K={burn_in}: iteration {chunk.done} of {arguments.iterations}, return {now}    ", end="",
              file=sys.stderr)  # fmt: skip

    @jax.jit
    @jax.vmap
    def measure(key, theta):
        def trial(index):
            task_key, trial_key = jax.random.split(jax.random.fold_in(key, index))
            out = algorithm.adapt(trial_key, theta, env.sample_task(task_key))
            return out.returns.reshape(-1), out.trajectory.action.mean(-1).reshape(-1)  # stages in order: [H]

        returns, opened = jax.vmap(trial)(jnp.arange(arguments.eval_tasks))
        return returns.mean(0), opened.mean(0)

    returns, opened = measure(mrl.training.streams(roots).evaluate, params)
    return {
        "algorithm": name,
        "burn_in": burn_in,
        "options": {option: repr(value) for option, value in options.items() if option != "policy"},
        "minutes": seconds / 60,
        "returns": np.asarray(returns, np.float64).round(5).tolist(),
        "opened": np.asarray(opened, np.float64).round(5).tolist(),
    }


def optimum(burn_in: int, episodes: int) -> float:
    """The optimal mean return of a counted episode in a trial of H episodes, of which the first K are free."""
    from oracles import bayes_optimal

    return bayes_optimal.risky_rooms(episodes, burn_in) / (episodes - burn_in)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Table of the mean return of a counted episode, with its standard error over seeds, and of the opened rooms."""
    header = ("algorithm", "H", "K", "return of a counted episode", "optimum", "share", "opened: free", "counted")
    lines = []
    for row in rows:
        returns, opened, free = np.asarray(row["returns"]), np.asarray(row["opened"]), row["burn_in"]
        by_seed = returns[:, free:].mean(1)
        error = f" ± {by_seed.std(ddof=1) / len(by_seed) ** 0.5:.3f}" if len(by_seed) > 1 else ""
        best = optimum(free, returns.shape[1])
        cells = [
            f"`{row['algorithm']}`",
            str(returns.shape[1]),
            str(free),
            f"{by_seed.mean():.3f}{error}",
            f"{best:.3f}",
            f"{by_seed.mean() / best:.1%}",
            f"{opened[:, :free].mean():.1%}" if free else "–",
            f"{opened[:, free:].mean():.1%}",
        ]
        lines.append(cells)
    return markdown.table(header, lines)


def check(arguments: Arguments) -> None:
    """Checks that all rows can be computed.

    Raises:
        ValueError: a value is not allowed, or results already exist.
    """
    import metarl_jax as mrl
    from metarl_jax import checks

    for name in ("seeds", "iterations", "tasks", "episodes", "eval_tasks"):
        checks.integer(name, getattr(arguments, name))
    checks.seeds(arguments.first_seed, arguments.seeds)
    comparisons.options_of_any(arguments.option, SET_BY)
    for name in arguments.algorithms:
        for burn_in in (0, arguments.episodes):
            given = settings(name, burn_in, arguments)
            mrl.algorithms.make(name, mrl.envs.make(FAMILY), tasks=arguments.tasks, **given)
    path = arguments.output / "exploration.json"
    if files.there(path):
        raise ValueError(f"{path} holds results already; choose another --output, or move it away")


def main(argv: Sequence[str]) -> None:
    arguments = cli.parse(Arguments, argv, prog="exploration.py", description=__doc__)
    cli.prepare_jax()
    cli.import_modules()
    from metarl_jax.runs.checkpoint import provenance

    with cli.user_errors():
        check(arguments)
        arguments.output.mkdir(parents=True, exist_ok=True)
    stored: dict[str, Any] = {
        "arguments": {name: str(value) for name, value in vars(arguments).items() if name != "output"},
        "machine": provenance.machine(),
        "date": str(date.today()),
        "rows": [],
    }
    for name in arguments.algorithms:
        for burn_in in (0, arguments.episodes):
            stored["rows"].append(run(name, burn_in, arguments))
            files.write(arguments.output / "exploration.json", json.dumps(stored) + "\n")
            files.write(arguments.output / "exploration.md", table(stored["rows"]) + "\n")
            print("\r" + table(stored["rows"][-1:]).splitlines()[-1] + " " * 20, file=sys.stderr)
    print(table(stored["rows"]))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
