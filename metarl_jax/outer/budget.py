"""Stages with a budget of environment steps instead of a number of episodes, as in published samplers."""

import dataclasses

import jax.numpy as jnp

from metarl_jax.policies.likelihood import pad_with_first
from metarl_jax.types import Trajectory


def within_budget(trajectory: Trajectory, steps: int) -> Trajectory:
    """Keeps complete episodes, in order, until they reach `steps` environment steps; later episodes are spare.

    Whether an episode counts depends only on the episodes before it. So by Wald's identity, the expected sum over the
    counted episodes is their expected number times the expectation of one episode. A mean over them is biased, like any
    ratio of sums, by O(1/N) towards the return of long episodes. Spare episodes are void, but they are simulated too.

    Args:
        trajectory: leaves [N, T, ...].
        steps: the budget; the last episode that counts may exceed it.
    """
    lengths = trajectory.lengths
    spare = jnp.cumsum(lengths) - lengths >= steps
    valid = trajectory.valid & ~spare[:, None]
    fields = {field.name: getattr(trajectory, field.name) for field in dataclasses.fields(trajectory)}
    changed = {"average": fields.pop("average"), "spare": spare, "valid": valid}
    changed["reward"] = jnp.where(valid, fields.pop("reward"), 0)
    padded = pad_with_first({name: leaf for name, leaf in fields.items() if name not in changed}, valid)
    return Trajectory(**padded, **changed)
