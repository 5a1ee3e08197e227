"""Shared code of algorithm comparisons: equal environment steps, all seeds in one program, the same held-out tasks.

Importing this module does not import JAX, so that scripts print their help without delay.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarl_jax.checks import one_of
from metarl_jax.runs.console import cli
from metarl_jax.runs.storage import files, json_text

if TYPE_CHECKING:
    from metarl_jax.base import MetaAlgorithm, TaskEnv

ORACLE = "oracle"
"""`pretrain` with the task in the observation: an upper reference for adaptation, not a competitor."""

MEMORY: dict[str, Any] = {"tasks": 40, "episodes": 4, "outer_lr": 1e-3, "minibatches": 4}
"""Options of the recurrent algorithms. With a rate of 3e-3 for Adam they learn point-nav in half the steps, but one of
three seeds collapsed later."""

DENSE: dict[str, Any] = {"discount": 0.9, "lambda_": 0.9, "entropy_weight": 0.0}
"""Additional options for dense rewards: effects of actions are immediate, and a smaller discount and λ reduce the
variance of PPO's gradient."""

SMALL_BASE = {"hidden": (16, 16)}
"""Base policy for `rl2-hyper`, small because each weight costs one product per memory unit at each step."""


class Entry(NamedTuple):
    """The ingredients of a row of a comparison."""

    env: "TaskEnv"
    algorithm: "MetaAlgorithm"
    steps: int
    """adaptation steps in the evaluation"""
    trial: int
    """environment steps per meta-iteration"""
    options: dict[str, Any]
    """options of the training"""


def registered_name(name: str) -> str:
    """The algorithm of a row: that of the oracle is `pretrain`, in an environment that reveals the task."""
    return "pretrain" if name == ORACLE else name


def check_names() -> None:
    """Raises ValueError if an algorithm is registered under the name of the oracle."""
    from metarl_jax import algorithms

    if ORACLE in algorithms.names():
        raise ValueError(f"an algorithm is registered as {ORACLE!r}, which names the reference here; rename it")


def options_of_any(pairs: Sequence[str], set_by: Mapping[str, str]) -> dict[str, Any]:
    """The values of ``--option NAME=VALUE``, for each algorithm that has the option.

    Args:
        pairs: values of the flag.
        set_by: options that something else sets → what.

    Raises:
        ValueError: a pair is malformed, or its name is no algorithm's option or set by something else.
    """
    from metarl_jax import algorithms
    from metarl_jax.runs.config import parse_options

    options = parse_options("option", tuple(pairs), set_by)
    accepted = sorted(set().union(*map(algorithms.options, algorithms.names())))
    for option in options:
        one_of("option of any algorithm", option, accepted)
    return options


