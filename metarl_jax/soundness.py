"""What a rollout takes from an environment and a policy: refused where it cannot work, sane or diverged."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.base import TaskEnv
from metarl_jax.types import PyTree


def check_state(env: TaskEnv, function: str, state: Any) -> None:
    """Tells a user what is wrong with an environment's state, before a scan or a network does in its own words.

    Raises:
        ValueError: a field is missing, is no array, or has the wrong shape.
    """
    where = f"environment {env.name!r}"
    for field in ("observation", "reward", "terminated", "truncated"):
        if not hasattr(state, field):
            raise ValueError(
                f"{where}: the state of {function} has no field {field!r}; it must have observation, reward, "
                "terminated and truncated, as metarl_jax.envs.State does"
            )
        leaves = jax.tree.leaves(getattr(state, field))
        if not leaves or not all(hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float) for leaf in leaves):
            raise ValueError(f"{where}: {field} of {function} is {getattr(state, field)!r}; it must be an array")
        if field == "observation":
            size = sum(math.prod(jnp.shape(leaf)) for leaf in leaves)
            if size != env.observation_size:
                raise ValueError(
                    f"{where}: observation of {function} has {size} components and observation_size is "
                    f"{env.observation_size}; set observation_size={size}, or return as many"
                )
        elif len(leaves) > 1 or jnp.shape(leaves[0]) != ():
            shape = jnp.shape(leaves[0]) if len(leaves) == 1 else f"of a tree with {len(leaves)} arrays"
            raise ValueError(f"{where}: {field} of {function} has shape {shape}; it must be a scalar")


def check_same(env: TaskEnv, start: PyTree, following: PyTree) -> None:
    """The same for the two states together.

    Raises:
        ValueError: `reset` and `step` return different trees.
    """
    where = f"environment {env.name!r}"
    if jax.tree.structure(start) != jax.tree.structure(following):
        raise ValueError(f"{where}: reset and step return states of different structure; they must be the same struct")
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(state)] for state in (start, following)]
    for (path, _), first, second in zip(jax.tree_util.tree_leaves_with_path(start), *shapes, strict=True):
        if first != second:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(
                f"{where}: state{leaf} has shape {first} at reset and {second} after a step; they must be the same"
            )


def check_action(env: TaskEnv, distribution: Any, action: Any, log_prob: Any) -> None:
    """Tells a user what is wrong with a policy's draw; wrong shapes would broadcast and train on nonsense.

    Raises:
        ValueError: a method is missing, or what it returns has the wrong shape or type.
    """
    shape, dtype = jnp.shape(action), jnp.result_type(action)
    where = f"the policy's {type(distribution).__name__} for the environment {env.name!r}"
    if env.discrete and (shape != () or not jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{where} samples {dtype}{list(shape)}; actions are discrete, so it must be one integer")
    if not env.discrete and (shape != (env.action_size,) or not jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(
            f"{where} samples {dtype}{list(shape)}; action_size is {env.action_size}, so it must be "
            f"float[{env.action_size}]"
        )
    if jnp.shape(log_prob) != ():
        raise ValueError(
            f"{where} has log_prob of shape {jnp.shape(log_prob)}; it must be a scalar, the sum over action components"
        )


MOST_OBSERVATION, MOST_REWARD = 1e8, 1e14
"""Magnitudes beyond which a simulation counts as diverged. On its way to infinity it passes numbers that are finite but
whose powers, in a baseline's squared features or a variance of returns, are not: float32 ends at 3e38."""


def within(tree: PyTree, most: float) -> jax.Array:
    """Whether no number is NaN or beyond ±most; with inf for `most`, whether all are finite."""
    return jnp.array([(jnp.isfinite(leaf) & (jnp.abs(leaf) <= most)).all() for leaf in jax.tree.leaves(tree)]).all()


def sane(state: Any) -> jax.Array:
    """[] bool: the state's observation and reward are those of a simulation that has not diverged."""
    return within(state.observation, MOST_OBSERVATION) & within(state.reward, MOST_REWARD)
