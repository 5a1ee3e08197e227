"""Outer losses of online meta-gradients: the actor-critic loss of the next rollout, or the distance to a target.

Both are ``(θ, path) → (loss, metrics)`` for one window of a life; their metrics include the hyperparameters of θ.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import Policy
from metarl_jax.inner.self_tuning import ActorCritic, SelfTuning, Tuning
from metarl_jax.outer.objectives import ratio
from metarl_jax.policies.likelihood import kl_from_behavior
from metarl_jax.types import Metrics, Path, PyTree, Stage

WindowLoss = Callable[[PyTree, Path], tuple[jax.Array, Metrics]]


def nothing(policy: Policy, path: Path) -> tuple[jax.Array, Metrics]:
    """The zero objective, for algorithms whose whole outer loss is the `penalty`."""
    return jnp.zeros(()), {}


def validation(agent: ActorCritic, tuning: Tuning) -> WindowLoss:
    """`metarl_jax.outer.ratio` + w_v E_t[(V(s_t) − Ḡ_t)²] / unit² − w_e E_t[H(π_φ(·|s_t))], mean over counted stages.

    The first term evaluates φ_s(θ) by the return at the fixed γ' and λ', with the outer critic. w_v and w_e are the
    initial weights. The critic is evaluated at its own γ(θ) and λ(θ): Ḡ are λ-returns computed with the φ that
    collected the stage and with θ constant, so they are data. This tunes the hyperparameters of the critic's learning
    without pulling γ towards γ', unlike Xu et al. (2018, arXiv:1805.09801) and Zahavy et al. (2020, arXiv:2002.12928),
    who compare V with the returns at γ'. Without this term the value weight would have no gradient in a window of one
    update, because the critic affects the policy only in the following update.

    Args:
        agent: policy and critics.
        tuning: the map from θ to hyperparameters.
    """
    of_policy = ratio()

    def loss(theta: PyTree, path: Path):
        hyperparameters = tuning.read(theta)
        constant = jax.lax.stop_gradient(hyperparameters)

        def stage(params, data):
            behavior = jax.lax.stop_gradient(data.params.critic.tuned)
            _, target = agent.returns(behavior, data.trajectory, constant)
            error = agent.error(params.critic.tuned, data.trajectory, target)
            return error, agent.entropy(params, data.trajectory, agent.outer.entropy_weight)

        value, metrics = of_policy(agent.policy, path)
        error, entropy = jax.tree.map(jnp.mean, jax.vmap(stage)(path.counted.params, path.counted.data))
        value = value + agent.outer.value_weight * error - agent.outer.entropy_weight * entropy
        return value, metrics | {"critic_error": error} | hyperparameters._asdict()

    return loss


def bootstrapped(agent: ActorCritic, tuning: Tuning, rule: SelfTuning, steps: int) -> WindowLoss:
    """E_t[KL(π_φ̃ ‖ π_φ_L(θ))] + w_v E_t[(V_φ̃ − V_φ_L(θ))²] / unit², with φ̃ a target `steps` updates ahead.

    φ̃ is computed from φ_L by `steps` − 1 further updates with the same rule and one step on `validation`. It carries
    no gradient, so θ is trained to reach φ̃ in L updates: this extends the horizon of the meta-gradient without
    backpropagation through more updates. The last step ties the target to the objective; without it, any θ whose
    updates continue in the same way would be optimal. All steps use the data of stage L and start with a new state of
    the inner optimiser.

    Flennerhag et al. (2022, arXiv:2109.04504), who collect further rollouts for the target.

    Args:
        agent: policy and critics.
        tuning: the map from θ to hyperparameters.
        rule: f_θ.
        steps: number of steps to the target, ≥ 1.

    Raises:
        ValueError: `steps` is not a positive integer.
    """
    steps = checks.integer("bootstrap", steps)
    outer_loss = validation(agent, tuning)

    def target_of(theta: PyTree, params: PyTree, newest: Stage) -> PyTree:
        def newest_loss(params):
            params, data = jax.tree.map(lambda leaf: leaf[None], (params, newest))
            return outer_loss(theta, Path(params=params, data=data, burn_in=0))[0]

        fast = rule.fresh(params)
        for _ in range(steps - 1):
            fast = rule.adapter.learn(theta, fast, newest.trajectory, newest.advantage)
        return rule.descend(theta, fast, jax.grad(newest_loss)(fast.params)).params

    def loss(theta: PyTree, path: Path):
        params, newest = jax.tree.map(lambda leaf: leaf[-1], (path.params, path.data))
        target = jax.lax.stop_gradient(target_of(theta, params, newest))
        kl = kl_from_behavior(agent.policy, params, target, newest.trajectory, needed_by="bootstrap")
        kl = newest.trajectory.mean(kl)
        values, _ = agent.critic.values(target.critic.tuned, newest.trajectory, agent.outer.discount)
        error = agent.error(params.critic.tuned, newest.trajectory, values)
        metrics = {"target_kl": kl, "target_error": error} | tuning.read(theta)._asdict()
        return kl + agent.outer.value_weight * error, metrics

    return loss