def entry(env: "TaskEnv", name: str, options: Mapping[str, Any], eval_episodes: int) -> Entry:
    """Builds a registered algorithm, or the oracle; options that it does not have are ignored.

    Args:
        env: the environment.
        name: name of the algorithm, or ORACLE.
        options: options of the training; "algorithm" names the registered one, if it is not that of `registered_name`.
        eval_episodes: episodes per trial in the evaluation.

    Raises:
        ValueError: a value is out of range, or `eval_episodes` is not a multiple of the episodes per stage.
    """
    from metarl_jax import algorithms, envs

    registered = options.get("algorithm", registered_name(name))
    env = envs.reveal_task(env) if name == ORACLE else env
    defaults = algorithms.options(registered)
    used = {option: value for option, value in options.items() if option in defaults}
    if env.discrete and isinstance(used.get("policy"), Mapping):  # a categorical policy has no σ
        used["policy"] = {key: value for key, value in used["policy"].items() if not key.endswith("std")}
    algorithm = algorithms.make(registered, env, **used)
    chosen = defaults | used
    for option in ("tasks", "episodes", "adaptation_steps"):
        if option not in chosen:
            raise ValueError(f"{name!r} has no option {option!r}, so its environment steps cannot be counted")
    if eval_episodes % chosen["episodes"]:
        raise ValueError(
            f"a trial of the evaluation has {eval_episodes} episodes, which {name} cannot take {chosen['episodes']} at "
            "a time; choose a multiple"
        )
    trials = getattr(algorithms.ALGORITHMS[registered].options, "trials_per_task", 1)
    episodes = trials * (chosen["adaptation_steps"] + 1) * chosen["tasks"] * chosen["episodes"]
    return Entry(env, algorithm, eval_episodes // chosen["episodes"] - 1, episodes * env.horizon, used)


def plan(label: str, built: Entry, steps: int) -> dict[str, Any]:
    """Entries of a row that its settings determine: the options, and as many meta-iterations as fit into `steps`.

    Raises:
        ValueError: none fits.
    """
    if steps < built.trial:
        raise ValueError(
            f"{label}: a meta-iteration takes {built.trial} environment steps, and steps is {steps}; choose more"
        )
    return {"options": {name: repr(value) for name, value in built.options.items()}, "iterations": steps // built.trial}


def train(label: str, built: Entry, steps: int, seeds: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """Trains all seeds in one program, see `plan`.

    Returns:
        θ of all seeds, leaves [R, ...], and the entries of a row about the training.
    """
    import jax
    import jax.numpy as jnp

    from metarl_jax import training

    planned = plan(label, built, steps)
    iterations = planned["iterations"]
    roots = jnp.stack([jax.random.key(seed) for seed in seeds])
    params, seconds = None, []
    for chunk in training.train(built.algorithm, roots, iterations):
        params = chunk.state.params
        seconds.append(chunk.seconds)
        returns = np.asarray(chunk.metrics["return"]).mean((0, 1)).round(1)
        print(f"\r{label}: iteration {chunk.done} of {iterations}, return {returns}    ", end="", file=sys.stderr)
    minutes = sum(seconds[1:]) / 60  # the first chunk compiles
    return params, planned | {"minutes": minutes}


def scores(built: Entry, params: Any, num_tasks: int) -> np.ndarray:
    """Mean return [R, num_tasks, S] of each stage on held-out tasks (equal for all entries), without void episodes."""
    import jax
    import jax.numpy as jnp

    from metarl_jax import training

    evaluation_key = training.streams(jax.random.key(10**6)).evaluate

    @jax.jit
    def evaluate(theta):
        task_keys, keys = jax.random.split(evaluation_key, (2, num_tasks))
        tasks = jax.vmap(built.env.sample_task)(task_keys)

        def returns(key, theta, task):
            return jnp.nanmean(built.algorithm.adapt(key, theta, task, steps=built.steps).returns, -1)

        adapt = jax.vmap(returns, (0, None, 0))
        return jax.vmap(adapt, (None, 0, None))(keys, theta, tasks)

    return np.asarray(evaluate(params), np.float64)


def read(path: Path, described: dict[str, str]) -> dict[str, Any]:
    """Reads a comparison from a file, or starts a new one if the file does not exist.

    Raises:
        ValueError: the file is damaged or holds another comparison.
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


def fill(
    path: Path, stored: dict[str, Any], missing: Sequence[Any], rows: Callable[[Any], Sequence[dict[str, Any]]]
) -> None:
    """Computes the missing rows; writes the file atomically after each training.

    Rows that another process has written meanwhile are kept, so that several, each with rows of its own, may share a
    file. It names all machines and the first and last day.

    Args:
        path: path of the file.
        stored: the result of `read`; rows are added to it.
        missing: arguments of `rows`, one per missing training.
        rows: computes the rows of a training.

    Raises:
        UserError: a row cannot be computed, or the file has become that of another comparison.
    """
    from metarl_jax.runs.checkpoint import provenance

    for which in missing:
        with cli.user_errors():
            stored["rows"] += rows(which)
        try:
            there = read(path, stored["arguments"])
        except ValueError as error:
            raise cli.UserError(str(error)) from error
        known = {_name(row) for row in stored["rows"]}
        stored["rows"] += [row for row in there["rows"] if _name(row) not in known]
        stored |= _origin([there, {"machine": provenance.machine(), "date": str(date.today())}])
        files.write(path, json.dumps(stored) + "\n")
        print(file=sys.stderr)


def _origin(parts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The machines of all parts, and their first and last day."""
    machines = [machine for part in parts if "machine" in part for machine in part["machine"].split("; ")]
    days = sorted(day for part in parts if "date" in part for day in part["date"].split(" to "))
    return {"machine": "; ".join(dict.fromkeys(machines)), "date": " to ".join(dict.fromkeys([days[0], days[-1]]))}


def _name(row: dict[str, Any]) -> tuple[Any, Any]:
    return row.get("family"), row.get("algorithm")
