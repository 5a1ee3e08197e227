"""A policy evaluated at each step of a trajectory, with padding that affects neither values nor gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.base import Policy
from metarl_jax.types import PyTree, Trajectory


def pad_with_first(tree: PyTree, valid: jax.Array) -> PyTree:
    """Replaces each invalid step by the first step of its episode, which is valid, or at least finite if void.

    Masking only the result with `where` is not enough: a NaN computed from padding would still make the gradient NaN.
    Hence the operands are replaced.

    Args:
        tree: leaves [N, T, ...].
        valid: [N, T].
    """

    def pad(leaf):
        mask = valid.reshape(valid.shape + (1,) * (leaf.ndim - valid.ndim))
        return jnp.where(mask, leaf, leaf[:, :1])

    return jax.tree.map(pad, tree)


def with_final(trajectory: Trajectory) -> tuple[PyTree, jax.Array]:
    """All observations of each episode, the one after its last step included, padded as by `pad_with_first`.

    The next observation of a step is the observation of the following step, so only the last one is extra.

    Returns:
        Leaves [N, T + 1, ...], the final observation at T; and [N, T] bool, the last step of each episode.
    """
    valid = trajectory.valid
    last = jnp.arange(valid.shape[1]) == jnp.maximum(valid.sum(1, keepdims=True) - 1, 0)

    def append(leaf, following):
        mask = last.reshape(last.shape + (1,) * (following.ndim - 2))
        final = jnp.where(mask, following, 0).sum(1, keepdims=True)
        return jnp.concatenate([leaf, final.astype(leaf.dtype)], axis=1)

    padded = pad_with_first(trajectory.observation, valid)
    return jax.tree.map(append, padded, trajectory.next_observation), last


def distributions(policy: Policy, params: PyTree, trajectory: Trajectory) -> PyTree | None:
    """π_φ(·|s) at each step, leaves [N, T, ...]; on padding, that of the first step.

    The functions below accept the result as `seen`, so that the policy is not applied to the same steps again.

    Returns:
        Distributions; None if the policy's distributions are not pytrees of arrays and thus cannot be batched.
    """
    observation = pad_with_first(trajectory.observation, trajectory.valid)
    is_tree = []

    def of_step(o):
        distribution = policy.apply(params, o)
        is_tree.append(all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(distribution)))
        return distribution if is_tree[-1] else ()

    # Flatten to one axis, so that products are between matrices: XLA optimises transposed products only for these.
    lead = trajectory.valid.shape
    steps = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(lead) :]), observation)
    batched = jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), jax.vmap(of_step)(steps))
    return batched if is_tree[-1] else None


def log_prob(policy: Policy, params: PyTree, trajectory: Trajectory, seen: PyTree = None) -> jax.Array:
    """log π_φ(a|s) [N, T] in nats of the actions taken; on padding, that of the first step."""
    action = pad_with_first(trajectory.action, trajectory.valid)
    if seen is not None:
        return jax.vmap(jax.vmap(lambda distribution, a: distribution.log_prob(a)))(seen, action)
    observation = pad_with_first(trajectory.observation, trajectory.valid)
    return jax.vmap(jax.vmap(lambda o, a: policy.apply(params, o).log_prob(a)))(observation, action)


def entropy(
    policy: Policy,
    params: PyTree,
    trajectory: Trajectory,
    seen: PyTree = None,
    needed_by: str = "entropy_weight",
) -> jax.Array:
    """H(π_φ(·|s)) [N, T] in nats; on padding, that of the first step."""

    def of_step(distribution):
        return required(distribution, "entropy", needed_by)()

    if seen is not None:
        return jax.vmap(jax.vmap(of_step))(seen)
    observation = pad_with_first(trajectory.observation, trajectory.valid)
    return jax.vmap(jax.vmap(lambda o: of_step(policy.apply(params, o))))(observation)


OTHERWISE = {
    "inner_kl_weight": "set inner_kl_weight=0",
    "max_kl, the trust region's bound,": "choose an algorithm with gradient steps, such as maml",
    "bootstrap": "leave bootstrap at 0",
    "entropy_weight": "set entropy_weight=0",
    "entropy_weight of self-tuning": "set entropy_weight=0 and leave it out of tuned",
    "policy_entropy_weight": "set policy_entropy_weight=0",
    "deterministic": "leave deterministic out",
}
"""What needs more of a distribution than `sample` and `log_prob`, and how to do without."""


def required(distribution: Any, method: str, needed_by: str) -> Callable:
    """A method that a policy's distribution need not have, for the option that needs it.

    Args:
        distribution: of one step or of many.
        method: "entropy", "kl" or "mode".
        needed_by: the option, an entry of `OTHERWISE`.

    Raises:
        ValueError: the distribution does not have the method.
    """
    bound_method = getattr(distribution, method, None)
    if bound_method is None:
        raise ValueError(
            f"{needed_by} needs the method {method} of the policy's distribution, and {type(distribution).__name__} "
            f"has none; give it one, choose another distribution, or {OTHERWISE[needed_by]}"
        )
    return bound_method


def probability_ratio(policy: Policy, params: PyTree, trajectory: Trajectory, seen: PyTree = None) -> jax.Array:
    """π_φ(a|s) / π_behaviour(a|s) [N, T] with a constant denominator; on padding, that of the first step."""
    return ratio_to_behavior(log_prob(policy, params, trajectory, seen), trajectory)


def ratio_to_behavior(log_prob: jax.Array, trajectory: Trajectory) -> jax.Array:
    """As `probability_ratio`, from log π_φ(a|s) [N, T]."""
    behavior = jax.lax.stop_gradient(pad_with_first(trajectory.log_prob, trajectory.valid))
    return jnp.exp(log_prob - behavior)


def kl_from_behavior(
    policy: Policy,
    params: PyTree,
    behavior: PyTree,
    trajectory: Trajectory,
    seen: PyTree = None,
    acted: PyTree = None,
    needed_by: str = "inner_kl_weight",
) -> jax.Array:
    """KL(π_behaviour ‖ π_φ)(s) [N, T] in nats, as in trust regions; on padding, that of the first step.

    Args:
        policy: π, whose distributions must have a method `kl`.
        params: φ.
        behavior: the parameters that collected the trajectory.
        trajectory: the observations.
        seen: π_φ at each step, from `distributions`; None: computed here.
        acted: π_behaviour at each step, likewise.
        needed_by: the option that needs it, for errors; see `OTHERWISE`.

    Raises:
        ValueError: the distributions have no method `kl`.
    """

    def of_step(then, now):
        return required(then, "kl", needed_by)(now)

    behavior = jax.lax.stop_gradient(behavior)
    seen = distributions(policy, params, trajectory) if seen is None else seen
    acted = distributions(policy, behavior, trajectory) if acted is None else acted
    if seen is None:
        observation = pad_with_first(trajectory.observation, trajectory.valid)
        return jax.vmap(jax.vmap(lambda o: of_step(policy.apply(behavior, o), policy.apply(params, o))))(observation)
    return jax.vmap(jax.vmap(of_step))(acted, seen)


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Σ values·valid / Σ valid over all axes: the mean over valid steps.

    If `values` is a product, its factors must be finite on padding too: each is the gradient of the other.
    """
    return jnp.where(valid, values, 0).sum() / jnp.maximum(valid.sum(), 1)


def mean_of_counted(values: jax.Array, counted: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Mean over `axis` of the values selected by `counted`, such as those of non-void episodes; 0 if there are none.

    If all values are selected, the result is bit-identical to ``values.mean(axis)``.

    Args:
        values: any shape; values that are not selected must be 0, as is the return of a void episode.
        counted: bool, same shape.
        axis: as in `jax.numpy.mean`.
    """
    selected_mean = values.sum(axis) / jnp.maximum(counted.sum(axis), 1)
    return jnp.where(counted.all(axis), values.mean(axis), selected_mean)
