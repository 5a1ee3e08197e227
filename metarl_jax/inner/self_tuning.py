"""f_θ as actor-critic steps with hyperparameters θ, for online meta-gradients."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import checks
from metarl_jax.base import Adapter, InnerOptimizer, Policy, TaskEnv
from metarl_jax.inner.actor_critic import ActorCriticParams, actor_critic
from metarl_jax.inner.adapter import Fast
from metarl_jax.inner.advantages import estimate, gae_of_values
from metarl_jax.inner.critics import Critic, value_network
from metarl_jax.inner.optimizers import INNER_OPTIMIZERS, RATE_GAIN
from metarl_jax.inner.surrogates import score_function
from metarl_jax.observations import shapes_of
from metarl_jax.policies.likelihood import entropy, masked_mean
from metarl_jax.types import PyTree, Trajectory, strongly_typed

Number = Any
"""A float, or an array [] if it depends on θ."""
Builder = Callable[[float], InnerOptimizer]

ROOM = 10.0
"""Upper bound of a tuned weight or rate, as a multiple of its initial value."""


class Hyperparameters(NamedTuple):
    """Hyperparameters of an actor-critic; each is a number []."""

    discount: Number
    """γ per step"""
    lambda_: Number
    """λ"""
    entropy_weight: Number
    """weight of the entropy, in nats, which the loss subtracts"""
    value_weight: Number
    """weight of the critic's squared error"""
    learning_rate: Number
    """α, the inner rate"""


HYPERPARAMETERS = Hyperparameters._fields
_SHARES = ("discount", "lambda_")


class Tuning(NamedTuple):
    """The map from θ to hyperparameters."""

    start: Hyperparameters
    init: Callable[[], PyTree]
    """``() → θ``, a dictionary of raw numbers by name, initially 0"""
    read: Callable[[PyTree], Hyperparameters]


def tuning(start: Hyperparameters, tuned: Sequence[str] = HYPERPARAMETERS) -> Tuning:
    """x = b · sigmoid(κρ + logit(x_0 / b)) for each tuned hyperparameter, with ρ in θ; the others are fixed at x_0.

    b is 1 for γ and λ, so a step of ρ multiplies γ / (1 − γ), the effective horizon, by a factor, for any γ.
    b is `ROOM` · x_0 for the weights and the rate: ρ acts as a factor while x is small, and b bounds x against
    divergence. κ is `metarl_jax.inner.optimizers.RATE_GAIN`: an outer Adam step at 1e-3 changes the factor by 1 %.

    Sigmoids as in Xu et al. (2018, arXiv:1805.09801) and Zahavy et al. (2020, arXiv:2002.12928).

    Args:
        start: x_0; γ and λ in [0, 1], or in (0, 1) if tuned; weights ≥ 0, or > 0 if tuned; α > 0.
        tuned: names of `HYPERPARAMETERS`.

    Raises:
        ValueError: a name is unknown or given twice, or a start is out of range.
    """
    if isinstance(tuned, str) or not isinstance(tuned, Sequence):
        raise ValueError(f"tuned is {tuned!r}; it must be a sequence of names, such as ('discount', 'lambda_')")
    for name in tuned:
        checks.one_of("hyperparameter in tuned", name, HYPERPARAMETERS)
    if len(set(tuned)) < len(tuned):
        raise ValueError(f"tuned is {tuned!r}; name each hyperparameter once")
    bounds = {}
    for name, value in start._asdict().items():
        if name in _SHARES:
            bounds[name] = 1.0
            checks.share(name, value)
            if name in tuned and not checks.traced(value) and value in (0, 1):
                raise ValueError(f"{name} is {value!r}, where a sigmoid cannot move; start it inside (0, 1)")
        else:
            bounds[name] = ROOM * value
            (checks.positive if name in tuned or name == "learning_rate" else checks.non_negative)(name, value)

    def read(theta):
        def number(name, value):
            if name not in tuned:
                return jnp.asarray(value, float)
            fraction = value / bounds[name]
            log = jnp.log if checks.traced(fraction) else math.log
            return bounds[name] * jax.nn.sigmoid(RATE_GAIN * theta[name] + log(fraction / (1 - fraction)))

        return Hyperparameters(**{name: number(name, value) for name, value in start._asdict().items()})

    return Tuning(start, lambda: {name: jnp.zeros((), float) for name in tuned}, read)


