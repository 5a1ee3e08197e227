"""Brax and MuJoCo Playground alike: ``reset(rng)`` and ``step(state, action)`` around a model that the object holds."""

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
    """A copy of an environment that holds another model; the original is not touched, so no tracer stays in it.

    Some environments choose a method in their constructor and keep it, bound to themselves; the copy gets its own.
    """
    changed = copy.copy(env)
    for name, held in vars(env).items():
        if isinstance(held, types.MethodType) and held.__self__ is env:
            setattr(changed, name, types.MethodType(held.__func__, changed))
    setattr(changed, field, model)
    return changed


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
    """A `TaskEnv` of one environment object, whose model is its attribute `field`; see `from_brax` for the rest.

    Raises:
        ValueError: an argument does not fit; the line says which and why.
    """
    if getattr(env, "unwrapped", env) is not env:
        raise ValueError(f"env is the wrapper {type(env).__name__}; hand in the environment itself, env.unwrapped")
    checks.integer("horizon", horizon)
    limit = None if action_limit is None else checks.positive("action_limit", action_limit)
    assembly.function("sample_task", sample_task, "key")
    if reward is None and system is None:
        raise ValueError(f"{name}: neither reward nor system is given, so the task would have no effect; give one")
    if reward is not None:
        assembly.function("reward", reward, "task", "previous", "action", "next")
    if system is not None:
        assembly.function("system", system, "task", "model")
        if field not in vars(env):
            raise ValueError(f"{name}: system needs an environment that keeps its model in {field!r}, and it has none")
    if observe is not None:
        assembly.function("observe", observe, "state")

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

    def seen(state):
        if observe is not None:
            return observe(state)
        if isinstance(state.obs, jax.Array):
            return state.obs
        keys = ", ".join(map(repr, state.obs))
        raise ValueError(f"{name}: the observation is a dictionary of {keys}; say with observe(state) what is seen")

    def reset(key, task):
        state = of_task(task).reset(jax.random.key_data(key))  # the suites' code is written for raw keys
        return assembly.moment(name, seen(state), 0.0, False, False, state)

    def step(task, before: State, action):
        previous = before.internal
        action = action if limit is None else jnp.clip(action, -limit, limit)
        # Some environments write into the dictionaries of the state they get, so they get a copy.
        state = of_task(task).step(jax.tree.map(lambda leaf: leaf, previous), action)
        gained = state.reward if reward is None else reward(task, previous, action, state)
        return assembly.moment(name, seen(state), gained, state.done, False, state)

    return assembly.assemble(
        name=name,
        sample_task=assembly.sampler("sample_task", sample_task),
        reset=reset,
        step=step,
        action_size=int(env.action_size),
        discrete=False,
        horizon=horizon,
    )
