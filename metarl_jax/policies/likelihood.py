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


def distributions(policy: Policy, params: PyTree, trajectory: Trajectory) -> PyTree | None:
    """π_φ(·|s) of every step, leaves [N, T, ...]; that of the first step on padding.

    The functions below take it as `seen`, so that a policy need not be applied to the same steps again.

    Returns:
        Distributions; None where those of the policy are no trees of arrays, so that none can hold many.
    """
    observation = pad_with_first(trajectory.observation, trajectory.valid)
    trees = []

    def of_step(o):
        distribution = policy.apply(params, o)
        trees.append(all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(distribution)))
        return distribution if trees[-1] else ()

    # Along one axis, so that matrix products are of matrices: XLA turns a transposed product of these alone.
    lead = trajectory.valid.shape
    steps = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(lead) :]), observation)
    seen = jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), jax.vmap(of_step)(steps))
    return seen if trees[-1] else None


def log_prob(policy: Policy, params: PyTree, trajectory: Trajectory, seen: PyTree = None) -> jax.Array:
    """log π_φ(a|s) [N, T] in nats of the actions taken; that of the first step on padding."""
    action = pad_with_first(trajectory.action, trajectory.valid)
    if seen is not None:
        return jax.vmap(jax.vmap(lambda distribution, a: distribution.log_prob(a)))(seen, action)
    observation = pad_with_first(trajectory.observation, trajectory.valid)
    return jax.vmap(jax.vmap(lambda o, a: policy.apply(params, o).log_prob(a)))(observation, action)


def entropy(policy: Policy, params: PyTree, trajectory: Trajectory, seen: PyTree = None) -> jax.Array:
    """H(π_φ(·|s)) [N, T] in nats; that of the first step on padding."""
    if seen is not None:
        return jax.vmap(jax.vmap(lambda distribution: _having("entropy", distribution)()))(seen)
    observation = pad_with_first(trajectory.observation, trajectory.valid)
    return jax.vmap(jax.vmap(lambda o: _having("entropy", policy.apply(params, o))()))(observation)


NEEDED_FOR = {
    "entropy": "an entropy bonus needs its entropy(); give it one, or leave entropy_weight at 0",
    "kl": "a penalty or a bound on how far the policy moves needs its kl(other); give it one, or choose an algorithm "
    "without, such as maml",
}


def _having(method: str, distribution):
    """The method of a policy's distribution.

    Raises:
        ValueError: it has none.
    """
    found = getattr(distribution, method, None)
    if found is None:
        raise ValueError(f"the policy's {type(distribution).__name__} has no method {method}, and {NEEDED_FOR[method]}")
    return found


def probability_ratio(policy: Policy, params: PyTree, trajectory: Trajectory, seen: PyTree = None) -> jax.Array:
    """π_φ(a|s) / π_behaviour(a|s) [N, T]; the behaviour is data. On padding it is that of the first step."""
    return ratio_to_behavior(log_prob(policy, params, trajectory, seen), trajectory)


def ratio_to_behavior(log_prob: jax.Array, trajectory: Trajectory) -> jax.Array:
    """The same of log-probabilities that are known."""
    behavior = jax.lax.stop_gradient(pad_with_first(trajectory.log_prob, trajectory.valid))
    return jnp.exp(log_prob - behavior)


def kl_from_behavior(
    policy: Policy,
    params: PyTree,
    behavior: PyTree,
    trajectory: Trajectory,
    seen: PyTree = None,
    acted: PyTree = None,
) -> jax.Array:
    """KL(π_behaviour ‖ π_φ)(s) [N, T] in nats, the trust region's direction; that of the first step on padding.

    Args:
        policy: π.
        params: φ.
        behavior: the parameters that collected the trajectory. Any object with a method `kl` will do as a distribution.
        trajectory: whose observations to use.
        seen: π_φ of its steps, see `distributions`; None: to be computed.
        acted: π_behaviour of its steps, likewise.
    """
    behavior = jax.lax.stop_gradient(behavior)
    seen = distributions(policy, params, trajectory) if seen is None else seen
    acted = distributions(policy, behavior, trajectory) if acted is None else acted
    if seen is None:
        observation = pad_with_first(trajectory.observation, trajectory.valid)
        return jax.vmap(jax.vmap(lambda o: _having("kl", policy.apply(behavior, o))(policy.apply(params, o))))(
            observation
        )
    return jax.vmap(jax.vmap(lambda then, now: _having("kl", then)(now)))(acted, seen)


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
