"""How an episode starts: with the state of `reset`, in dtypes that also hold what `step` returns."""

import jax
import jax.numpy as jnp

from metarl_jax import soundness
from metarl_jax.actions import zero_action
from metarl_jax.base import TaskEnv
from metarl_jax.types import Key, PyTree, is_key, strongly_typed


def promoted(tree: PyTree, other: PyTree) -> PyTree:
    """`tree` with each leaf promoted to the dtype that holds its values and those of the leaf in `other`."""

    def promote(leaf, partner):
        dtype = jnp.result_type(leaf)
        if not is_key(leaf):
            dtype = jnp.promote_types(dtype, jnp.result_type(partner))
        return jax.lax.convert_element_type(leaf, dtype)

    return jax.tree.map(promote, tree, other)


def first_state(key: Key, env: TaskEnv, task: PyTree) -> PyTree:
    """The state at the start of an episode, in the dtypes of all its states.

    Raises:
        ValueError: the states of reset and step do not match.
    """
    with jax.named_scope("physics"):
        first = env.reset(key, task)
    soundness.check_state(env, "reset", first)
    # `reset` may return an int where `step` returns a float; casting to either dtype could truncate values.
    # Jitted so that eval_shape and the scan share one trace of the environment.
    shape_of_next = jax.eval_shape(jax.jit(env.step), task, first, zero_action(env))
    soundness.check_state(env, "step", shape_of_next)
    soundness.check_same(env, first, shape_of_next)
    return strongly_typed(promoted(first, shape_of_next))


def first_observation(env: TaskEnv) -> PyTree:
    """Shapes and dtypes of the observations; nothing is run."""
    return jax.eval_shape(lambda key: first_state(key, env, env.sample_task(key)).observation, jax.random.key(0))
