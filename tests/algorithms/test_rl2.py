"""rl2 against the exact policy gradient of a whole trial, by enumeration, and against the Bayes optimum of a bandit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.types import Percept
from oracles import bayes_optimal
from tests import rows, toys

EPISODES, PULLS, ARMS = 2, 2, 2
# Two tasks with equal odds: which arm pays 1; the other pays 0.25.
PAYS = np.array([[1.0, 0.25], [0.25, 1.0]])


def two_bandits(pulls=1):
    """An episode is so many pulls, or ends with the first one of arm 1; its rewards tell the task."""

    def step(task, state, action):
        return toys.State(state.observation, task[action], (action == 1) | (pulls == 1), False)

    return mrl.TaskEnv(
        name="two-bandits",
        sample_task=lambda key: jnp.asarray(PAYS)[jax.random.randint(key, (), 0, 2)],
        reset=lambda key, task: toys.State(jnp.zeros(1), 0.0, False, False),
        step=step,
        observation_size=1,
        action_size=ARMS,
        discrete=True,
        horizon=pulls,
    )


def enumerated(policy, theta, burn_in, discount):
    """J(θ)/T, the mean return of a counted episode over both tasks and all sequences of pulls, in a plain loop."""
    total = 0.0
    for pays, trial in itertools.product(PAYS, itertools.product(((1,), (0, 0), (0, 1)), repeat=EPISODES)):
        memory, log_prob = policy.start(theta), 0.0
        action, reward, counted = np.zeros(ARMS), 0.0, 0.0
        for number, episode in enumerate(trial):
            for time, pull in enumerate(episode):
                percept = Percept(jnp.zeros(1), jnp.asarray(action), jnp.asarray(reward), jnp.array(time == 0))
                memory = policy.remember(theta, memory, percept)
                logits = policy.act(theta, memory, jnp.zeros(1))[0].logits
                log_prob = log_prob + jax.nn.log_softmax(logits)[pull]
                action, reward = np.eye(ARMS)[pull], pays[pull]
                counted += (number >= burn_in) * discount**time * reward
        total = total + 0.5 * jnp.exp(log_prob) * counted / (EPISODES - burn_in) / PULLS
    return total


@pytest.mark.parametrize(
    ("name", "burn_in", "discount"),
    [
        ("rl2", 1, 0.7),
        rows.thorough("rl2", 0, 1.0),
        rows.thorough("rl2-hyper", 1, 1.0),
        pytest.param("rl2", 1, 1.0, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_that_of_the_whole_trial(name, burn_in, discount):
    """Each component within 4 standard errors over 400 estimates of 200 tasks, whose episodes differ in length.

    With burn-in the uncounted rewards are in no term of J, and the pulls that earned them still have a gradient: what
    they tell about the task is what the later ones live on.
    """
    env = two_bandits(PULLS)
    with jax.enable_x64():
        options = {"memory_size": 2, "advantage": mrl.inner.returns(discount=1.0), "normalized": False}
        if discount < 1:
            options |= {"advantage": "returns", "discount": discount, "discount_states": True}
        policy = mrl.policies.gru(env, 2)
        if name == "rl2-hyper":
            options["policy"] = {"hidden": ()}
            policy = mrl.policies.hypernetwork(env, mrl.policies.mlp(env, hidden=()), 2)
        algorithm = mrl.algorithms.make(name, env, tasks=200, episodes=EPISODES, burn_in=burn_in, **options)
        # Weights of size 1, so that the memory matters; a hypernetwork's start at 0.
        theta = algorithm.init(jax.random.key(0)).params
        flat, unravel = jax.flatten_util.ravel_pytree(theta)
        theta = unravel(1.5 * jax.random.normal(jax.random.key(1), flat.shape))
        gradient = jax.jit(jax.grad(lambda t: enumerated(policy, t, burn_in, discount)))(theta)
        exact = jax.flatten_util.ravel_pytree(gradient)[0]

        def estimate(key):
            return jax.flatten_util.ravel_pytree(algorithm.gradient(key, theta)[0])[0]

        found = jax.jit(lambda keys: jax.lax.map(estimate, keys))(jax.random.split(jax.random.key(2), 400))
        mean, error = np.asarray(found.mean(0)), np.asarray(found.std(0) / np.sqrt(len(found)))
        informative = error > 0
        assert (np.abs(mean - exact) <= 4 * error + 1e-12).all()
        assert (np.abs(exact[informative]) > 10 * error[informative]).any(), "noise hides the gradient"
        if burn_in:
            memory = jax.flatten_util.ravel_pytree(unravel(exact)["memory"])[0]
            assert (np.abs(memory) > 1e-4).any(), "free pulls are credited with what they reveal"


def test_the_gradient_sees_no_reward_of_the_burn_in():
    """θ moves the first pull alone, of which nothing is remembered: with K = 1 nothing that counts depends on θ."""
    theta = jnp.array(toys.BANDIT_LOGITS)
    forgetful = mrl.RecurrentPolicy(
        init=lambda key: theta,
        start=lambda params: jnp.zeros(()),
        remember=lambda params, memory, percept: memory + 1,
        act=lambda params, memory, observation: (mrl.policies.Categorical(params * (memory == 1)), 0.0),
        params=lambda params, memory: memory,
    )

    def standardized(burn_in):
        algorithm = mrl.algorithms.make(
            "rl2", toys.bandit(), policy=forgetful, tasks=50, episodes=2, burn_in=burn_in, normalized=False,
            advantage=mrl.inner.returns(),
        )  # fmt: skip
        found = jax.jit(jax.vmap(lambda key: algorithm.gradient(key, theta)[0]))(
            jax.random.split(jax.random.key(0), 100)
        )
        return np.asarray(found.mean(0) / found.std(0) * 10)

    assert (np.abs(standardized(1)) < 4).all()
    assert np.abs(standardized(0)).max() > 10, "where the first pull counts, its gradient is plain to see"


def test_the_entropys_weight_halves():
    """The loss of iteration n with half-life n is that with half the weight, the draws being the same."""
    env = two_bandits()

    def loss(iteration, **options):
        algorithm = mrl.algorithms.make("rl2", env, tasks=4, epochs=1, minibatches=1, value_weight=0.0, **options)
        state = algorithm.init(jax.random.key(0)).replace(iteration=jnp.array(iteration))
        return jax.jit(algorithm.update)(jax.random.key(1), state)[1]["loss"]

    halved = loss(30, entropy_weight=4.0, entropy_half_life=10)
    np.testing.assert_allclose(halved, loss(0, entropy_weight=0.5), rtol=1e-6)
    assert abs(halved - loss(0, entropy_weight=4.0)) > 0.1


def test_values_are_in_the_unit_of_the_returns_that_they_learn():
    """Of "returns" γ is 1 unless told otherwise, so its values are in units of the trial's 300 pulls.

    At first V is near 0 and the mean return to go a third of the trial's at 0.6 a pull, so the error is about 0.1.
    """

    def error(**options):
        algorithm = mrl.algorithms.make("rl2", two_bandits(), tasks=4, episodes=300, memory_size=4, **options)
        theta = algorithm.init(jax.random.key(0)).params
        return jax.jit(algorithm.gradient)(jax.random.key(1), theta)[1]["critic_error"]

    found = error(advantage="returns")
    assert 0.05 < found < 0.2
    np.testing.assert_allclose(found, error(advantage="returns", discount=1.0), rtol=1e-6)
    np.testing.assert_allclose(found, error(advantage=mrl.inner.returns()), rtol=1e-6)


def test_a_longer_trial_than_trained_on():
    env = two_bandits()
    make = mrl.algorithms.make
    theta = make("rl2", env, episodes=2).init(jax.random.key(0)).params
    longer = make("rl2", env, episodes=2, adaptation_steps=4)
    out = jax.eval_shape(longer.adapt, jax.random.key(1), theta, jnp.asarray(PAYS[0]))
    assert out.returns.shape == (10, 1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rl2", pytest.param("rl2-hyper", marks=pytest.mark.slow)])
def test_two_arms_and_ten_pulls_come_within_three_percent_of_the_bayes_optimum(name):
    """The optimum is 6.02 (5.0 for a fair coin); the mean over 20,000 tasks has a standard error of 0.02."""
    env = mrl.envs.make("bernoulli-bandit", arms=2, horizon=10)
    algorithm = mrl.algorithms.make(
        name, env, tasks=200, episodes=1, memory_size=32, minibatches=4, outer_lr=3e-3, lambda_=0.95,
        policy={"hidden": ()},
    )  # fmt: skip
    state = algorithm.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 200)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, key: algorithm.update(key, s), s, keys))(state)

    def earned(key):
        task_key, key = jax.random.split(key)
        return algorithm.adapt(key, state.params, env.sample_task(task_key)).returns.sum()

    returns = jax.jit(jax.vmap(earned))(jax.random.split(jax.random.key(2), 20_000))
    optimum = bayes_optimal.bernoulli_bandit(2, 10)
    assert returns.mean() < optimum + 4 * returns.std() / np.sqrt(len(returns))
    assert returns.mean() > 0.97 * optimum


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"burn_in": 2}, r"burn_in is 2; a trial has 2 episodes, so it must lie in 0..1"),
        ({"burn_in": -1}, "burn_in is -1"),
        ({"minibatches": 3}, "minibatches is 3; it must divide the 100 tasks"),
        ({"bptt": 0}, "bptt is 0"),
        ({"average": "mean"}, "unknown average 'mean'"),
        ({"advantage": mrl.inner.returns(), "discount_states": True}, "advantage is a function, which sees the trial"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"entropy_weight": -0.1}, "entropy_weight is -0.1"),
        ({"entropy_half_life": 0}, "entropy_half_life is 0"),
        ({"value_weight": float("nan")}, "value_weight is nan"),
        ({"value_clip": 0.0}, "value_clip is 0.0"),
        ({"max_gradient_norm": 0}, "max_gradient_norm is 0"),
        ({"advantage": "gea"}, "unknown advantage 'gea'"),
        ({"advantage": "returns", "lambda_": 0.5}, "advantage 'returns' takes no lambda_"),
        ({"advantage": mrl.inner.returns(), "discount": 0.5}, "advantage is a function"),
        ({"normalized": "no"}, "normalized is 'no'"),
        ({"policy": {"hiden": (4,)}}, "'hiden': did you mean 'hidden'"),
        ({"policy": toys.gaussian_policy()}, "which has no memory.*rl2-hyper"),
        ({"memory_size": 0}, "memory_size is 0"),
        ({"inner_lr": 0.1}, "unknown option of rl2 'inner_lr'"),
        ({"credit": True}, "unknown option of rl2 'credit'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        mrl.algorithms.make("rl2", toys.walk(), **options)
    assert "\n" not in str(refusal.value)
