"""Several discrete choices at once, through every part that handles an action."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import actions
from metarl_jax.envs import State
from metarl_jax.runs.memory import bytes_of_episode
from metarl_jax.runs.pictures.show_tasks import trivial_returns
from tests import rows, toys

KEY = jax.random.key(3)
SIZES = {"tasks": 2, "episodes": 3}


def gears(horizon=4, **changes):
    """A point on a line: the first choice goes left, stays or goes right, the second says how far."""

    def step(task, state, action):
        position = state.observation + (action[0] - 1.0) * (0.1 + action[1])
        return State(position, -jnp.abs(position - task).sum(), False, False)

    env = mrl.TaskEnv(
        name="gears",
        sample_task=lambda key: jax.random.normal(key, (1,)),
        reset=lambda key, task: State(jax.random.normal(key, (1,)), 0.0, terminated=False, truncated=False),
        step=step,
        observation_size=1,
        action_size=(3, 2),
        discrete=True,
        horizon=horizon,
    )
    return dataclasses.replace(env, **changes)


def made(name, env, **options):
    return mrl.algorithms.make(name, env, policy={"hidden": (4,)}, **SIZES | options)


def test_the_contract_takes_it_and_finds_faults_in_it():
    assert mrl.envs.check(gears()) == ()
    broken = gears(
        step=lambda task, state, action: state.replace(reward=jnp.where(action[1] == 1, jnp.nan, action[0] - task[0]))
    )
    assert any("reward NaN" in fault for fault in mrl.envs.check(broken))


def test_the_vector_of_an_action_is_one_hot_per_choice():
    env = gears()
    assert (actions.shape(env), actions.vector_size(env), actions.choices(env)) == ((2,), 5, (3, 2))
    assert actions.zero_action(env).shape == (2,)
    np.testing.assert_array_equal(actions.as_vector(env, jnp.array([2, 0])), [0, 0, 1, 1, 0])
    drawn = np.asarray(actions.uniform(KEY, env, 500))
    assert [set(column) for column in drawn.T] == [{0, 1, 2}, {0, 1}]
    one = toys.bandit()
    assert (actions.shape(one), actions.vector_size(one), actions.choices(one)) == ((), 3, (3,))
    assert (actions.shape(toys.walk()), actions.vector_size(toys.walk()), actions.choices(toys.walk())) == ((1,), 1, ())


@pytest.mark.parametrize("name", rows.by_default(mrl.algorithms.names(), ["maml", "es-maml", "rl2", "lpg"]))
def test_every_algorithm_traces(name):
    algorithm = made(name, gears(), tasks=4)
    state = jax.eval_shape(algorithm.init, KEY)
    after, _ = jax.eval_shape(algorithm.update, KEY, state)
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, state.params)
    out = jax.eval_shape(lambda theta: algorithm.adapt(KEY, theta, jnp.zeros(1), deterministic=True), state.params)
    action = out.trajectory.action
    assert action.shape == (*out.trajectory.reward.shape, 2)
    assert jnp.issubdtype(action.dtype, jnp.integer)


@pytest.mark.parametrize("name", ["rl2", rows.thorough("promp"), rows.thorough("maml")])
def test_one_choice_in_a_tuple_is_the_choice_bit_for_bit(name):
    """The same network, draws, likelihoods and inputs of a memory, so the same θ after an update."""
    single = toys.bandit()
    alone = dataclasses.replace(
        single, action_size=(3,), step=lambda task, state, action: single.step(task, state, action[0])
    )
    results = []
    for env in (single, alone):
        algorithm = made(name, env)
        results.append(jax.jit(algorithm.update)(KEY, algorithm.init(KEY)))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(one, other)


def test_both_choices_are_learned():
    """Right and far is best, by 1.1 a step, against 0.1 of near, 0 of stay and less of left."""
    best = gears(
        step=lambda task, state, action: state.replace(reward=(action[0] - 1.0) * (0.1 + action[1]) + 0 * task[0])
    )
    algorithm = made("pretrain", best, tasks=20, episodes=20, outer_lr=0.05)
    update, state = jax.jit(algorithm.update), algorithm.init(KEY)
    for key in jax.random.split(KEY, 40):
        state, _ = update(key, state)
    distribution = algorithm.policy.apply(state.params, jnp.zeros(1))
    np.testing.assert_array_equal(distribution.mode(), [2, 1])
    assert all(jax.nn.softmax(choice.logits).max() > 0.8 for choice in distribution.choices)


@pytest.mark.parametrize("name", ["maml", "rl2"])
def test_a_learner_outside_acts_and_learns_as_adapt_does(name):
    env = gears()
    algorithm = made(name, env, adaptation_steps=1)
    theta, task = algorithm.init(KEY).params, env.sample_task(KEY)
    expected = jax.jit(algorithm.adapt)(KEY, theta, task)
    learner = mrl.Learner(algorithm, theta)
    data = jax.tree.map(np.asarray, expected.trajectory)
    for stage, rewards in enumerate(data.reward):
        for at in np.ndindex(rewards.shape):
            proposed = learner.act(data.observation[(stage, *at)])
            assert proposed.shape == (2,)
            learner.observe(rewards[at], action=data.action[(stage, *at)])
        if name == "maml" and stage == 0:
            learner.learn()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), learner.params, expected.params)
    learner.reset()
    learner.act(np.zeros(1, np.float32))
    for action, message in (
        ([2, 2], r"action is \[2, 2\]; it must lie in 0..\[2, 1\]"),
        ([-1, 0], "must lie in"),
        (2, "action has shape"),
        ([0.5, 0], "it must be of dtype int32"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.observe(0.0, action=action)


def test_what_counts_and_shows_environments_takes_it():
    env = gears()
    assert bytes_of_episode(env, 5) == 5 * (1 + 2 + 3) * 4
    returns = trivial_returns(KEY, env, jax.vmap(env.sample_task)(jax.random.split(KEY, 3)), action_std=1.0, episodes=4)
    assert np.isfinite(returns["random"]).all()
    # Action 0 goes left by 0.1 a step.
    assert np.isfinite(returns["zero"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_size": ()}, r"action_size of the environment 'gears' is \(\); .*a tuple of them, one for each"),
        ({"action_size": [3, 2]}, r"action_size .* is \[3, 2\]; it must be an integer .*, or a tuple of them"),
        ({"action_size": (3, 0)}, "an entry of action_size .*'gears' is 0; it must be an integer of at least 1"),
        ({"action_size": (3, 2.0)}, "an entry of action_size .* is 2.0"),
        ({"action_size": (3, 2), "discrete": False}, r"action_size .* is \(3, 2\); it must be an integer"),
        ({"action_size": "32"}, "action_size .* is '32'"),
    ],
)
def test_sizes_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as refusal:
        gears(**changes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (mrl.policies.Categorical(jnp.zeros(6)), r"samples int32\[\]; .* it must be int\[2\], one entry for each of"),
        (mrl.policies.MultiCategorical(jnp.zeros(6), (3, 2, 1)), r"samples int32\[3\]; actions are discrete"),
        (mrl.policies.DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)), r"samples float32\[2\]; actions are discrete"),
        (mrl.policies.MultiCategorical(jnp.zeros(4), (3, 2)), "logits has 4 components and sizes .* has the sum 5"),
    ],
)
def test_a_policy_of_other_actions_is_refused(distribution, message):
    policy = mrl.Policy(lambda key: jnp.zeros(1), lambda phi, _: distribution)
    algorithm = mrl.algorithms.make("maml", gears(), policy=policy, **SIZES)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(algorithm.update, KEY, jax.eval_shape(algorithm.init, KEY))


def test_the_policy_has_options_of_a_categorical_one():
    assert mrl.policies.mlp(gears(), hidden=(3,), context_size=2).init(KEY)["context"].shape == (2,)
    with pytest.raises(ValueError, match="discrete actions, so its policy is categorical and takes no min_std"):
        mrl.policies.mlp(gears(), min_std=0.1)
    with pytest.raises(ValueError, match="an entry of sizes is 0"):
        mrl.policies.multi_categorical_mlp(1, (3, 0))
