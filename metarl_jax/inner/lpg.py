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
from metarl_jax.observations import shapes_of
from metarl_jax.policies.distributions import Categorical
from metarl_jax.policies.likelihood import entropy, log_prob, with_final
from metarl_jax.policies.networks import categorical_mlp
from metarl_jax.policies.rules import UpdateRule, backward_lstm
from metarl_jax.types import Key, Metrics, Number, Path, PyTree, Trajectory, strongly_typed

REWARD_RANGE = 10.0
"""rewards enter the rule as 10·asinh(r/10), which is within 2 % of r up to |r| = 3 and logarithmic for large |r|"""


class AgentOutputs(NamedTuple):
    """Outputs of an agent on a rollout, the inputs of the rule."""

    log_prob: jax.Array
    """[N, T] log π(a_t|s_t), in nats"""
    y: jax.Array
    """[N, T, m] logits of y(s_t)"""
    following: jax.Array
    """[N, T, m] logits of y(s_{t+1})"""


class Targets(NamedTuple):
    """Outputs of the rule."""

    policy: jax.Array
    """π̂ [N, T]: weight of the action's log-probability, in the role of an advantage"""
    prediction: jax.Array
    """[N, T, m] logits of ŷ(s_t)"""


def with_predictions(policy: Policy, prediction: Policy) -> Policy:
    """Adds the parameters of a categorical prediction y(s) to the policy's, with the label "prediction"."""

    def init(key):
        policy_key, prediction_key = jax.random.split(key)
        return {"policy": policy.init(policy_key), "prediction": prediction.init(prediction_key)}

    def labels(params):
        policy_labels = policy.labels or (lambda phi: jax.tree.map(lambda _: "body", phi))
        return {
            "policy": policy_labels(params["policy"]),
            "prediction": jax.tree.map(lambda _: "prediction", params["prediction"]),
        }

    return Policy(init, lambda params, observation: policy.apply(params["policy"], observation), labels)


class LearnedRule(NamedTuple):
    """An agent and its learned update rule, shared by the adapter and the penalty."""

    policy: Policy
    """π, with φ = {"policy", "prediction"}, see `with_predictions`"""
    prediction: Policy
    """y, a `Categorical` over m classes"""
    rule: UpdateRule
    discount: Number
    """γ, an input of the rule"""

    def see(self, params: PyTree, trajectory: Trajectory) -> AgentOutputs:
        """Outputs of π and y with φ on a rollout, leaves [N, T, ...]."""
        observations, last = with_final(trajectory)
        y = jax.vmap(jax.vmap(lambda o: self.prediction.apply(params["prediction"], o).logits))(observations)
        next_y = jnp.where(last[..., None], y[:, -1:], y[:, 1:])
        return AgentOutputs(log_prob(self.policy, params, trajectory), y[:, :-1], next_y)

    def targets(self, theta: PyTree, outputs: AgentOutputs, trajectory: Trajectory) -> Targets:
        """(π̂, ŷ) of a rollout; values on padding are finite, and no other step depends on them."""
        valid = trajectory.valid
        goes_on = jnp.concatenate([valid[:, 1:], jnp.zeros_like(valid[:, :1])], axis=1) | trajectory.truncated
        continues = jnp.where(goes_on, trajectory.discount, 0)
        reward = REWARD_RANGE * jnp.arcsinh(trajectory.reward / REWARD_RANGE)
        steps = [reward, continues, jnp.full_like(reward, self.discount), jax.nn.sigmoid(outputs.log_prob)]
        next_y = continues[..., None] * jax.nn.softmax(outputs.following)
        return Targets(*self.rule.apply(theta, jnp.stack(steps, -1), jax.nn.softmax(outputs.y), next_y, valid))


