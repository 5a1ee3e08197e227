"""Meta-gradients of an actor-critic's hyperparameters: closed forms on a chain, finite differences, a second target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import inner, outer
from metarl_jax.inner.actor_critic import ActorCriticParams
from metarl_jax.inner.optimizers import RATE_GAIN
from metarl_jax.inner.self_tuning import ActorCritic, Critics, with_critics
from metarl_jax.types import Stage, Trajectory
from tests import toys
from tests.data import random_trajectory

START = inner.Hyperparameters(0.9, 0.8, 0.02, 0.6, 0.05)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64():
        yield


def make_parts(agent, rule, steps, episodes=1, horizon=2):
    """Of a window that only replays: there is no environment."""
    trial = mrl.Trial(tasks=1, episodes=episodes, adaptation_steps=steps, burn_in=1, horizon=horizon)
    return outer.Parts(toys.walk(), agent.policy, rule.adapter, agent.judge, outer.nothing, trial)


def collected(agent, params, trajectory):
    """A stage of these data, as if φ had collected it."""
    log_prob = mrl.policies.log_prob(agent.policy, params, trajectory)
    trajectory = trajectory.replace(log_prob=log_prob)
    advantage, scale = agent.judge(params, trajectory)
    return Stage(trajectory, advantage, params, scale, jnp.zeros(trajectory.valid.shape[0]))


def lived(agent, rule, theta, fast, trajectories):
    """The stages of a window whose agent learns from one trajectory after the other."""
    stages = []
    for trajectory in trajectories:
        stages.append(collected(agent, fast.params, trajectory))
        fast = rule.adapter.learn(theta, fast, trajectory, stages[-1].advantage)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)


# --- closed forms ----------------------------------------------------------------------------------------------------

X, REWARD, W, U, UNIT = 0.4, 1.7, (0.3, 0.9), (0.2, 1.1), 2.0
OUTER_GAMMA, OUTER_LAMBDA = 0.97, 0.9


def chain_agent():
    """Two states A and B, one-hot. In A the logits are (0, x), in B (0, 0); the critics are tables."""
    policy = mrl.Policy(
        init=lambda key: jnp.array(X), apply=lambda x, s: mrl.policies.Categorical(jnp.stack([0.0 * x, x * s[0]]))
    )
    critic = inner.Critic(
        init=lambda key: jnp.zeros(2), values=lambda w, d, gamma: (d.observation @ w, d.next_observation @ w)
    )
    fixed = START._replace(discount=OUTER_GAMMA, lambda_=OUTER_LAMBDA, entropy_weight=0.0)
    return ActorCritic(with_critics(policy, critic), critic, fixed, UNIT, normalized=False)


def chain_episode():
    """A, action 1, reward 0; B, action 0, reward R, the end."""
    states = jnp.eye(2)[None]
    return Trajectory(
        observation=states,
        action=jnp.array([[1, 0]]),
        log_prob=jnp.zeros((1, 2)),
        reward=jnp.array([[0.0, REWARD]]),
        discount=jnp.array([[1.0, 0.0]]),
        truncated=jnp.zeros((1, 2), bool),
        valid=jnp.ones((1, 2), bool),
        next_observation=jnp.stack([states[:, 1], states[:, 1]], 1),
    )


@pytest.mark.parametrize("name", ["discount", "lambda_"])
def test_the_meta_gradient_on_a_two_state_chain(name):
    """One update from one episode, judged by a second episode, which takes the same path.

    With p = σ(x) = π(1|A), tables w of the tuned critic and u of the outer one, and no entropy in the outer loss:

    GAE       A_A = γ w_B − w_A + γλ (R − w_B),   A_B = R − w_B
    policy    the loss is −½ (log π(1|A) A_A + log π(0|B) A_B) − w_e ½ Σ_s H(π(·|s)), ∂ log π(1|A)/∂x = 1 − p,
              ∂H/∂x = −x p (1 − p), and B's logits are constant: x' = x + ½ α (1 − p) (A_A − w_e x p)
    critic    the loss is w_v ½ Σ_s (w_s − Ĝ_s)² / unit², Ĝ_s = A_s + w_s held fixed:
              w_s' = w_s + α w_v A_s / unit²
    outer     L = −½ (ratio_A Â_A + Â_B) + w_v' ½ Σ_s (w_s' − Ḡ_s)² / unit²,
              Â_A = γ'u_B' − u_A' + γ'λ'(R − u_B'),   Ḡ_A = γ w_B'' + γλ (R − w_B'') with w'' = w' as a constant;
              the ratio is 1 at the θ that collected, and its derivative is that of log π(1|A)
    so        dL/dγ = [−½ Â_A (1 − p') ½ α (1 − p) + w_v' (w_A' − Ḡ_A) α w_v / unit⁴] ∂A_A/∂γ
              ∂A_A/∂γ = w_B + λ (R − w_B),   ∂A_A/∂λ = γ (R − w_B)

    since A_B and w_B' depend on neither. u' is u after the outer critic's own step, of the same form at γ', λ', and
    with α_0 where α moves with θ. And dγ/dρ = κ γ (1 − γ).
    """
    agent, tuning = chain_agent(), inner.tuning(START)
    rule = inner.self_tuning(agent, tuning)
    fast = rule.fresh(ActorCriticParams(policy=jnp.array(X), critic=Critics(tuned=jnp.array(W), outer=jnp.array(U))))
    theta = tuning.init() | {"learning_rate": jnp.array(0.05), "discount": jnp.array(0.02)}
    stages = lived(agent, rule, theta, fast, [chain_episode(), chain_episode()])
    loss, parts = outer.validation(agent, tuning), make_parts(agent, rule, 1)
    judged = jax.grad(lambda theta: loss(theta, outer.replay(parts, theta, stages, fast)), has_aux=True)
    gradient, metrics = jax.jit(judged)(theta)
    for told, value in tuning.read(theta)._asdict().items():
        np.testing.assert_allclose(metrics[told], value, rtol=1e-12)

    now = tuning.read(theta)
    gamma, lam, entropy_weight, weight, alpha = map(float, now)

    def advantage(v, gamma, lam):
        return np.array([gamma * v[1] - v[0] + gamma * lam * (REWARD - v[1]), REWARD - v[1]])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    a = advantage(W, gamma, lam)
    p = sigmoid(X)
    p_after = sigmoid(X + 0.5 * alpha * (1 - p) * (a[0] - entropy_weight * X * p))
    w_after = np.array(W) + alpha * weight * a / UNIT**2
    u_after = np.array(U) + START.learning_rate * START.value_weight * advantage(U, OUTER_GAMMA, OUTER_LAMBDA) / UNIT**2
    outer_advantage = advantage(u_after, OUTER_GAMMA, OUTER_LAMBDA)[0]
    target = gamma * w_after[1] + gamma * lam * (REWARD - w_after[1])
    by_advantage = -0.5 * outer_advantage * (1 - p_after) * 0.5 * alpha * (1 - p)
    by_advantage += START.value_weight * (w_after[0] - target) * alpha * weight / UNIT**4
    slope = {"discount": W[1] + lam * (REWARD - W[1]), "lambda_": gamma * (REWARD - W[1])}[name]
    value = float(getattr(now, name))
    np.testing.assert_allclose(gradient[name], by_advantage * slope * RATE_GAIN * value * (1 - value), rtol=1e-10)


# --- finite differences ----------------------------------------------------------------------------------------------


def network_agent(normalized, weight=0.0):
    """Of a small Gaussian policy; the outer loss without the critic's term, whose target holds θ fixed, at weight 0."""
    env = toys.walk(9)
    policy = mrl.policies.gaussian_mlp(3, 2, hidden=(5,))
    critic = inner.value_network(3, env.horizon, hidden=(5,), scale=UNIT, timed=False, residual=False)
    fixed = START._replace(discount=OUTER_GAMMA, lambda_=OUTER_LAMBDA, value_weight=weight)
    return ActorCritic(with_critics(policy, critic), critic, fixed, UNIT, normalized)


def network_window(agent, optimizer, steps):
    tuning = inner.tuning(START)
    rule = inner.self_tuning(agent, tuning, optimizer)
    theta = {name: jnp.asarray(0.02 * (index - 1)) for index, name in enumerate(inner.HYPERPARAMETERS)}
    fast = rule.fresh(agent.policy.init(jax.random.key(3)))
    data = [random_trajectory(seed) for seed in range(steps + 1)]
    stages = jax.jit(lambda fast: lived(agent, rule, theta, fast, data))(fast)
    parts = make_parts(agent, rule, steps, 12, 9)
    return tuning, rule, theta, lambda theta: outer.replay(parts, theta, stages, fast)


def central_differences(function, theta, step=1e-5):
    slopes = {}
    for name, value in theta.items():
        values = [function(theta | {name: value + sign * step}) for sign in (1, -1)]
        slopes[name] = (values[0] - values[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize(
    ("normalized", "optimizer"), [(True, "adam"), pytest.param(False, "sgd", marks=pytest.mark.slow)]
)
def test_all_five_against_finite_differences(normalized, optimizer):
    agent = network_agent(normalized)
    tuning, _, theta, replay = network_window(agent, optimizer, steps=2)
    loss = outer.validation(agent, tuning)
    of_theta = jax.jit(lambda theta: loss(theta, replay(theta))[0])
    gradient, expected = jax.jit(jax.grad(of_theta))(theta), central_differences(of_theta, theta)
    assert gradient.keys() == set(inner.HYPERPARAMETERS)
    for name, slope in gradient.items():
        assert abs(slope) > 1e-7, name
        np.testing.assert_allclose(slope, expected[name], rtol=1e-5, atol=1e-9, err_msg=name)


@pytest.mark.thorough
def test_the_bootstrapped_target_is_where_the_agent_would_be():
    """Beside the library's, a target of explicit steps that is a constant, and a distance written out here.

    The two gradients agree only if the target carries none.
    """
    agent = network_agent(normalized=True, weight=0.6)
    tuning, rule, theta, replay = network_window(agent, "sgd", steps=2)
    path = jax.jit(replay)(theta)
    newest = jax.tree.map(lambda leaf: leaf[-1], path.data)
    validation = outer.validation(agent, tuning)

    def one_stage(params):
        params, data = jax.tree.map(lambda leaf: leaf[None], (params, newest))
        return validation(theta, mrl.types.Path(params=params, data=data, burn_in=0))[0]

    def ahead(params):
        fast = rule.fresh(params)
        for _ in range(2):
            fast = rule.adapter.learn(theta, fast, newest.trajectory, newest.advantage)
        return rule.descend(theta, fast, jax.grad(one_stage)(fast.params)).params

    target = jax.jit(ahead)(jax.tree.map(lambda leaf: leaf[-1], path.params))
    observation, valid = newest.trajectory.observation, newest.trajectory.valid

    def seen(function):
        return jax.vmap(jax.vmap(function))(observation)

    def distance(theta):
        params = jax.tree.map(lambda leaf: leaf[-1], replay(theta).params)
        kl = seen(lambda o: agent.policy.apply(target, o).kl(agent.policy.apply(params, o)))
        values = [agent.critic.values(phi.critic.tuned, newest.trajectory, 1.0)[0] for phi in (target, params)]
        return ((kl + 0.6 * ((values[0] - values[1]) / UNIT) ** 2) * valid).sum() / valid.size

    bootstrapped = outer.bootstrapped(agent, tuning, rule, 3)
    value, gradient = jax.jit(jax.value_and_grad(lambda theta: bootstrapped(theta, replay(theta))[0]))(theta)
    distance = jax.jit(distance)
    np.testing.assert_allclose(value, distance(theta), rtol=1e-10)
    expected = central_differences(distance, theta)
    for name, slope in gradient.items():
        assert abs(slope) > 1e-9, name
        np.testing.assert_allclose(slope, expected[name], rtol=1e-4, atol=1e-10, err_msg=name)
