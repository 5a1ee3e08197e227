"""Outer losses along the adaptation path of ONE task: ``(policy, path) → (loss, metrics)``.

E_t is the `mean` of `metarl_jax.types.Trajectory`: a sum over the steps taken, divided by N·T. The losses of the
counted stages are averaged, unless the data contain weights, as set by `metarl_jax.outer.annealed_stages`. At the
behaviour's parameters, with plain returns as advantages, −T times the gradient of `ratio` or `clipped` in φ is an
unbiased estimate of the gradient of the mean return of a counted episode, however episodes end. For the effect of
baselines, normalisation and γ see `metarl_jax.inner.advantages`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import Objective, Policy
from metarl_jax.policies.likelihood import entropy, kl_from_behavior, masked_mean, probability_ratio
from metarl_jax.types import Number, Path, PyTree, Trajectory


def _importance_objective(gain_of) -> Objective:
    """−E[gain_of(ratio, A)] with ratio = π_φs(θ)(a|s) / π_behaviour(a|s), mean over the counted stages."""

    def objective(policy: Policy, path: Path):
        def stage(params, data, pi):
            valid = data.trajectory.valid
            ratio = probability_ratio(policy, params, data.trajectory, pi)
            loss = -data.trajectory.mean(gain_of(ratio, jnp.where(valid, data.advantage, 0)))
            extreme = jnp.where(data.trajectory.void[:, None], 1, ratio)  # ignore void episodes
            return loss, extreme.min(), extreme.max()

        counted = path.counted
        loss, lowest, highest = jax.vmap(stage)(*counted.stages)
        weight = counted.data.weight
        return loss.mean() if weight is None else weight @ loss, {"ratio_min": lowest.min(), "ratio_max": highest.max()}

    return objective


def ratio() -> Objective:
    """−E_t[π_φ(θ)(a_t|s_t) / π_behaviour(a_t|s_t) · A_t]; Schulman et al. (2015, arXiv:1502.05477)."""
    return _importance_objective(lambda ratio, advantage: ratio * advantage)


def clipped(clip: Number = 0.3) -> Objective:
    """−E_t[min(r A, clip(r, 1−ε, 1+ε) A)] with r the ratio of `ratio`; Schulman et al. (2017, arXiv:1707.06347).

    Args:
        clip: ε > 0.

    Raises:
        ValueError: ε is not positive.
    """
    clip = checks.positive("clip", clip)
    return _importance_objective(lambda ratio, advantage: clipped_gain(ratio, advantage, clip))


def clipped_gain(ratio: jax.Array, advantage: jax.Array, clip: Number) -> jax.Array:
    """min(r A, clip(r, 1−ε, 1+ε) A), elementwise: what `clipped` averages."""
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def critic_error(loss: Callable[[PyTree, Trajectory], jax.Array], weight: Number) -> Objective:
    """w · E_s[loss(φ_s, D_s)], mean over all stages: trains a critic in θ, adapted or not.

    Args:
        loss: ``(φ, trajectory) → scalar``.
        weight: w ≥ 0.
    """

    def objective(policy: Policy, path: Path):
        error = jax.vmap(loss)(path.params, path.data.trajectory).mean()
        return weight * error, {"critic_error": error}

    return objective


def kl_of_stages(policy: Policy, stages: Path) -> jax.Array:
    """KL(behaviour ‖ π_φs(θ)) in nats, mean over the steps taken in each of the given stages [S'].

    This is the distance bounded by a trust region, not part of a loss. So it is the mean over the visited states, as in
    Schulman et al. (2015, arXiv:1502.05477), for any `average`.
    """

    def stage(params, data, pi):
        known = pi, data.behavior, "max_kl, the trust region's bound,"
        kl = kl_from_behavior(policy, params, data.params, data.trajectory, *known)
        return masked_mean(kl, data.trajectory.valid)

    return jax.vmap(stage)(*stages.stages)


def inner_kl(weight: Number = 5e-4) -> Objective:
    """η · E_t[KL(behaviour ‖ π_φs(θ))], mean over the stages used by inner steps: ProMP's inner penalty.

    It keeps the pre-update policies near those that collected the data while the outer loop takes several steps.
    Rothfuss et al. (2019, arXiv:1810.06784), eq. 14.

    Args:
        weight: η ≥ 0; overridden by η in the data, see `metarl_jax.outer.adaptive_penalty`.

    Raises:
        ValueError: η is negative.
    """
    weight = checks.non_negative("inner_kl_weight", weight)

    def objective(policy: Policy, path: Path):
        def stage(params, data, pi):
            kl = kl_from_behavior(policy, params, data.params, data.trajectory, pi, data.behavior)
            return data.trajectory.mean(kl), masked_mean(kl, data.trajectory.valid)

        # 0 if there are no inner steps.
        mean, of_steps = (kl.sum() / max(len(kl), 1) for kl in jax.vmap(stage)(*path.before_steps.stages))
        if path.data.penalty is None:
            return weight * mean, {"inner_kl": mean}
        return path.data.penalty[0] * mean, {"inner_kl": mean, "inner_kl_of_steps": of_steps}

    return objective


def entropy_bonus(weight: Number) -> Objective:
    """−w · E_t[H(π_φs(θ)(·|s_t))] in nats, mean over all stages, before and after adaptation.

    Williams, Peng (1991, Connection Science 3:241); Mnih et al. (2016, arXiv:1602.01783).

    Args:
        weight: w ≥ 0.

    Raises:
        ValueError: w is negative.
    """
    weight = checks.non_negative("entropy_weight", weight)

    def objective(policy: Policy, path: Path):
        def stage(params, data, pi):
            return data.trajectory.mean(entropy(policy, params, data.trajectory, pi))

        return -weight * jax.vmap(stage)(*path.stages).mean(), {}

    return objective


def credit(weight: Number = 1.0, clip: Number = 0.3) -> Objective:
    """−w Σ_kn Σ_t min(r C, clip(r, 1−ε, 1+ε) C), C = C_kn: E-MAML's score term.

    r = π_φk(θ)(a_t|s_t) / π_behaviour(a_t|s_t); k runs over the stages used by inner steps, n over their episodes; C_kn
    is the episode's `credit`, see `metarl_jax.outer.exploration_credit`. At the behaviour policy the gradient is
    Σ C ∇log p(τ). With w = 1, its sum with the path derivative of f_θ at fixed data (surrogate `score_function`) is an
    unbiased gradient of J(θ) = E_D[R(f_θ(D))] for the sampled update. Clipping only has an effect from the second outer
    step on the same data.

    The sum runs over all N·T log-probabilities, so the term is noisy; a smaller w reduces variance but adds bias.
    Al-Shedivat et al. (2018, arXiv:1710.03641), Stadie et al. (2018, arXiv:1803.01118).

    Args:
        weight: w > 0.
        clip: ε > 0.

    Raises:
        ValueError: an argument is not positive.
    """
    weight, clip = checks.positive("credit", weight), checks.positive("clip", clip)

    def objective(policy: Policy, path: Path):
        def stage(params, data, pi):
            valid = data.trajectory.valid
            ratio = probability_ratio(policy, params, data.trajectory, pi)
            return jnp.where(valid, clipped_gain(ratio, data.credit[:, None], clip), 0).sum()

        return -weight * jax.vmap(stage)(*path.before_steps.stages).sum(), {}

    return objective


def add(*objectives: Objective) -> Objective:
    """The sum of several objectives, with the union of their metrics."""

    def objective(policy: Policy, path: Path):
        losses, metrics = zip(*(part(policy, path) for part in objectives), strict=True)
        return jnp.stack(losses).sum(), {name: value for part in metrics for name, value in part.items()}

    return objective
