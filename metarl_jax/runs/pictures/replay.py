"""Records single episodes with the data for rendering, which training does not store."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.base import Policy, TaskEnv
from metarl_jax.envs.starts import first_state, promoted
from metarl_jax.soundness import sane
from metarl_jax.types import Key, PyTree


@struct.dataclass
class Episode:
    """One episode; after its end the state is constant."""

    look: PyTree
    """leaves [T+1, ...]: recorded data of the reset and of each step"""
    reward: jax.Array
    """[T]; 0 after the end"""
    valid: jax.Array
    """[T] bool: whether the episode was running"""


def record(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, look: Callable[[Any], PyTree], horizon: int
) -> Episode:
    """Runs one episode by scan. With the same key, `metarl_jax.rollout` produces the same episode.

    The exception is an episode whose simulation diverges: it is void there, but ends here before the first bad step.

    Args:
        key: random key of the reset and the actions; with the same key, two policies have the same start and noise.
        env: the environment.
        policy: π.
        params: φ.
        task: M.
        look: ``state → data to record``.
        horizon: T.
    """
    reset_key, action_key = jax.random.split(key)
    start = first_state(reset_key, env, task)

    def step(carry, key):
        state, running = carry
        next_state = promoted(env.step(task, state, policy.apply(params, state.observation).sample(key)), state)
        running &= sane(next_state)
        state = jax.tree.map(lambda new, old: jnp.where(running, new, old), next_state, state)
        recorded = (look(state), jnp.where(running, next_state.reward, 0.0), running)
        done = jnp.asarray(next_state.terminated, bool) | jnp.asarray(next_state.truncated, bool)
        return (state, running & ~done), recorded

    carry = (start, jnp.array(True))
    looks, reward, valid = jax.lax.scan(step, carry, jax.random.split(action_key, horizon))[1]
    looks = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), look(start), looks)
    return Episode(looks, reward, valid)
