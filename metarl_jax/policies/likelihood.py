"""A policy evaluated on every step of a trajectory, with padding that can harm neither values nor gradients."""

import jax
import jax.numpy as jnp

from metarl_jax.base import Policy
from metarl_jax.types import PyTree, Trajectory


def as_pytree(distribution):
    """Lets any user's distribution object pass through vmap: registers its class, by its attributes, if need be.

    Raises:
        ValueError: the object's class is not a pytree and has no ``__dict__`` to take attributes from.
    """
    cls = type(distribution)
    if not jax.tree_util.all_leaves([distribution]):
        return distribution
    if not hasattr(distribution, "__dict__"):
        raise ValueError(
            f"policy.apply returned {cls.__name__}, which JAX cannot take apart; make it a flax.struct dataclass"
        )

    def flatten(item):
        arrays = {k: v for k, v in vars(item).items() if isinstance(v, jax.Array | float | int) or hasattr(v, "dtype")}
        static = tuple((k, v) for k, v in vars(item).items() if k not in arrays)
        return tuple(arrays.values()), (tuple(arrays), static)

    def unflatten(aux, children):
        item = object.__new__(cls)
        item.__dict__.update(zip(aux[0], children, strict=True))
        item.__dict__.update(aux[1])
        return item

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    return distribution


def pad_with_first(tree: PyTree, valid: jax.Array) -> PyTree:
    """Replaces every invalid step by its episode's first step, which is always valid.

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


def kl_from_behavior(policy: Policy, params: PyTree, trajectory: Trajectory) -> jax.Array:
    """KL(behaviour ‖ π_φ)(s) [N, T] in nats, the trust region's direction; that of the first step on padding."""
    observation, behavior = pad_with_first((trajectory.observation, trajectory.distribution), trajectory.valid)

    def one_step(o, old):
        return old.kl(policy.apply(params, o))

    return jax.vmap(jax.vmap(one_step))(observation, behavior)


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Σ values·valid / Σ valid over all axes: the mean over the steps that were taken.

    Where `values` is a product, guard its factors too: the gradient with respect to one is the other.
    """
    return jnp.where(valid, values, 0).sum() / jnp.maximum(valid.sum(), 1)
