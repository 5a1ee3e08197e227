"""Implements experiments/show_tasks.py: a family's card, a plot of its tasks, and returns of trivial policies."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarl_jax import checks, envs
from metarl_jax.actions import shape, uniform
from metarl_jax.base import Policy, TaskEnv
from metarl_jax.evaluation import standard_error
from metarl_jax.policies.likelihood import mean_of_counted
from metarl_jax.rollout import rollout
from metarl_jax.runs.console import talk
from metarl_jax.runs.console.cli import user_errors
from metarl_jax.runs.memory import bytes_of_episode, check_fits
from metarl_jax.training import streams
from metarl_jax.types import Key, PyTree, numbered


class _Trivial(NamedTuple):
    """An action distribution that ignores the observation."""

    draw: Any
    """``key → action``"""

    def sample(self, key):
        return self.draw(key)

    def log_prob(self, action):
        return jnp.zeros(())


def _policy(env: TaskEnv) -> Policy:
    """φ is the standard deviation of normal actions; discrete actions are uniform if φ > 0. φ = 0 gives action 0."""

    def apply(noise, observation):
        def draw(key):
            if env.discrete:
                return jnp.where(noise > 0, uniform(key, env), 0)
            return noise * jax.random.normal(key, shape(env))

        return _Trivial(draw)

    return Policy(lambda key: jnp.ones(()), apply)


def trivial_returns(
    key: Key, env: TaskEnv, tasks: PyTree, *, action_std: float, episodes: int
) -> dict[str, np.ndarray]:
    """Mean undiscounted return per task [B] of the policies "random" and "zero".

    Episodes whose simulation diverged are excluded; a task without other episodes has NaN.

    Args:
        key: key of the episodes; both policies get the same initial states.
        env: the environment.
        tasks: a batch, leaves [B, ...].
        action_std: standard deviation of random continuous actions; discrete actions are uniform.
        episodes: number of episodes per task.
    """
    policy = _policy(env)

    @jax.jit  # the noise is an argument, so that the physics compiles once for both policies
    def returns(noise):
        def one(index, task):
            key_of_task = jax.random.fold_in(key, index)
            trajectory = rollout(key_of_task, env, policy, noise, task, episodes, env.horizon)
            sound = ~trajectory.void
            mean = mean_of_counted(trajectory.reward.sum(-1), sound)
            return jnp.where(sound.any(), mean, jnp.nan)

        count = len(jax.tree.leaves(tasks)[0])
        return jax.vmap(one)(jnp.arange(count), tasks)

    return {name: np.asarray(returns(jnp.asarray(std, float))) for name, std in (("random", action_std), ("zero", 0.0))}


def _card(card: envs.Card, chosen: Mapping[str, Any]) -> Table:
    """A card as a table, with the chosen options."""
    table = Table(title=Text(card.name, "bold"), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in card.entries(chosen).items():
        table.add_row(Text(label), Text(text))
    return table


def show_tasks(
    name: str,
    console: Console,
    *,
    split: str = "train",
    tasks: int = 100,
    episodes: int = 2,
    seed: int = 0,
    backend: str | None = None,
    horizon: int | None = None,
    options: Mapping[str, Any] | None = None,
    output: Path = Path("runs/tasks"),
) -> Path:
    """Prints a family's card and the returns of trivial policies, and plots sampled tasks.

    Args:
        name: name of the family, with or without version.
        console: where to print.
        split: split of the tasks: train, test or ood.
        tasks: number of tasks to sample, at least 2.
        episodes: episodes per task and policy.
        seed: seed of the tasks, in the stream of held-out tasks.
        backend: physics backend; None: the family's default.
        horizon: steps per episode; None: the family's default.
        options: options of the family.
        output: folder of the plot.

    Returns:
        Path of the plot.

    Raises:
        UserError: bad input.
    """
    with user_errors():
        checks.integer("tasks", tasks, 2)
        checks.integer("episodes", episodes)
        checks.seed("seed", seed)
        card = envs.card(name)
        chosen = dict(options or {})
        with talk.status(console, f"setting up {card.name}"):
            env = envs.make(name, split=split, backend=backend, horizon=horizon, **chosen)
        sizes = {"tasks": tasks, "episodes": episodes, "horizon": env.horizon}
        check_fits("the episodes", tasks * episodes * bytes_of_episode(env, env.horizon), sizes)
        output.mkdir(parents=True, exist_ok=True)
    console.print(_card(card, chosen), highlight=False)
    task_key, episode_key, _ = jax.random.split(streams(jax.random.key(seed)).evaluate, 3)
    batch = jax.jit(jax.vmap(env.sample_task))(numbered(task_key, tasks))
    std = float((dict(card.options) | chosen).get("action_scale", 1.0))
    with talk.status(console, f"playing {episodes} episodes in each of {tasks} tasks with two trivial policies"):
        returns = trivial_returns(episode_key, env, batch, action_std=std, episodes=episodes)
    of = f"{tasks} {split} tasks"
    names = {
        "random": "uniform actions" if env.discrete else f"actions ~ N(0, {std:g}²)",
        "zero": "action 0",
    }
    episodes_each = f"{episodes} episode{'s'[: episodes > 1]} each"
    talk.line(console, f"\nreturn over {of}, {episodes_each}, T = {env.horizon} (mean ± s.e. over tasks)")
    for policy, values in returns.items():
        values = values[~np.isnan(values)]
        if len(values) < 2:
            talk.line(console, f"  {names[policy]:<22} the simulation diverges")
            continue
        mean, error = values.mean(), float(standard_error(values))
        digits = max(0, min(6, 1 - math.floor(math.log10(error)))) if error > 0 else 2
        talk.line(console, f"  {names[policy]:<22} {mean:.{digits}f} ± {error:.{digits}f}")
    from metarl_jax.runs.pictures.task_pictures import draw_tasks

    path = output / f"{card.name}{'' if split == 'train' else f'-{split}'}.png"
    draw_tasks(batch, path, title=f"{card.name}: {of}")
    talk.file(console, path, "the sampled tasks")
    return path
