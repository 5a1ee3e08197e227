"""The actions of an environment: their shape, and the vector in which a memory receives them.

An environment is anything with `action_size` and `discrete`, see `metarl_jax.TaskEnv`.
"""

from typing import Any

import jax
import jax.numpy as jnp


def choices(env: Any) -> tuple[int, ...]:
    """Numbers of alternatives, one per discrete choice: (3,) for one of 3, (3, 2) for a pair; () for real actions."""
    if not env.discrete:
        return ()
    return env.action_size if isinstance(env.action_size, tuple) else (env.action_size,)


def shape(env: Any) -> tuple[int, ...]:
    """Shape of an action: [A] if real, [] for one discrete choice, [n] for several."""
    if not env.discrete:
        return (env.action_size,)
    return (len(env.action_size),) if isinstance(env.action_size, tuple) else ()


def zero_action(env: Any) -> jax.Array:
    """The action 0 in the shape and dtype of the environment's actions."""
    return jnp.zeros(shape(env), int if env.discrete else float)


def vector_size(env: Any) -> int:
    """Components of `as_vector`: A, or the sum of the numbers of alternatives."""
    return sum(choices(env)) if env.discrete else env.action_size


def as_vector(env: Any, action: jax.Array) -> jax.Array:
    """[A] the action as a recurrent policy receives it: one-hot for discrete actions, one after the other."""
    if not env.discrete:
        return jnp.asarray(action, float)
    if shape(env) == ():
        return jax.nn.one_hot(action, env.action_size, dtype=float)
    each = [jax.nn.one_hot(action[index], size, dtype=float) for index, size in enumerate(choices(env))]
    return jnp.concatenate(each)
