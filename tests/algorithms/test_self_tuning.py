"""Self-tuning as a whole: without tuning it is a plain actor-critic, and its life goes on across updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from tests import toys

STARTS = {"discount": 0.9, "lambda_": 0.8, "entropy_weight": 0.05, "value_weight": 0.7, "inner_lr": 0.2}
SIZES = {"episodes": 4, "horizon": 4, "policy": {"hidden": (4,)}}


def returns(trajectory, values, following, gamma, lam):
    """λ-returns by a loop over every row: G_t = r_t + γ d_t ((1 − λ) V(s_{t+1}) + λ G_{t+1}), bootstrapped at a cut."""
    result = np.zeros(values.shape)
    for n, length in enumerate(trajectory.valid.sum(1)):
        after = following[n, length - 1] if trajectory.truncated[n, length - 1] else 0.0
        for t in reversed(range(length)):
            mixed = after if t == length - 1 else (1 - lam) * following[n, t] + lam * after
            after = result[n, t] = trajectory.reward[n, t] + gamma * trajectory.discount[n, t] * mixed
    return result


def actor_critic_step(policy, critic, params, trajectory, unit, outer_gamma, outer_lambda):
    """One step of gradient descent, written from its definition."""
    valid = np.asarray(trajectory.valid)
    gamma, lam = STARTS["discount"], STARTS["lambda_"]

    def target(w, gamma, lam):
        values, following = (np.asarray(v) for v in critic.values(w, trajectory, gamma))
        goal = returns(trajectory, values, following, gamma, lam)
        return goal, goal - values

    goal, advantage = target(params.critic.tuned, gamma, lam)
    outer_goal, _ = target(params.critic.outer, outer_gamma, outer_lambda)
    advantage = (advantage - advantage[valid].mean()) / advantage[valid].std()

    def loss(phi):
        total = 0.0
        for n, t in np.argwhere(valid):
            distribution = policy.apply(phi.policy, trajectory.observation[n, t])
            total -= distribution.log_prob(trajectory.action[n, t]) * advantage[n, t]
            total -= STARTS["entropy_weight"] * distribution.entropy()
        for name, wanted in (("tuned", goal), ("outer", outer_goal)):
            values, _ = critic.values(getattr(phi.critic, name), trajectory, gamma)
            total += STARTS["value_weight"] * (jnp.where(valid, values - wanted, 0) ** 2).sum() / unit**2
        return total / valid.size

    return jax.tree.map(lambda p, g: p - STARTS["inner_lr"] * g, params, jax.jit(jax.grad(loss))(params))


@pytest.mark.thorough
def test_without_tuning_it_is_an_actor_critic():
    """Every update takes the plain step from what was collected last; a newborn has nothing to learn from yet."""
    with jax.enable_x64():
        env = toys.walk(6)
        algorithm = mrl.algorithms.make("self-tuning", env, tuned=(), **STARTS, **SIZES)
        policy = mrl.policies.mlp(env, hidden=(4,))
        critic = mrl.inner.value_network(1, env.horizon, timed=False, residual=False)
        update, state = jax.jit(algorithm.update), jax.jit(algorithm.init)(jax.random.key(0))
        before = jax.tree.map(lambda leaf: leaf[0], state.opt_state.population)
        metrics = {}
        for index in range(3):
            state, metrics = update(jax.random.key(index), state)
            after = jax.tree.map(lambda leaf: leaf[0], state.opt_state.population)
            expected = before.fast.params
            if index > 0:
                trajectory = before.newest.trajectory
                expected = actor_critic_step(policy, critic, expected, trajectory, env.horizon, 0.99, 0.95)
            found = after.fast.params
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), found, expected)
            before = after
        assert state.params == {}
        told = {name: float(metrics["learning_rate" if name == "inner_lr" else name]) for name in STARTS}
        assert told == STARTS


def test_an_agent_without_tuning_is_evaluated():
    """θ holds nothing, so it is not that of several seeds either."""
    env = toys.walk(6)
    algorithm = mrl.algorithms.make("self-tuning", env, tuned=(), **SIZES)
    params = algorithm.init(jax.random.key(0)).params
    out = algorithm.adapt(jax.random.key(1), params, env.sample_task(jax.random.key(2)), steps=1)
    rows = mrl.evaluation.evaluate(algorithm, env, jax.random.key(3), params, num_tasks=2, steps=1)
    assert np.isfinite(out.returns).all()
    assert rows["adapted"].per_task.shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit": True}, "credit is True, and self-tuning has"),
        ({"surrogate": "dice"}, "surrogate is 'dice', and self-tuning has"),
        ({"baseline": "zero"}, "baseline is 'zero'"),
        ({"tuned": ("gamma",)}, "unknown hyperparameter in tuned 'gamma'"),
        ({"outer_discount": 1.5}, "outer_discount is 1.5"),
        ({"outer_lambda": -0.1}, "outer_lambda is -0.1"),
        ({"inner_lr": 0.0}, "inner_lr is 0.0"),
        ({"inner_lr": (0.1, 0.2)}, r"inner_lr is \(0.1, 0.2\)"),
        ({"inner_optimizer": "curvature"}, "inner_optimizer is 'curvature'"),
        ({"adaptation_steps": 0}, "adaptation_steps is 0.*take at least one"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"return_scale": 0.0}, "return_scale is 0.0"),
        ({"normalized": "yes"}, "normalized is 'yes'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        mrl.algorithms.make("self-tuning", toys.walk(), **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_window_of_one_update_tells_of_theta():
    """Newborn agents have nothing to learn from yet, so the gradient is of the window after their first."""
    algorithm = mrl.algorithms.make("self-tuning", toys.walk(6), adaptation_steps=1, **SIZES)
    gradient, _ = jax.jit(algorithm.gradient)(jax.random.key(1), algorithm.init(jax.random.key(0)).params)
    assert all(value != 0 for value in gradient.values())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"bootstrap": 2, "inner_optimizer": "adam", "adaptation_steps": 2}])
def test_one_life_on_brax(options):
    env = mrl.envs.make("reacher-goal", backend="spring", horizon=10)
    env = mrl.envs.fix_task(env, env.sample_task(jax.random.key(0)))
    algorithm = mrl.algorithms.make("self-tuning", env, **SIZES, **options)
    state, update = algorithm.init(jax.random.key(0)), jax.jit(algorithm.update)
    metrics = {}
    for index in range(3):
        state, metrics = update(jax.random.key(index), state)
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert all(value != 0 for value in state.params.values())


def test_without_a_burn_in_only_the_last_stage_of_a_window_counts():
    """None means L, as for all others, and 1 is the default."""
    env = toys.walk(6)

    def gradient(**burn_in):
        algorithm = mrl.algorithms.make("self-tuning", env, adaptation_steps=2, **STARTS, **SIZES, **burn_in)
        theta = algorithm.init(jax.random.key(0)).params
        return jax.jit(algorithm.gradient)(jax.random.key(1), theta)[0]

    last, none, default, first = (
        gradient(**given) for given in ({"burn_in": 2}, {"burn_in": None}, {}, {"burn_in": 1})
    )
    jax.tree.map(np.testing.assert_array_equal, none, last)
    jax.tree.map(np.testing.assert_array_equal, default, first)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (last, first)), strict=True))
