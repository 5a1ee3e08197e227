"""Evolution strategies: a gradient of the smoothed objective, estimated from returns only."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax.inner.returns import as_at_start
from metarl_jax.outer.meta_gradient import Parts, trial_of
from metarl_jax.policies.likelihood import mean_of_counted
from metarl_jax.types import Key, PyTree, Stage


class Antithetic(NamedTuple):
    """Results of B antithetic pairs of trials."""

    noise: PyTree
    """ε, leaves [B, ...]"""
    data: Stage
    """data of the trials with θ + σε and θ − σε, leaves [B, 2, S, ...]"""
    fitness: jax.Array
    """F [B, 2], mean return per episode of the counted stages, divided by T; 0 for both trials of an unusable pair"""
    known: jax.Array
    """[B] bool: the pair is usable: in both trials each counted stage has an episode that is not void"""


def antithetic(key: Key, parts: Parts, theta: PyTree, sigma: float) -> Antithetic:
    """B pairs θ ± σ ε_i, ε_i ~ N(0, I); the two trials of a pair share the task and all random numbers."""
    trial = parts.trial

    def pair(index):
        noise_key = jax.random.fold_in(jax.random.fold_in(key, trial.tasks), index)
        noise = optax.tree.random_like(noise_key, theta)
        starts = jax.tree.map(lambda t, e: jnp.stack([t + sigma * e, t - sigma * e]), theta, noise)
        return noise, jax.vmap(lambda start: trial_of(key, index, parts, start))(starts)

    noise, data = parts.memory.over_tasks(pair, jnp.arange(trial.tasks))
    reward, not_void = jnp.where(data.trajectory.valid, data.trajectory.reward, 0), ~data.trajectory.void
    reward = as_at_start(reward, parts.discount)
    per_stage = mean_of_counted(reward.sum(-1), not_void, -1) / trial.horizon
    usable = not_void.any(-1)[..., trial.first_counted :].all((1, 2))
    fitness = per_stage[..., trial.first_counted :].mean(-1)
    return Antithetic(noise, data, jnp.where(usable[:, None], fitness, 0), usable)


def smoothed_gradient(noise: PyTree, score: jax.Array, sigma: float) -> PyTree:
    """1/(2σB) Σ_i (F_i⁺ − F_i⁻) ε_i for scores F [B, 2]: an unbiased gradient of E_ε[F(θ + σε)].

    Salimans et al. (2017, arXiv:1703.03864).
    """
    difference = (score[:, 0] - score[:, 1]) / (2 * sigma * len(score))
    return jax.tree.map(lambda e: jnp.tensordot(difference, e, 1), noise)


def centred_ranks(values: jax.Array, known: jax.Array | None = None) -> jax.Array:
    """Ranks of all values in [−½, ½]: (number of smaller − number of larger values) / 2(n − 1), so ties are equal.

    Args:
        values: an array of any shape.
        known: bool, same shape: mask of the n values to rank; the others get 0. None means all.
    """
    flat = values.reshape(-1)
    ranked = jnp.ones(flat.shape, bool) if known is None else known.reshape(-1)
    sign = jnp.where(ranked & ranked[:, None], jnp.sign(flat[:, None] - flat), 0)
    rescale = (flat.size - 1) / jnp.maximum(ranked.sum() - 1, 1)
    return (sign.sum(1) / (2 * (flat.size - 1)) * rescale).reshape(values.shape)
