"""What comparisons of algorithms share: equal environment steps, all seeds in one program, the same held-out tasks.

Importing this module loads no JAX, so that a script's help text can answer at once.
"""

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarl_jax.runs import cli, files, json_text

if TYPE_CHECKING:
    from metarl_jax.base import MetaAlgorithm, TaskEnv

ORACLE = "oracle"
"""`pretrain` on the task made visible: what adaptation could reach at best, and no competitor."""

MEMORY: dict[str, Any] = {"tasks": 40, "episodes": 4, "outer_lr": 1e-3, "minibatches": 4}
"""Options of the algorithms with a memory. At Adam's rate of 3e-3 they learn point-nav in half the steps, and one of
three seeds was lost there later, within a few iterations."""

DENSE: dict[str, Any] = {"discount": 0.9, "lambda_": 0.9, "entropy_weight": 0.0}
"""The same where rewards are dense: what an action is worth shows at once, and a shorter horizon of credit lowers the
variance of PPO's gradient."""

SMALL_BASE = {"hidden": (16, 16)}
"""A base policy for `rl2-hyper`, each of whose weights takes a product per number of the memory at every step."""


class Entry(NamedTuple):
    """What a row of a comparison is made of."""

    env: "TaskEnv"
    algorithm: "MetaAlgorithm"
    steps: int
    """adaptation steps of the evaluation"""
    trial: int
    """environment steps of a meta-iteration"""
    options: dict[str, Any]
    """that were given to the training"""


def entry(env: "TaskEnv", name: str, options: Mapping[str, Any], eval_episodes: int) -> Entry:
    """A registered algorithm, or the oracle; options that it does not have are left out.

    Args:
        env: p(M) and its MDPs.
        name: of the algorithm, or ORACLE.
        options: of the training.
        eval_episodes: of a trial of the evaluation.

    Raises:
        ValueError: a value is out of range, or `eval_episodes` are no whole number of stages.
    """
    from metarl_jax import algorithms, envs

    registered = "pretrain" if name == ORACLE else name
    env = envs.reveal_task(env) if name == ORACLE else env
    defaults = algorithms.options(registered)
    given = {option: value for option, value in options.items() if option in defaults}
    algorithm = algorithms.make(registered, env, **given)
    whole = defaults | given
    if eval_episodes % whole["episodes"]:
        raise ValueError(
            f"a trial of the evaluation has {eval_episodes} episodes, which {name} cannot take {whole['episodes']} at "
            "a time; choose a multiple"
        )
    trials = 2 if registered == "es-maml" else 1  # its antithetic pairs
    episodes = trials * (whole["adaptation_steps"] + 1) * whole["tasks"] * whole["episodes"]
    return Entry(env, algorithm, eval_episodes // whole["episodes"] - 1, episodes * env.horizon, given)


def train(label: str, built: Entry, steps: int, seeds: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """Trains all seeds in one program for as many whole meta-iterations as `steps` environment steps have room for.

    Returns:
        θ of all seeds, leaves [R, ...], and what a row says of the training.
    """
    import jax
    import jax.numpy as jnp

    from metarl_jax import training

    iterations = max(1, steps // built.trial)
    roots = jnp.stack([jax.random.key(seed) for seed in seeds])
    params, seconds = None, []
    for chunk in training.train(built.algorithm, roots, iterations):
        params = chunk.state.params
        seconds.append(chunk.seconds)
        now = np.asarray(chunk.metrics["return"]).mean((0, 1)).round(1)
        print(f"\r{label}: iteration {chunk.done} of {iterations}, return {now}    ", end="", file=sys.stderr)
    minutes = sum(seconds[1:]) / 60  # the first chunk compiles
    options = {option: repr(value) for option, value in built.options.items()}
    return params, {"options": options, "iterations": iterations, "minutes": minutes}


def scores(built: Entry, params: Any, num_tasks: int) -> np.ndarray:
    """Mean return [R, num_tasks, S] of every stage on held-out tasks, the same for every entry; void ones left out."""
    import jax
    import jax.numpy as jnp

    from metarl_jax import training

    held_out = training.streams(jax.random.key(10**6)).evaluate

    @jax.jit
    def evaluate(theta):
        task_keys, keys = jax.random.split(held_out, (2, num_tasks))
        tasks = jax.vmap(built.env.sample_task)(task_keys)

        def returns(key, theta, task):
            return jnp.nanmean(built.algorithm.adapt(key, theta, task, steps=built.steps).returns, -1)

        adapt = jax.vmap(returns, (0, None, 0))
        return jax.vmap(adapt, (None, 0, None))(keys, theta, tasks)

    return np.asarray(evaluate(params), np.float64)


def read(path: Path, described: dict[str, str]) -> dict[str, Any]:
    """The comparison in a file, or a new one.

    Raises:
        ValueError: the file holds something else.
    """
    if not files.there(path):
        return {"arguments": described, "rows": []}
    try:
        stored = json_text.loads(files.read(path))
        other = stored["arguments"] != described
        _ = [row["per_task"] for row in stored["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); move it away, or choose another --output") from error
    if other:
        raise ValueError(f"{path} holds a comparison with other arguments; choose another --output")
    return stored


def fill(path: Path, stored: dict[str, Any], missing: Sequence[Any], row: Callable[[Any], dict[str, Any]]) -> None:
    """Computes the missing rows one by one; the file is written, whole or not at all, after each.

    Args:
        path: of the file.
        stored: of `read`; the rows are added to it.
        missing: what `row` takes.
        row: computes one.

    Raises:
        UserError: a row cannot be computed.
    """
    import jax

    device = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    stored |= {"machine": f"{device}, {platform.machine()}, jax {jax.__version__}", "date": str(date.today())}
    for which in missing:
        with cli.user_errors():
            stored["rows"].append(row(which))
        files.write(path, json.dumps(stored) + "\n")
        print(file=sys.stderr)
