"""gymnax ≥ 1.0 (Lange 2022, github.com/RobertTLange/gymnax): a task is the environment's parameters."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import State
from metarl_jax.envs.suites import assembly
from metarl_jax.types import Key, PyTree


class Hidden(NamedTuple):
    """`State.internal` of a gymnax environment."""

    state: PyTree
    """gymnax's state"""
    key: Key
    """split to obtain the next step's key"""


def from_gymnax(
    env: Any,
    sample_params: Callable[[Key, Any], Any],
    *,
    horizon: int | None = None,
    name: str | None = None,
    flatten: bool = True,
) -> TaskEnv:
    """A gymnax environment (gymnax ≥ 1.0) whose task is its `EnvParams`.

    Episodes use gymnax's `reset_env` and `step_env`, which do not reset automatically. An observation of any shape or
    tree is flattened into one float vector, unless it is to keep its shape. Actions are clipped to the task's action
    space; for a `Box` they are vectors, reshaped to the box's shape. `max_steps_in_episode` truncates only if it is
    less than the horizon: reaching the horizon is neither termination nor truncation.

    Args:
        env: the environment, such as ``gymnax.make("CartPole-v1")[0]``, or its registered name.
        sample_params: ``(key, default_params) → params``, such as ``default_params.replace(gravity=...)``.
        horizon: steps per episode; None: `max_steps_in_episode` of the default parameters.
        name: name of the environment; None: "gymnax:" followed by gymnax's name.
        flatten: False keeps the observation's shape, so that the default policies read a picture, such as those of
            MinAtar, by convolutions.

    Raises:
        ImportError: gymnax is missing, or older than 1.0.
        ValueError: `env` is not a gymnax environment or its name is unknown, its actions are neither discrete nor a
            `Box`, `sample_params` is invalid, or the horizon is not a positive integer.
    """
    checks.boolean("flatten", flatten)
    gymnax = assembly.load("gymnax", "gymnax")
    env = _environment(gymnax, env)
    name = f"gymnax:{env.name}" if name is None else name
    defaults = env.default_params
    if not hasattr(defaults, "max_steps_in_episode"):
        raise ValueError(f"the parameters of {name!r} have no max_steps_in_episode; derive them from gymnax.EnvParams")
    steps = checks.integer("horizon", int(defaults.max_steps_in_episode) if horizon is None else horizon)
    checks.called_as("sample_params", sample_params, "key", "default_params")

    def sample(key):
        params = sample_params(key, defaults)
        if jax.tree.structure(params) != jax.tree.structure(defaults):
            raise ValueError(
                f"sample_params returned a {type(params).__name__}; it must return {type(defaults).__name__}, "
                "such as default_params.replace(...)"
            )
        return params

    def reset(key, task):
        key, reset_key = jax.random.split(key)
        observation, state = env.reset_env(reset_key, task)
        return assembly.moment(name, observation, 0.0, False, False, Hidden(state, key), flatten)

    def step(task, before: State, action):
        key, step_key = jax.random.split(before.internal.key)
        observation, state, reward, terminated, _ = env.step_env(
            step_key, before.internal.state, clip_action(action, task), task
        )
        limit = task.max_steps_in_episode
        unlimited = task.replace(max_steps_in_episode=jnp.where(limit < steps, limit, jnp.inf))
        truncated = env.is_truncated(state, unlimited)
        return assembly.moment(name, observation, reward, terminated, truncated, Hidden(state, key), flatten)

    clip_action, action_size, discrete = _actions(name, env, gymnax.environments.spaces)
    return assembly.assemble(
        name=name,
        sample_task=assembly.sampler("sample_params", sample),
        reset=reset,
        step=step,
        action_size=action_size,
        discrete=discrete,
        horizon=steps,
    )


def _environment(gymnax: Any, env: Any) -> Any:
    base = gymnax.environments.environment.Environment
    if not hasattr(base, "is_truncated"):
        raise ImportError('gymnax is older than 1.0, whose steps differ: pip install -U "metarl_jax[gymnax]"')
    if isinstance(env, str):
        checks.one_of("gymnax environment", env, gymnax.registered_envs)
        env = gymnax.make(env)[0]
    if not isinstance(env, base):
        raise ValueError(
            f"env is {env!r}; it must be a gymnax environment without wrappers, such as gymnax.make(name)[0], "
            "or a registered name"
        )
    return env


def _actions(name: str, env: Any, spaces: Any) -> tuple[Callable[[jax.Array, Any], jax.Array], int, bool]:
    """``(action, params) → action`` for the environment, number of components or of choices, and whether discrete."""
    space = env.action_space(env.default_params)
    if isinstance(space, spaces.Discrete):
        return lambda action, params: jnp.clip(action, 0, space.n - 1), int(space.n), True
    if not isinstance(space, spaces.Box):
        raise ValueError(f"the action space of {name!r} is {space!r}; it must be a Discrete or a Box")

    def boxed(action, params):
        box = env.action_space(params)  # its bounds may depend on the task
        return jnp.clip(action.reshape(space.shape), box.low, box.high)

    return boxed, math.prod(space.shape), False