class ActorCritic(NamedTuple):
    """An actor-critic agent, built by `make_actor_critic`."""

    policy: Policy
    """π, with parameters φ"""
    critic: Critic
    """V, used for both critics"""
    outer: Hyperparameters
    """hyperparameters of the outer critic: γ', λ', rate and weight, fixed at the initial values"""
    unit: float = 1.0
    """typical size of a return, the unit of the critics' errors"""
    normalized: bool = True
    """whether the advantages of inner steps are normalised to mean 0 and standard deviation 1"""

    def returns(self, w: PyTree, trajectory: Trajectory, by: Hyperparameters) -> tuple[jax.Array, jax.Array]:
        """(A, A + V), each [N, T]: generalised advantages, and λ-returns as targets of V."""
        values, next_values = self.critic.values(w, trajectory, by.discount)
        advantage = gae_of_values(trajectory, values, next_values, by.discount, by.lambda_)
        return advantage, advantage + values

    def judge(self, params: PyTree, trajectory: Trajectory) -> tuple[jax.Array, jax.Array]:
        """(A, scale) at the outer γ' and λ'; see `metarl_jax.base.ScaledEstimator`."""
        gamma, lambda_ = self.outer.discount, self.outer.lambda_
        values = self.critic.values(params.critic.outer, trajectory, gamma)
        return estimate(trajectory, values, gamma, lambda_, self.normalized)

    def error(self, w: PyTree, trajectory: Trajectory, target: jax.Array) -> jax.Array:
        """E_t[(V(s_t) − target_t)²] / unit²."""
        values, _ = self.critic.values(w, trajectory, self.outer.discount)
        return trajectory.mean(((values - target) / self.unit) ** 2)

    def entropy(self, params: PyTree, trajectory: Trajectory, most_weight: float) -> jax.Array:
        """E_t[H(π_φ(·|s_t))] in nats; 0, and no method asked for, if its weight can only be 0."""
        if not checks.is_on(most_weight):
            return jnp.zeros(())
        needed_by = "entropy_weight of self-tuning"
        return trajectory.mean(entropy(self.policy, params, trajectory, needed_by=needed_by))


@struct.dataclass
class Critics:
    """Parameters of the two critics of an agent."""

    outer: PyTree
    """V at the fixed γ' and λ' of the outer loss"""
    tuned: PyTree
    """V at the γ(θ) and λ(θ) of the agent"""


def make_actor_critic(
    env: TaskEnv, policy: Policy, outer: Hyperparameters, return_scale: float | None = None, normalized: bool = True
) -> ActorCritic:
    """Policy and two critics, see `Critics`.

    An outer loss with another discount than the agent's needs a separate critic: a V for strongly discounted returns is
    a poor baseline for long-term returns, and would bootstrap them wrongly if rows are pieces of episodes. The critics
    do not take the time as an input, because it is not known within a piece.

    Args:
        env: the environment that defines the sizes.
        policy: π, with parameters φ.policy.
        outer: γ' and λ', and the initial rate and weights.
        return_scale: typical size of a return, > 0; None means the environment's horizon, for rewards of size 1.
        normalized: whether to normalise the advantages of inner steps and of the outer loss.

    Raises:
        ValueError: `return_scale` is not positive, or `normalized` is not a boolean.
    """
    unit = float(env.horizon) if return_scale is None else checks.positive("return_scale", return_scale)
    critic = value_network(shapes_of(env), env.horizon, scale=unit, timed=False, residual=False)
    return ActorCritic(with_critics(policy, critic), critic, outer, unit, checks.boolean("normalized", normalized))


def with_critics(policy: Policy, critic: Critic) -> Policy:
    """φ of a policy and of `Critics`, which are initialised independently."""

    def init(key):
        keys = jax.random.split(key)
        return Critics(tuned=critic.init(keys[0]), outer=critic.init(keys[1]))

    return actor_critic(policy, critic._replace(init=init))


def normalized_smoothly(advantage: jax.Array, valid: jax.Array) -> jax.Array:
    """(A − mean) / √(variance + 1e-8) over valid steps: `metarl_jax.inner.normalize` made differentiable at A = 0."""
    centered = jnp.where(valid, advantage - masked_mean(advantage, valid), 0)
    return centered / jnp.sqrt(masked_mean(centered**2, valid) + 1e-8)


