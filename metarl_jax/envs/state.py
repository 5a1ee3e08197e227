"""The state that the shipped environments step through, and how it is made without weak types."""

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.types import PyTree


@struct.dataclass
class State:
    """One moment of one episode.

    `truncated` is always False here: the horizon belongs to the task, and no shipped family has another time limit.
    """

    observation: jax.Array
    """[observation_size]"""
    reward: jax.Array
    """[] reward of the step that led here; 0 at reset"""
    terminated: jax.Array
    """[] bool: no reward can follow"""
    truncated: jax.Array
    """[] bool: cut by a time limit although rewards could follow"""
    internal: PyTree = None
    """what the policy does not see: a random key, a cell, or the physics state (which a renderer reads)"""

    def following(
        self, observation: jax.Array, reward: jax.Array, internal: PyTree = None, terminated: jax.Array | None = None
    ) -> "State":
        """The next state, with this one's dtypes: a scan refuses a carry whose types change, weak ones included."""
        terminated = jnp.zeros((), bool) if terminated is None else terminated
        return like(self, State(observation, reward, terminated, jnp.zeros((), bool), internal))


def first(observation: jax.Array, internal: PyTree = None) -> State:
    """The state of a fresh episode."""
    no = jnp.zeros((), bool)
    state = State(jnp.asarray(observation, float), jnp.zeros((), float), no, no, internal)
    return like(state, state)


def like(reference: PyTree, tree: PyTree) -> PyTree:
    """Gives each array of `tree` the dtype of its counterpart in `reference`, strongly typed; keys pass unchanged."""

    def cast(old, new):
        if jnp.issubdtype(jnp.result_type(old), jax.dtypes.prng_key):
            return new
        return jax.lax.convert_element_type(new, jnp.result_type(old))

    return jax.tree.map(cast, reference, tree)
