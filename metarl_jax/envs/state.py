"""The state of the built-in environments, constructed without weak types."""

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.types import PyTree, is_key


@struct.dataclass
class State:
    """State of an environment at one time step.

    In the built-in families `truncated` is always False: the horizon is part of the MDP, and none has another time
    limit. The environments of a suite may have one.
    """

    observation: PyTree
    """[observation_size], or as the environment's `observation_shape` says"""
    reward: jax.Array | float
    """[] reward of the last step; 0 at reset"""
    terminated: jax.Array | bool
    """[] bool: the episode has ended in a terminal state"""
    truncated: jax.Array | bool
    """[] bool: the episode was cut off by a time limit, in a state that is not terminal"""
    internal: PyTree = None
    """hidden from the policy: a random key, a cell, or the physics state (which a renderer reads)"""

    def following(
        self, observation: jax.Array, reward: jax.Array, internal: PyTree = None, terminated: jax.Array | None = None
    ) -> "State":
        """The next state, with the same dtypes: the carry of a scan must not change types, including weak types."""
        terminated = jnp.zeros((), bool) if terminated is None else terminated
        return like(self, State(observation, reward, terminated, jnp.zeros((), bool), internal))


@struct.dataclass
class View:
    """State of an environment that shows another one's observation or reward in another form."""

    observation: PyTree
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    inner: PyTree
    """state of the wrapped environment"""


def first(observation: jax.Array, internal: PyTree = None) -> State:
    """The first state of an episode."""
    false = jnp.zeros((), bool)
    state = State(jnp.asarray(observation, float), jnp.zeros((), float), false, false, internal)
    return like(state, state)


def like(reference: PyTree, tree: PyTree) -> PyTree:
    """Casts each array of `tree` to the dtype of its counterpart in `reference`, strongly typed; keys are unchanged."""

    def cast(old, new):
        if is_key(old):
            return new
        return jax.lax.convert_element_type(new, jnp.result_type(old))

    return jax.tree.map(cast, reference, tree)