class SelfTuning(NamedTuple):
    """The adapter, with the functions that the outer loss needs."""

    adapter: Adapter
    descend: Callable[[PyTree, Fast, PyTree], Fast]
    """``(θ, fast, gradient) → fast``: one step of the inner optimiser at the rate α(θ)"""
    fresh: Callable[[PyTree], Fast]
    """``φ → fast`` with a new optimiser state"""


def self_tuning(agent: ActorCritic, tuning: Tuning, inner_optimizer: Builder | str = "sgd") -> SelfTuning:
    """φ ← φ − α U(∇_φ ℓ(φ; D, θ)), with U the optimiser's step at rate 1 and the actor-critic loss ℓ.

        ℓ = −E_t[log π_φ(a_t|s_t) Â_t] + w_v E_t[(V(s_t) − Ĝ_t)²] / unit² − w_e E_t[H(π_φ(·|s_t))]
        A_t = Σ_{k≥t} (γλ)^{k−t} δ_k,   Ĝ_t = A_t + V(s_t),   Â = A, or A normalised

    The step is a semi-gradient: ∇_φ treats Â and Ĝ as constants. The meta-gradient does not: it differentiates Â and Ĝ
    with respect to θ, through γ and λ and through earlier steps of the window. Only the trajectory is constant. Xu, van
    Hasselt, Silver (2018, arXiv:1805.09801), whose η is our θ; they truncate the window after one step.

    The outer critic takes the same kind of step at γ', λ' and the initial rate and weight, so that the evaluation of θ
    does not depend on θ.

    Args:
        agent: policy and critics.
        tuning: the map from θ to hyperparameters.
        inner_optimizer: U, a name of `metarl_jax.inner.INNER_OPTIMIZERS` or a function ``inner_lr → InnerOptimizer``,
            whose step is proportional to the rate and does not depend on φ, so without weight decay.

    Raises:
        ValueError: the name is unknown, or the optimiser has learned parameters.
    """
    optimizer: InnerOptimizer = checks.choose("inner_optimizer", inner_optimizer, INNER_OPTIMIZERS)(1.0)
    if not isinstance(optimizer, InnerOptimizer):
        raise ValueError("inner_optimizer must be a function inner_lr → InnerOptimizer, and returned something else")
    if optimizer.init_learned is not None:
        raise ValueError(
            f"inner_optimizer is {inner_optimizer!r}, whose rates are learned too; choose sgd, momentum or adam"
        )

    def fresh(params):
        return Fast(params, optimizer.init(params))

    def born(key, theta):
        return fresh(strongly_typed(agent.policy.init(key)))

    def descend(theta, fast, gradient):
        alpha = tuning.read(theta).learning_rate
        rates = ActorCriticParams(policy=alpha, critic=Critics(tuned=alpha, outer=agent.outer.learning_rate))
        # Apply the optimiser at 0, so that the step is exact rather than a difference of rounded parameters.
        step, opt_state = optimizer.update(gradient, fast.opt_state, jax.tree.map(jnp.zeros_like, fast.params))

        def move(rate, params, step):
            return jax.tree.map(lambda p, s: p + jnp.asarray(rate, p.dtype) * s, params, step)

        return Fast(jax.tree.map(move, rates, fast.params, step), opt_state)

    def learn(theta, fast, trajectory, advantage):
        del advantage  # that of the outer γ' and λ'
        hyperparameters, critics = tuning.read(theta), fast.params.critic
        advantage, target = agent.returns(critics.tuned, trajectory, hyperparameters)
        _, outer_target = agent.returns(critics.outer, trajectory, agent.outer)
        if agent.normalized:
            advantage = normalized_smoothly(advantage, trajectory.valid)

        def loss(phi):
            return (
                score_function(agent.policy, phi, trajectory, advantage)
                + hyperparameters.value_weight * agent.error(phi.critic.tuned, trajectory, target)
                - hyperparameters.entropy_weight * agent.entropy(phi, trajectory, tuning.start.entropy_weight)
                + agent.outer.value_weight * agent.error(phi.critic.outer, trajectory, outer_target)
            )

        return descend(theta, fast, jax.grad(loss)(fast.params))

    def init(theta):
        return born(jax.random.key(0), theta)

    adapter = Adapter(lambda key: tuning.init(), init, lambda theta, fast: fast.params, learn, born)
    return SelfTuning(adapter, descend, fresh)
