"""Single episodes with what a picture needs of every moment; training keeps none of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.base import Policy, TaskEnv
from metarl_jax.soundness import sane
from metarl_jax.types import Key, PyTree, strongly_typed


@struct.dataclass
class Episode:
    """One episode; after its end it stands still."""

    look: PyTree
    """leaves [T+1, ...]: what was seen of the reset and of each step after it"""
    reward: jax.Array
    """[T]; 0 after the end"""
    valid: jax.Array
    """[T] bool: the step was taken"""


def record(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, look: Callable[[Any], PyTree], horizon: int
) -> Episode:
    """Runs one episode by scan. With the key of an episode of `metarl_jax.rollout` it is that episode.

    But one whose simulation diverges, which is void there, ends here before the step that broke it.

    Args:
        key: of the start and the actions: two policies recorded with one key start alike and draw the same noise.
        env: the environment.
        policy: acts with `params`.
        params: φ.
        task: M.
        look: ``state → what to keep of it``.
        horizon: T.
    """
    reset_key, action_key = jax.random.split(key)
    start = strongly_typed(env.reset(reset_key, task))

    def step(carry, key):
        state, running = carry
        following = env.step(task, state, policy.apply(params, state.observation).sample(key))
        running &= sane(following)
        state = jax.tree.map(lambda new, old: jnp.where(running, new, old), following, state)
        taken = (look(state), jnp.where(running, following.reward, 0.0), running)
        over = jnp.asarray(following.terminated, bool) | jnp.asarray(following.truncated, bool)
        return (state, running & ~over), taken

    carry = (start, jnp.array(True))
    looks, reward, valid = jax.lax.scan(step, carry, jax.random.split(action_key, horizon))[1]
    looks = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), look(start), looks)
    return Episode(looks, reward, valid)
