"""A policy evaluated on every step of a trajectory, with padding that can harm neither values nor gradients."""

import jax
import jax.numpy as jnp

from metarl_jax.base import Policy
from metarl_jax.types import PyTree, Trajectory


def pad_with_first(tree: PyTree, valid: jax.Array) -> PyTree:
    """Replaces every invalid step by its episode's first step: valid, or, where the episode is void, finite at least.

    A `where` around a result is not enough: a NaN computed from padding still poisons the gradient, so operands are
    guarded instead.

    Args:
        tree: leaves [N, T, ...].
        valid: [N, T].
    """

    def pad(leaf):
        mask = valid.reshape(valid.shape + (1,) * (leaf.ndim - valid.ndim))
        return jnp.where(mask, leaf, leaf[:, :1])

    return jax.tree.map(pad, tree)


def log_prob(policy: Policy, params: PyTree, trajectory: Trajectory) -> jax.Array:
    """log π_φ(a|s) [N, T] in nats of the actions taken; that of the first step on padding."""
    observation, action = pad_with_first((trajectory.observation, trajectory.action), trajectory.valid)

    def one_step(o, a):
        return policy.apply(params, o).log_prob(a)

    return jax.vmap(jax.vmap(one_step))(observation, action)


def probability_ratio(policy: Policy, params: PyTree, trajectory: Trajectory) -> jax.Array:
    """π_φ(a|s) / π_behaviour(a|s) [N, T]; the behaviour is data. On padding it is that of the first step."""
    behavior = jax.lax.stop_gradient(pad_with_first(trajectory.log_prob, trajectory.valid))
    return jnp.exp(log_prob(policy, params, trajectory) - behavior)


def kl_from_behavior(policy: Policy, params: PyTree, behavior: PyTree, trajectory: Trajectory) -> jax.Array:
    """KL(π_behaviour ‖ π_φ)(s) [N, T] in nats, the trust region's direction; that of the first step on padding.

    Args:
        policy: π.
        params: φ.
        behavior: the parameters that collected the trajectory. The old distributions are computed from them rather
            than stored, so that any object with a method `kl` will do.
        trajectory: whose observations to use.
    """
    observation = pad_with_first(trajectory.observation, trajectory.valid)
    behavior = jax.lax.stop_gradient(behavior)

    def one_step(o):
        return policy.apply(behavior, o).kl(policy.apply(params, o))

    return jax.vmap(jax.vmap(one_step))(observation)


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Σ values·valid / Σ valid over all axes: the mean over the steps that were taken.

    Where `values` is a product, guard its factors too: the gradient with respect to one is the other.
    """
    return jnp.where(valid, values, 0).sum() / jnp.maximum(valid.sum(), 1)


def mean_of_counted(values: jax.Array, counted: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Mean over `axis` of the values that count, such as those of the episodes that are not void; 0 where none does.

    Where all count it is ``values.mean(axis)`` to the last bit.

    Args:
        values: of any shape; those that do not count are 0, as is the sum of the rewards of a void episode.
        counted: bool, of the same shape.
        axis: as in `jax.numpy.mean`.
    """
    some = values.sum(axis) / jnp.maximum(counted.sum(axis), 1)
    return jnp.where(counted.all(axis), values.mean(axis), some)
