"""The actions of an environment: their shape, and the vector in which a memory receives them.

An environment is anything with `action_size` and perhaps `discrete`, see `metarl_jax.TaskEnv`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks


def check_size(name: str, value: Any, discrete: Any) -> None:
    """Checks an `action_size`.

    Raises:
        ValueError: it is no positive integer and, for discrete actions, no tuple of them.
    """
    if discrete is True and isinstance(value, tuple) and value:
        for size in value:
            checks.integer(f"an entry of {name}", size)
        return
    try:
        checks.integer(name, value)
    except ValueError as error:
        hint = ", or a tuple of them, one for each discrete choice" if isinstance(value, tuple | list) else ""
        raise ValueError(f"{error}{hint}") from None


def choices(env: Any) -> tuple[int, ...]:
    """Numbers of alternatives, one per discrete choice: (3,) for one of 3, (3, 2) for a pair; () for real actions."""
    if not getattr(env, "discrete", False):
        return ()
    return env.action_size if isinstance(env.action_size, tuple) else (env.action_size,)


def shape(env: Any) -> tuple[int, ...]:
    """Shape of an action: [A] if real, [] for one discrete choice, [n] for a tuple of them."""
    if not choices(env):
        return (env.action_size,)
    return (len(env.action_size),) if isinstance(env.action_size, tuple) else ()


def zero_action(env: Any) -> jax.Array:
    """The action 0 in the shape and dtype of the environment's actions."""
    return jnp.zeros(shape(env), int if choices(env) else float)


def uniform(key: jax.Array, env: Any, *lead: int) -> jax.Array:
    """Discrete actions [*lead, ...], all alternatives equally likely."""
    return jax.random.randint(key, (*lead, *shape(env)), 0, jnp.array(env.action_size))


def vector_size(env: Any) -> int:
    """Components of `as_vector`: A, or the sum of the numbers of alternatives."""
    return sum(choices(env)) or env.action_size


def as_vector(env: Any, action: jax.Array) -> jax.Array:
    """[A] the action as a recurrent policy receives it: one-hot for discrete actions, one choice after the other."""
    if not choices(env):
        return jnp.asarray(action, float)
    if shape(env) == ():
        return jax.nn.one_hot(action, env.action_size, dtype=float)
    each = [jax.nn.one_hot(action[index], size, dtype=float) for index, size in enumerate(choices(env))]
    return jnp.concatenate(each)