def learned_rule(
    env: TaskEnv, policy: Policy, rule_size: int, prediction_size: int, discount: Number, sizes: Mapping[str, Any]
) -> LearnedRule:
    """Builds the agent for an environment, and the rule's network; `sizes` may set y's layers, activation and channels.

    Raises:
        ValueError: a value is out of range.
    """
    checks.integer("rule_size", rule_size)
    layers = {name: sizes[name] for name in ("hidden", "activation", "channels") if name in sizes}
    categories = checks.integer("prediction_size", prediction_size, least=2)
    prediction = categorical_mlp(shapes_of(env), categories, **layers)
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
    """The optimiser that applies the rule's updates; it has no learned parameters, and lpg has no critic.

    Raises:
        ValueError: an option is unknown, out of range or not applicable to a learned rule.
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

    π̂_t and ŷ_t are outputs of the rule, see `metarl_jax.policies.rules.backward_lstm`. They are constants in ∇_φ, but
    the outer loop differentiates through them with respect to both θ and φ. θ is the rule only: each agent starts from
    a new random φ. The rule's input d_t is 0 if the episode ended, by termination or at the horizon. If the episode was
    truncated, d_t is 1 and y(s_{t+1}) is evaluated at the last next observation.

    Two inputs of the rule differ from the paper: large rewards are compressed, see `REWARD_RANGE`, and π(a_t|s_t)
    enters as π/(1 + π), which is also bounded if π is the density of a continuous action.

    Oh, Hessel, Czarnecki, Xu, van Hasselt, Singh, Silver (2020, arXiv:2007.08794).

    Args:
        agent: policy, predictions and rule.
        optimizer: U, without learned parameters.
        prediction_weight: α_y.

    Raises:
        ValueError: α_y is negative.
    """
    checks.non_negative("prediction_weight", prediction_weight)

    def born(key: Key, theta: PyTree) -> Fast:
        params = strongly_typed(agent.policy.init(key))
        return Fast(params, optimizer.init(params))

    def loss(outputs: AgentOutputs, targets: Targets, trajectory: Trajectory) -> jax.Array:
        distance = Categorical(outputs.y).kl(Categorical(targets.prediction))
        return trajectory.mean(prediction_weight * distance - outputs.log_prob * targets.policy)

    def learn(theta, fast, trajectory, advantage):
        outputs, pull_back = jax.vjp(lambda phi: agent.see(phi, trajectory), fast.params)
        targets = agent.targets(theta, outputs, trajectory)
        (gradient,) = pull_back(jax.grad(loss)(outputs, targets, trajectory))
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
    """−β_0 H(π) − β_1 H(y) + β_2 E_t[π̂_t²] + β_3 E_t[‖ŷ_t‖²]: the regularisers of the outer loss.

    The entropies are those of the updated agent at the states of the counted stages. The squares are of the rule's
    outputs in the updates, with ŷ as probabilities. Oh et al. (2020, arXiv:2007.08794).

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
        outputs, trajectory = agent.see(params, stage.trajectory), stage.trajectory
        of_prediction = trajectory.mean(Categorical(outputs.y).entropy())
        if not checks.is_on(policy_entropy_weight):
            return jnp.zeros_like(of_prediction), of_prediction
        of_policy = entropy(agent.policy, params, trajectory, needed_by="policy_entropy_weight")
        return trajectory.mean(of_policy), of_prediction

    def squares(theta, params, stage):
        targets = agent.targets(theta, agent.see(params, stage.trajectory), stage.trajectory)
        probabilities = jax.nn.softmax(targets.prediction)
        sizes = (targets.policy**2, (probabilities**2).sum(-1))
        return [stage.trajectory.mean(size) for size in sizes]

    def penalty(theta, path):
        after, updated = path.counted, path.before_steps
        policy_entropy, prediction_entropy = (h.mean() for h in jax.vmap(entropies)(after.params, after.data))
        target_squares = jax.vmap(lambda params, stage: squares(theta, params, stage))(updated.params, updated.data)
        policy_target, prediction_target = (square.mean() for square in target_squares)
        loss = policy_target_weight * policy_target + prediction_target_weight * prediction_target
        loss -= policy_entropy_weight * policy_entropy + prediction_entropy_weight * prediction_entropy
        return loss, {
            "prediction_entropy": prediction_entropy,
            "policy_target_square": policy_target,
            "prediction_target_square": prediction_target,
        }

    return penalty
