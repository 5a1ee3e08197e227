"""Critics: baselines V(s; w) whose parameters w are part of θ, so that they learn from more than one stage.

V of a stage does not depend on the actions of that stage, so with λ = 1, without normalisation and without truncated
episodes the policy gradient is unbiased for any w.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax import checks
from metarl_jax.base import Trial
from metarl_jax.inner.baselines import Baseline, LinearModel, leave_one_out, linear_feature, linear_time, zero
from metarl_jax.inner.returns import reward_to_go, td_errors
from metarl_jax.observations import flat, is_vector, total
from metarl_jax.policies.encoders import encoder
from metarl_jax.policies.layers import value_mlp
from metarl_jax.policies.likelihood import with_final
from metarl_jax.types import Key, Number, PyTree, Trajectory


class Critic(NamedTuple):
    """V(s; w) and how w is learned: by gradient of `loss`, or by `refit` after every meta-iteration."""

    init: Callable[[Key], PyTree]
    """``key → w``"""
    values: Callable[[PyTree, Trajectory, Number], tuple[jax.Array, jax.Array]]
    """``(w, trajectory, γ) → (V(s_t) [N, T], V(s_{t+1}) [N, T])``, like a `Baseline`, but differentiable in w: callers
    that need data must stop the gradient"""
    loss: Callable[[PyTree, Trajectory, Number], jax.Array] | None = None
    """``(w, trajectory, γ) → scalar``, minimised in both loops; None: w is not learned by gradient"""
    refit: Callable[[PyTree, Trajectory, Number], PyTree] | None = None
    """``(w, trajectory, γ) → w``, fitted to all episodes of a meta-iteration, leaves [E, T, ...]"""
    outer_weight: Number = 0.0
    """weight of the loss in the outer objective"""
    inner_weight: Number = 0.0
    """weight of the loss in the inner step; 0: inner steps do not change w"""


def value_network(
    observation_size: PyTree,
    horizon: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    scale: Number | None = None,
    outer_weight: Number = 1.0,
    inner_weight: Number = 0.0,
    timed: bool = True,
    residual: bool = True,
    channels: Sequence[int] | None = None,
) -> Critic:
    """V(s_t) = scale · MLP(s_t, t/T), meta-learned with θ and, if `inner_weight` > 0, adapted by the inner steps.

        loss(w) = E_t[(V(s_t) − G_t)²] / scale²,   G_t = Σ_{k=t}^{L−1} γ^{k−t} r_k + γ^{L−t} V̄(s_L)

    for an episode of L steps; V̄, without gradient, only if the episode was truncated. Time is an input because the
    horizon belongs to the task: the remaining return shrinks as t grows.

    `scale` makes rates and weights independent of the size of rewards: if returns are of size `scale`, the network's
    output, its gradient and the loss are of size 1. With scale = 1 and returns of 100 the loss starts at 10⁴, and a
    gradient step of the usual size overshoots.

    A meta-learned critic that is not adapted predicts the mean over tasks, and before the first inner step no critic
    depends on the task. Normalised advantages would then measure how the task differs from others, rather than which
    action was better in it. So the baseline is V plus a fit to the residuals of the task's OTHER episodes, see
    `with_residual`. With `inner_weight` > 0, V is adapted to the task by the same inner steps as the policy. Liu,
    Socher, Xiong (2019, "Taming MAML", ICML) meta-learn and adapt their control variates in this way, without a
    residual.

    Args:
        observation_size: components of one observation, or its shapes: an `observation_shape` of `TaskEnv`.
        horizon: T, steps per episode.
        hidden: sizes of the hidden layers.
        activation: "tanh" or "relu".
        scale: typical size of a discounted return, > 0; None means T, for rewards of size 1 per step.
        outer_weight: weight of the loss in the outer objective, ≥ 0.
        inner_weight: weight of the loss in the inner step, ≥ 0; the inner rate of w is α·inner_weight.
        timed: whether t/T is an input; use False if rows are pieces of episodes, where t is not known.
        residual: whether to add the fit of `with_residual`.
        channels: of the convolutions that read pictures, see `metarl_jax.policies.encoder`.

    Raises:
        ValueError: an argument is out of range, or both weights are 0, so that nothing would learn w; at a call, an
            observation has another size.
    """
    if is_vector(observation_size):
        checks.integer("observation_size", observation_size)
    encode = encoder(observation_size, channels)
    checks.integer("horizon", horizon)
    scale = float(horizon) if scale is None else checks.positive("scale", scale)
    outer_weight = checks.non_negative("outer_weight", outer_weight)
    inner_weight = checks.non_negative("inner_weight", inner_weight)
    if not (outer_weight or inner_weight):
        raise ValueError(
            "outer_weight and inner_weight are both 0, so nothing would learn the value network; "
            "make one of them positive, or choose another baseline"
        )
    init_network, network = value_mlp(encode.size + checks.boolean("timed", timed), hidden, activation)

    def init(key: Key) -> PyTree:  # flax takes no notice of the encoder's entry
        return init_network(key) | encode.init(jax.random.fold_in(key, 1))

    def values(w: PyTree, trajectory: Trajectory, discount: Number) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        _check_size("value_network", total(observation_size), trajectory)
        valid = trajectory.valid
        observation, last = with_final(trajectory)
        inputs = encode.apply(w, flat(observation, 2) if is_vector(observation_size) else observation)
        if timed:
            lengths = valid.sum(1, keepdims=True)
            time = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)
            time = jnp.concatenate([time, lengths], axis=1)[..., None] / horizon
            inputs = jnp.concatenate([inputs, time], axis=-1)
        all_values = scale * network(w, inputs)
        next_values = jnp.where(last, all_values[:, -1:], all_values[:, 1:])
        return jnp.where(valid, all_values[:, :-1], 0), jnp.where(valid, next_values, 0)

    def loss(w: PyTree, trajectory: Trajectory, discount: Number) -> Float[Array, ""]:
        values_now, next_values = values(w, trajectory, discount)
        bootstrapped = jnp.where(trajectory.truncated, jax.lax.stop_gradient(next_values), 0)
        to_the_end = dataclasses.replace(trajectory, reward=trajectory.reward + discount * bootstrapped)
        error = (values_now - reward_to_go(to_the_end, discount)) / scale
        return trajectory.mean(error**2)

    critic = Critic(init, values, loss, outer_weight=outer_weight, inner_weight=inner_weight)
    return with_residual(critic) if checks.boolean("residual", residual) else critic


def with_residual(critic: Critic) -> Critic:
    """V(s) + V'_n(s), with V'_n a linear fit to the residuals G − V of the stage's episodes other than n.

    V'_n is `metarl_jax.inner.leave_one_out` on the rewards δ_t = r_t + γ V(s_{t+1}) − V(s_t), whose sums are
    G_t − V(s_t). Neither part depends on the actions of episode n, so the gradient is unbiased, as with V alone. V'_n
    is data: no gradient of `values` flows through the fit, and the critic's loss is that of V.

    The fit is `linear_feature` if the other episodes have at least twice as many steps as it has features; otherwise
    `linear_time` under the same condition; otherwise, as with a single episode, there is no fit.
    """

    def values(w: PyTree, trajectory: Trajectory, discount: Number) -> tuple[jax.Array, jax.Array]:
        values_now, next_values = critic.values(w, trajectory, discount)
        episodes, horizon = trajectory.valid.shape
        features = {linear_feature: 2 * _size_of(trajectory), linear_time: 0}
        steps, of_time = (episodes - 1) * horizon, min(3, horizon - 1) + 1
        fit = next((fit for fit, size in features.items() if 2 * (size + of_time) <= steps), None)
        if fit is None:
            return values_now, next_values
        residuals = dataclasses.replace(trajectory, reward=td_errors(trajectory, values_now, next_values, discount))
        residuals = jax.lax.stop_gradient(residuals)
        correction, next_correction = jax.lax.stop_gradient(leave_one_out(fit())(residuals, discount))
        return values_now + correction, next_values + next_correction

    return critic._replace(values=values)


def previous_fit(observation_size: int, ridge: float = 1e-5) -> Critic:
    """`linear_feature`, fitted to all episodes of the PREVIOUS meta-iteration; V = 0 in the first.

    V is independent of the data that it scores, at the cost of one fit per meta-iteration. The fit pools tasks and
    stages, so V is an average over them: if returns differ between tasks, it explains less than a fit per stage.

    Args:
        observation_size: components of one observation.
        ridge: weight of ‖w‖² against the mean squared error, for standardised features.

    Raises:
        ValueError: an argument is out of range; at a call, an observation has another size.
    """
    features = 2 * checks.integer("observation_size", observation_size) + 3
    linear = linear_feature(ridge)
    fit, score = linear.fit, linear.values

    def init(key: Key) -> LinearModel:
        del key
        return LinearModel(jnp.zeros(features + 1), jnp.zeros(features), jnp.zeros(features))

    def values(
        w: LinearModel, trajectory: Trajectory, discount: Number
    ) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        del discount  # the discount of the fit is already in w
        _check_size("previous_fit", observation_size, trajectory)
        return score(w, trajectory)

    def refit(w: LinearModel, trajectory: Trajectory, discount: Number) -> LinearModel:
        _check_size("previous_fit", observation_size, trajectory)
        fitted, any_valid = fit(trajectory, discount), trajectory.valid.any()
        # Keep the old fit if all episodes are void.
        return jax.tree.map(lambda new, old: jnp.where(any_valid, new.astype(old.dtype), old), fitted, w)

    return Critic(init, values, refit=refit)


def _size_of(trajectory: Trajectory) -> int:
    """Numbers in one observation."""
    return sum(leaf[0, 0].size for leaf in jax.tree.leaves(trajectory.observation))


def _check_size(name: str, observation_size: int, trajectory: Trajectory) -> None:
    size = _size_of(trajectory)
    if size != observation_size:
        raise ValueError(
            f"an observation has {size} components and {name} was made for {observation_size}; "
            f"make it with observation_size={size}"
        )


BASELINES: dict[str, Callable[[PyTree, int], Baseline | Critic]] = {
    "linear_feature": lambda observation_size, horizon: linear_feature(),
    "linear_time": lambda observation_size, horizon: linear_time(),
    "zero": lambda observation_size, horizon: zero(),
    "leave_one_out": lambda observation_size, horizon: leave_one_out(),
    "previous_fit": lambda observation_size, horizon: previous_fit(total(observation_size)),
    "value_network": lambda observation_size, horizon: value_network(observation_size, horizon),
}
"""``(components of an observation, or its shapes, T) → baseline`` by name, with default options."""


def is_critic(baseline: object) -> bool:
    """Whether a baseline, or the one of that name, has parameters that are learned: a `Critic`."""
    return isinstance(baseline, Critic) or baseline in ("previous_fit", "value_network")


_log = logging.getLogger("metarl_jax")
_say_once = functools.cache(_log.warning)


def _fit(name: str, observation_size: int, trial: Trial) -> tuple[int, int]:
    """Number of non-constant features of a linear fit, and the maximum number of steps that it is fitted to."""
    of_time = min(3, trial.horizon - 1) + 1
    features = of_time if name == "linear_time" else 2 * observation_size + of_time
    steps = trial.episodes * trial.horizon
    steps = steps if trial.stage_steps is None else min(steps, trial.stage_steps)
    pooled = trial.tasks * trial.stages if name == "previous_fit" else 1
    return features, pooled * (steps - trial.horizon * (name == "leave_one_out"))


def choose_baseline(name: str | None, observation_size: int, trial: Trial) -> str:
    """The name of a baseline that suits the sizes of a trial.

    A linear fit with F features to the N·T steps that it also scores explains F/(N·T) of their variance by chance. The
    inner gradient shrinks to about 1 − F/(N·T), and vanishes with as many features as steps. So the default is
    `linear_feature` if it has at most half as many features as steps, else `linear_time` under the same condition, else
    `zero`; the logger "metarl_jax" warns if it is not the first. A baseline chosen by name is rejected if it has as
    many features as steps. Episodes that end early leave fewer steps than are counted here.

    Worst case, observations of pure noise, with 200 steps and 60 tasks: cosine between the inner gradient and the
    direction of the goal, and norm of the gradient (`python benchmarks/baseline_fit.py --draws 60`, 2026-11-27,
    standard errors up to 0.014):

        F / (N·T)          0.04         0.27         0.52         0.66         0.77         0.89
        linear_feature  0.99, 0.49   0.99, 0.37   0.98, 0.24   0.97, 0.18   0.97, 0.12   0.92, 0.07
        linear_time     0.98, 0.49   the same everywhere

    Args:
        name: a name of `BASELINES`, or None for the default.
        observation_size: components of an observation.
        trial: the sizes of the trial.

    Raises:
        ValueError: the named fit has as many features as steps.
    """
    if name is None:
        fits = {fit: _fit(fit, observation_size, trial) for fit in ("linear_feature", "linear_time")}
        chosen = next((fit for fit, (features, steps) in fits.items() if 2 * features <= steps), "zero")
        if chosen != "linear_feature":
            features, steps = fits["linear_feature"]
            _say_once(
                f"baseline is {chosen!r}: 'linear_feature' would fit {features} features to the {steps} steps of a "
                "stage, and a fit with more than half as many features as steps takes the gradient away; choose "
                "another by baseline=..., such as 'value_network', or take more episodes"
            )
        return chosen
    if name in ("linear_feature", "linear_time", "leave_one_out", "previous_fit"):
        features, steps = _fit(name, observation_size, trial)
        if 0 < steps <= features:
            raise ValueError(
                f"baseline is {name!r}, which fits {features} features to {steps} steps; that leaves nothing to learn "
                "from: take more episodes, or choose baseline 'linear_time', 'value_network' or 'zero'"
            )
    return name


def make_baseline(
    baseline: str | Baseline | Critic | None, observation_size: PyTree, horizon: int
) -> Baseline | Critic:
    """A baseline by name; a `Baseline` or a `Critic` is returned unchanged.

    Args:
        baseline: a name of `BASELINES`, or a baseline; None means "linear_feature".
        observation_size: components of one observation, or its shapes.
        horizon: T, steps per episode.

    Raises:
        ValueError: the name is not registered.
    """
    if isinstance(baseline, Critic) or callable(baseline):
        return baseline
    return checks.choose("baseline", "linear_feature" if baseline is None else baseline, BASELINES)(
        observation_size, horizon
    )
