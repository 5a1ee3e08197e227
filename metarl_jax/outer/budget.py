"""Stages of so many environment steps instead of so many episodes, as published samplers have them."""

import dataclasses

import jax.numpy as jnp

from metarl_jax.policies.likelihood import pad_with_first
from metarl_jax.types import Trajectory


def within_budget(trajectory: Trajectory, steps: int) -> Trajectory:
    """The first episodes that reach `steps` environment steps together, whole ones; all later ones are spare.

    Whether an episode counts depends on the episodes before it alone. So a sum over those that count has the
    expectation of their mean number times that of one episode (Wald's identity), and a mean over them is biased as any
    ratio is: by O(1/N), towards the return of long episodes. Spare episodes are void, and cost what the others cost.

    Args:
        trajectory: leaves [N, T, ...].
        steps: the budget; the last episode that counts may go beyond it.
    """
    lengths = trajectory.lengths
    spare = jnp.cumsum(lengths) - lengths >= steps
    valid = trajectory.valid & ~spare[:, None]
    fields = {field.name: getattr(trajectory, field.name) for field in dataclasses.fields(trajectory)}
    own = {"average": fields.pop("average"), "spare": spare, "valid": valid}
    own["reward"] = jnp.where(valid, fields.pop("reward"), 0)
    padded = pad_with_first({name: leaf for name, leaf in fields.items() if name not in own}, valid)
    return Trajectory(**padded, **own)
