"""D: episodes of one task, collected by scan. No gradient leaves this module."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.base import Policy, TaskEnv
from metarl_jax.policies.likelihood import pad_with_first
from metarl_jax.types import Key, PyTree, Trajectory, strongly_typed


def _promoted(tree: PyTree, other: PyTree) -> PyTree:
    """`tree` with every leaf in the dtype that holds both its own values and those of `other`."""

    def promote(leaf, partner):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            dtype = jnp.promote_types(dtype, jnp.result_type(partner))
        return jax.lax.convert_element_type(leaf, dtype)

    return jax.tree.map(promote, tree, other)


def _check_state(env: TaskEnv, function: str, state: Any) -> None:
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


def _check_same(env: TaskEnv, start: PyTree, following: PyTree) -> None:
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


def _check_action(env: TaskEnv, distribution: Any, action: Any, log_prob: Any) -> None:
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


def _within(tree: PyTree, most: float) -> jax.Array:
    """Whether no number is NaN or beyond ±most; with inf for `most`, whether all are finite."""
    return jnp.array([(jnp.isfinite(leaf) & (jnp.abs(leaf) <= most)).all() for leaf in jax.tree.leaves(tree)]).all()


def sane(state: Any) -> jax.Array:
    """[] bool: the state's observation and reward are those of a simulation that has not diverged."""
    return _within(state.observation, MOST_OBSERVATION) & _within(state.reward, MOST_REWARD)


def rollout(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, episodes: int, horizon: int
) -> Trajectory:
    """N = `episodes` episodes of at most T = `horizon` steps in one task, each from its own reset draw.

    There is no auto-reset: an episode that ends early is padded and masked, so every episode counts once.

    A simulation has diverged once its observation is NaN or beyond ±1e8, at reset or after a step, or a step's reward
    is NaN or beyond ±1e14.
    It stands still from there on, and the whole episode is void, see `Trajectory`. Where the episode's very first
    action is not finite, the policy has failed and not the simulation: that is not hidden, and recorded as it is.

    Args:
        key: episode n draws from ``fold_in(key, n)``, whatever N is.
        env: the environment.
        policy: the behaviour policy.
        params: its parameters φ.
        task: of which all episodes are.
        episodes: N.
        horizon: T.

    Returns:
        Leaves [N, T, ...], cut from the gradient's graph.

    Raises:
        ValueError: the environment's states or the policy's distribution lack a field, or their shapes or types do not
            fit.
    """

    @jax.jit  # so that asking for its shapes and scanning it trace the environment once, not twice
    def advance(key, state, observation):
        distribution = policy.apply(params, observation)
        for method in ("sample", "log_prob"):
            if not hasattr(distribution, method):
                raise ValueError(
                    f"the policy's apply returns a {type(distribution).__name__} without {method!r}; return a "
                    "distribution, such as metarl_jax.policies.DiagonalGaussian"
                )
        action = distribution.sample(key)
        log_prob = distribution.log_prob(action)
        _check_action(env, distribution, action, log_prob)
        return env.step(task, state, action), action, log_prob

    def episode(key):
        reset_key, action_key = jax.random.split(key)
        start = env.reset(reset_key, task)
        _check_state(env, "reset", start)
        # `reset` may say 0 where `step` returns a float; casting to either one's type could cut values.
        shape_of_next = jax.eval_shape(lambda key, state: advance(key, state, state.observation)[0], action_key, start)
        _check_state(env, "step", shape_of_next)
        _check_same(env, start, shape_of_next)
        start = _promoted(start, shape_of_next)
        action_keys = jax.random.split(action_key, horizon)
        whole = _within(start.observation, MOST_OBSERVATION)

        def seen(state):  # what is carried is finite, but for a reset that was not; then the policy sees zeros
            return jax.tree.map(lambda leaf: jnp.where(whole, leaf, jnp.zeros_like(leaf)), state.observation)

        able = _within(policy.apply(params, seen(start)).sample(action_keys[0]), jnp.inf)

        def step(carry, key):
            state, running, sound = carry
            observation = seen(state)
            following, action, log_prob = advance(key, state, observation)
            following = _promoted(following, state)
            diverged = able & ~sane(following)
            # Padding may diverge: nothing of it is kept.
            sound, running = sound & ~(running & diverged), running & ~diverged
            terminated = jnp.asarray(following.terminated, bool)
            truncated = jnp.asarray(following.truncated, bool) & ~terminated
            record = {
                "observation": observation,
                "action": action,
                "log_prob": log_prob,
                "reward": jnp.where(running, jnp.asarray(following.reward, float), 0.0),
                "next_observation": following.observation,
                "discount": jnp.where(terminated, 0.0, 1.0),
                "truncated": truncated,
                "valid": running,
            }
            # An ended episode stands still, so that no padding can diverge.
            state = jax.tree.map(lambda new, old: jnp.where(running, new, old), following, state)
            return (state, running & ~terminated & ~truncated, sound), record

        carry = (strongly_typed(start), whole, whole)
        (_, _, sound), steps = jax.lax.scan(step, carry, action_keys)
        valid = steps["valid"] & sound
        # What a broken simulation led to may be NaN, or finite and close to overflow.
        reached = jax.tree.map(
            lambda new, old: jnp.where(sound, new, old), steps["next_observation"], steps["observation"]
        )
        return steps | {"valid": valid, "reward": jnp.where(valid, steps["reward"], 0), "next_observation": reached}

    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(episodes))
    steps = jax.vmap(episode)(keys)
    unpadded = {
        name: steps.pop(name) for name in ("reward", "valid")
    }  # the reward of padding is 0, not the first step's
    trajectory = Trajectory(**pad_with_first(steps, unpadded["valid"]), **unpadded)
    return jax.lax.stop_gradient(trajectory)
