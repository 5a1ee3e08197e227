"""Task-conditioned (oracle) environments: the task is part of the observation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import View
from metarl_jax.observations import flat
from metarl_jax.types import PyTree, is_key


def _with_task(observation: PyTree, task: Any) -> dict[str, Any]:
    return {**(observation if isinstance(observation, dict) else {"observation": observation}), "task": task}


def reveal_task(env: TaskEnv) -> TaskEnv:
    """The same MDPs with the task's numbers in the observation, as a vector [task size].

    They are appended to a vector: [observation_size + task size]. A dictionary has them as a further entry, "task", and
    any other observation becomes a dictionary ``{"observation": observation, "task": numbers}``.

    `TaskEnv.measure` gets the observations without them. A policy trained on it does not have to infer the task; its
    return is a reference for those that do.

    Raises:
        ValueError: the observation is a dictionary that has an entry "task", or a task holds a random key.
    """
    numbers = jax.tree.leaves(jax.eval_shape(env.sample_task, jax.random.key(0)))
    if any(map(is_key, numbers)):
        raise ValueError(f"a task of {env.name!r} holds a random key, which no observation can show")
    size = sum(leaf.size for leaf in numbers)
    shape = env.observation_shape
    if isinstance(shape, dict) and "task" in shape:
        raise ValueError(f"observation_shape of {env.name!r} has an entry 'task' already; give it another name")
    sizes: dict[str, Any] = {"observation_size": env.observation_size + size, "observation_shape": None}
    if shape is not None:
        sizes = {"observation_size": None, "observation_shape": _with_task(shape, (size,))}

    def view(task, state):
        numbers = flat(task)
        if shape is None:
            observation = jnp.concatenate([flat(state.observation), numbers])
        else:
            observation = _with_task(state.observation, numbers)
        return View(observation, state.reward, state.terminated, state.truncated, state)

    def hidden(observation):
        if shape is None:
            return observation[..., : env.observation_size]
        if isinstance(shape, dict):
            return {name: leaf for name, leaf in observation.items() if name != "task"}
        return observation["observation"]

    def measure(trajectory):
        assert measured is not None
        seen = {name: hidden(getattr(trajectory, name)) for name in ("observation", "next_observation")}
        return measured(dataclasses.replace(trajectory, **seen))

    scene, measured = env.scene, env.measure
    return dataclasses.replace(
        env,
        reset=lambda key, task: view(task, env.reset(key, task)),
        step=lambda task, state, action: view(task, env.step(task, state.inner, action)),
        **sizes,
        name=f"{env.name} with the task revealed",
        measure=None if measured is None else measure,
        scene=None if scene is None else lambda task, state: scene(task, state.inner),
    )
