"""f_θ as a learned update rule: θ says how an agent learns, not where it starts. Oh et al. (2020, arXiv:2007.08794)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import Adapter, InnerOptimizer, Policy, TaskEnv
from metarl_jax.inner.adapter import Fast
from metarl_jax.inner.critics import is_critic
from metarl_jax.inner.optimizers import INNER_OPTIMIZERS
from metarl_jax.inner.rates import Rate
from metarl_jax.inner.resolve import resolve_optimizer
from metarl_jax.policies.distributions import Categorical
from metarl_jax.policies.likelihood import log_prob, pad_with_first
from metarl_jax.policies.networks import categorical_mlp
from metarl_jax.policies.rules import UpdateRule, backward_lstm
from metarl_jax.types import Key, Metrics, Path, PyTree, Trajectory, strongly_typed

REWARD_RANGE = 10.0
"""rewards enter the rule as 10·asinh(r/10): up to |r| = 3 within 2 % of r, far beyond like a logarithm"""


class Seen(NamedTuple):
    """What the rule asks an agent about a rollout."""

    log_prob: jax.Array
    """[N, T] log π(a_t|s_t), in nats"""
    y: jax.Array
    """[N, T, m] logits of y(s_t)"""
    following: jax.Array
    """[N, T, m] logits of y(s_{t+1})"""


class Targets(NamedTuple):
    """What the rule answers."""

    policy: jax.Array
    """π̂ [N, T]: how much more probable the action should become, in units of an advantage"""
    prediction: jax.Array
    """[N, T, m] logits of ŷ(s_t)"""


def with_predictions(policy: Policy, prediction: Policy) -> Policy:
    """The policy, with a categorical prediction y(s) beside it; the parameters of y are labelled "prediction"."""

    def init(key):
        policy_key, prediction_key = jax.random.split(key)
        return {"policy": policy.init(policy_key), "prediction": prediction.init(prediction_key)}

    def labels(params):
        own = policy.labels or (lambda phi: jax.tree.map(lambda _: "body", phi))
        return {
            "policy": own(params["policy"]),
            "prediction": jax.tree.map(lambda _: "prediction", params["prediction"]),
        }

    return Policy(init, lambda params, observation: policy.apply(params["policy"], observation), labels)


class LearnedRule(NamedTuple):
    """An agent and the rule that it learns by: what the adapter and the penalty have in common."""

    policy: Policy
    """of φ = {"policy", "prediction"}, see `with_predictions`"""
    prediction: Policy
    """y, a `Categorical` over m"""
    rule: UpdateRule
    discount: float
    """γ, as the rule is told"""

    def see(self, params: PyTree, trajectory: Trajectory) -> Seen:
        """What φ says about a rollout [N, T, ...]."""
        valid = trajectory.valid
        rows, steps = valid.shape
        # What a step led to is what the next one saw, so the network needs only the last step's successor besides.
        lengths = valid.sum(1, keepdims=True)
        last = (jnp.arange(steps) == jnp.maximum(lengths - 1, 0))[..., None]
        observed = pad_with_first(trajectory.observation, valid).reshape(rows, steps, -1)
        final = jnp.where(last, trajectory.next_observation.reshape(rows, steps, -1), 0).sum(1, keepdims=True)
        observed = jnp.concatenate([observed, final.astype(observed.dtype)], axis=1)
        y = jax.vmap(jax.vmap(lambda o: self.prediction.apply(params["prediction"], o).logits))(observed)
        following = jnp.where(last, y[:, -1:], y[:, 1:])
        return Seen(log_prob(self.policy, params, trajectory), y[:, :-1], following)

    def targets(self, theta: PyTree, seen: Seen, trajectory: Trajectory) -> Targets:
        """(π̂, ŷ) of a rollout; what stands on padding is finite, and no other step depends on it."""
        valid = trajectory.valid
        goes_on = jnp.concatenate([valid[:, 1:], jnp.zeros_like(valid[:, :1])], axis=1) | trajectory.truncated
        continues = jnp.where(goes_on, trajectory.discount, 0)
        reward = REWARD_RANGE * jnp.arcsinh(trajectory.reward / REWARD_RANGE)
        steps = [reward, continues, jnp.full_like(reward, self.discount), jax.nn.sigmoid(seen.log_prob)]
        following = continues[..., None] * jax.nn.softmax(seen.following)
        return Targets(*self.rule.apply(theta, jnp.stack(steps, -1), jax.nn.softmax(seen.y), following, valid))


def learned_rule(
    env: TaskEnv, policy: Policy, rule_size: int, prediction_size: int, discount: float, sizes: Mapping[str, Any]
) -> LearnedRule:
    """The agent of an environment, and the rule's network; y has the layers and the activation in `sizes`, if any.

    Raises:
        ValueError: a value is out of range.
    """
    checks.integer("rule_size", rule_size)
    layers = {name: sizes[name] for name in ("hidden", "activation") if name in sizes}
    prediction = categorical_mlp(
        env.observation_size, checks.integer("prediction_size", prediction_size, least=2), **layers
    )
    rule = backward_lstm(prediction_size, rule_size)
    return LearnedRule(with_predictions(policy, prediction), prediction, rule, checks.share("discount", discount))


def rule_optimizer(
    policy: Policy,
    inner_optimizer: str | Callable[[Rate], InnerOptimizer],
    inner_lr: Rate,
    std_lr: Rate | None,
    adaptation_steps: int,
    baseline: Any,
) -> InnerOptimizer:
    """The optimiser that carries a rule's updates out; it learns nothing itself, and there is no critic beside it.

    Raises:
        ValueError: an option is unknown or out of range, or means nothing where the rule is learned.
    """
    if is_critic(baseline):
        raise ValueError(
            "lpg's agents have predictions and no critic; choose another baseline, such as 'linear_feature'"
        )
    if adaptation_steps == 0:
        raise ValueError("adaptation_steps is 0, so the rule would never be applied; take at least one update")
    build = checks.choose("inner_optimizer", inner_optimizer, INNER_OPTIMIZERS)
    optimizer = resolve_optimizer(policy, build, inner_lr, "all", std_lr, None)
    if optimizer.init_learned is not None:
        raise ValueError("lpg learns the rule, and nothing of the optimizer beside it; choose inner_optimizer='sgd'")
    return optimizer


def lpg(agent: LearnedRule, optimizer: InnerOptimizer, prediction_weight: float) -> Adapter:
    """Learned policy gradient: φ ← φ − U(∇_φ E_t[−log π(a_t|s_t) π̂_t + α_y KL(y(s_t) ‖ ŷ_t)]), with an optimiser's U.

    π̂_t and ŷ_t come from the rule, see `metarl_jax.policies.rules.backward_lstm`, and are constants in ∇_φ, while the
    outer loop differentiates through them, θ and φ alike. θ holds the rule only: every agent is born anew. d_t is 0
    where the episode ended, by termination or at the horizon; where it was cut it is 1 and y(s_{t+1}) is that of the
    last step's successor.

    Two of the rule's inputs are not the paper's: rewards are compressed far from 0, see `REWARD_RANGE`; π(a_t|s_t)
    enters as π/(1 + π), which is bounded where π is the density of a continuous action, and alike for both.

    Oh, Hessel, Czarnecki, Xu, van Hasselt, Singh, Silver (2020, arXiv:2007.08794).

    Args:
        agent: policy, predictions and rule.
        optimizer: U; nothing of it is learned.
        prediction_weight: α_y.

    Raises:
        ValueError: α_y is negative.
    """
    checks.non_negative("prediction_weight", prediction_weight)

    def born(key: Key, theta: PyTree) -> Fast:
        params = strongly_typed(agent.policy.init(key))
        return Fast(params, optimizer.init(params))

    def loss(seen: Seen, targets: Targets, trajectory: Trajectory) -> jax.Array:
        distance = Categorical(seen.y).kl(Categorical(targets.prediction))
        return trajectory.mean(prediction_weight * distance - seen.log_prob * targets.policy)

    def learn(theta, fast, trajectory, advantage):
        seen, pull_back = jax.vjp(lambda phi: agent.see(phi, trajectory), fast.params)
        targets = agent.targets(theta, seen, trajectory)
        (gradient,) = pull_back(jax.grad(loss)(seen, targets, trajectory))
        return Fast(*optimizer.update(gradient, fast.opt_state, fast.params, ()))

    return Adapter(
        init_meta=agent.rule.init,
        init=lambda theta: born(jax.random.key(0), theta),
        params=lambda theta, fast: fast.params,
        learn=learn,
        born=born,
    )


def lpg_penalty(
    agent: LearnedRule,
    policy_entropy_weight: float,
    prediction_entropy_weight: float,
    policy_target_weight: float,
    prediction_target_weight: float,
) -> Callable[[PyTree, Path], tuple[jax.Array, Metrics]]:
    """−β_0 H(π) − β_1 H(y) + β_2 E_t[π̂_t²] + β_3 E_t[‖ŷ_t‖²]: what the outer loss has beside the policy's return.

    Entropies are of the agent after the updates, at the states of the counted stages; the squares are of what the rule
    said in these updates, ŷ as probabilities. Oh et al. (2020, arXiv:2007.08794).

    Raises:
        ValueError: a weight is negative.
    """
    weights = {
        "policy_entropy_weight": policy_entropy_weight,
        "prediction_entropy_weight": prediction_entropy_weight,
        "policy_target_weight": policy_target_weight,
        "prediction_target_weight": prediction_target_weight,
    }
    for name, weight in weights.items():
        checks.non_negative(name, weight)

    def entropies(params, stage):
        seen = agent.see(params, stage.trajectory)
        observed = pad_with_first(stage.trajectory.observation, stage.trajectory.valid)
        own = jax.vmap(jax.vmap(lambda o: agent.policy.apply(params, o).entropy()))(observed)
        return [stage.trajectory.mean(values) for values in (own, Categorical(seen.y).entropy())]

    def squares(theta, params, stage):
        targets = agent.targets(theta, agent.see(params, stage.trajectory), stage.trajectory)
        probabilities = jax.nn.softmax(targets.prediction)
        sizes = (targets.policy**2, (probabilities**2).sum(-1))
        return [stage.trajectory.mean(size) for size in sizes]

    def penalty(theta, path):
        after, updated = path.counted, path.before_steps
        policy_entropy, prediction_entropy = (h.mean() for h in jax.vmap(entropies)(after.params, after.data))
        told = jax.vmap(lambda params, stage: squares(theta, params, stage))(updated.params, updated.data)
        policy_target, prediction_target = (square.mean() for square in told)
        loss = policy_target_weight * policy_target + prediction_target_weight * prediction_target
        loss -= policy_entropy_weight * policy_entropy + prediction_entropy_weight * prediction_entropy
        return loss, {
            "prediction_entropy": prediction_entropy,
            "policy_target_square": policy_target,
            "prediction_target_square": prediction_target,
        }

    return penalty
