"""Shared adapter for Brax and MuJoCo Playground: ``reset(rng)``, ``step(state, action)`` and a model attribute."""

import copy
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import State
from metarl_jax.envs.suites import assembly
from metarl_jax.types import Key, PyTree


def with_model(env: Any, field: str, model: PyTree) -> Any:
    """A copy of an environment with another model; the original is unchanged, so no tracer leaks into it.

    Bound methods stored as attributes (some constructors choose one) are rebound to the copy.
    """
    changed = copy.copy(env)
    for name, value in vars(env).items():
        if isinstance(value, types.MethodType) and value.__self__ is env:
            setattr(changed, name, types.MethodType(value.__func__, changed))
    setattr(changed, field, model)
    return changed


def _check_functions(reward: Any, system: Any, observe: Any) -> None:
    """Raises ValueError if one that is given cannot be called with its arguments."""
    if reward is not None:
        checks.called_as("reward", reward, "task", "previous", "action", "next")
    if system is not None:
        checks.called_as("system", system, "task", "model")
    if observe is not None:
        checks.called_as("observe", observe, "state")


def _of_task(env: Any, field: str, system: Callable[[PyTree, Any], Any] | None) -> Callable[[PyTree], Any]:
    """``task → environment`` with the task's model."""

    def of_task(task):
        if system is None:
            return env
        model = getattr(env, field)
        changed = system(task, model)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (model, changed)]
        if jax.tree.structure(model) != jax.tree.structure(changed) or shapes[0] != shapes[1]:
            raise ValueError(
                f"system returned a {type(changed).__name__} that does not fit; it must return the "
                f"{type(model).__name__} that it got with other numbers of the same shapes, such as model.replace(...)"
            )
        return with_model(env, field, changed)

    return of_task


def task_env(
    env: Any,
    *,
    field: str,
    sample_task: Callable[[Key], PyTree],
    reward: Callable[[PyTree, Any, jax.Array, Any], Any] | None,
    system: Callable[[PyTree, Any], Any] | None,
    observe: Callable[[Any], PyTree] | None,
    action_limit: float | None,
    horizon: int,
    name: str,
) -> TaskEnv:
    """A `TaskEnv` from an environment object with its model in the attribute `field`; see `from_brax` for the rest.

    Raises:
        ValueError: an argument is invalid.
    """
    if getattr(env, "unwrapped", env) is not env:
        raise ValueError(f"env is the wrapper {type(env).__name__}; hand in the environment itself, env.unwrapped")
    checks.integer("horizon", horizon)
    limit = None if action_limit is None else checks.positive("action_limit", action_limit)
    checks.called_as("sample_task", sample_task, "key")
    if reward is None and system is None:
        raise ValueError(f"{name}: neither reward nor system is given, so the task would have no effect; give one")
    _check_functions(reward, system, observe)
    if system is not None and field not in vars(env):
        raise ValueError(f"{name}: system needs an environment that keeps its model in {field!r}, and it has none")

    of_task = _of_task(env, field, system)

    def observed(state):
        if observe is not None:
            return observe(state)
        if isinstance(state.obs, jax.Array):
            return state.obs
        keys = ", ".join(map(repr, state.obs))
        raise ValueError(f"{name}: the observation is a dictionary of {keys}; say with observe(state) what is seen")

    def reset(key, task):
        state = of_task(task).reset(jax.random.key_data(key))  # the suites expect raw keys
        return assembly.moment(name, observed(state), 0.0, False, False, state)

    def step(task, before: State, action):
        previous = before.internal
        action = action if limit is None else jnp.clip(action, -limit, limit)
        # Some environments modify the dictionaries of their input state, so they get a copy.
        state = of_task(task).step(jax.tree.map(lambda leaf: leaf, previous), action)
        new_reward = state.reward if reward is None else reward(task, previous, action, state)
        return assembly.moment(name, observed(state), new_reward, state.done, False, state)

    return assembly.assemble(
        name=name,
        sample_task=assembly.sampler("sample_task", sample_task),
        reset=reset,
        step=step,
        action_size=int(env.action_size),
        discrete=False,
        horizon=horizon,
    )
