"""A trial as one sequence: its steps, what counts, where backpropagation is cut, minibatches of whole trials."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.base import MetaObjective
from metarl_jax.outer.trials import Replayed, Weights
from metarl_jax.types import Trajectory
from tests import toys

# Two episodes of at most three steps; the first ends after two.
VALID = np.array([[1, 1, 0], [1, 1, 1]], bool)
REWARD = np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]])
ACTION = np.array([[0.1, 0.2, 0.1], [0.3, 0.4, 0.5]])


def two_episodes():
    observation = np.arange(6.0).reshape(2, 3, 1)
    return Trajectory(
        observation=jnp.asarray(observation),
        action=jnp.asarray(ACTION)[..., None],
        log_prob=jnp.asarray(-ACTION),
        reward=jnp.asarray(REWARD),
        discount=jnp.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
        truncated=jnp.zeros((2, 3), bool),
        valid=jnp.asarray(VALID),
        next_observation=jnp.asarray(observation + 1),
    )


@pytest.mark.parametrize("burn_in", [0, 1])
def test_the_steps_follow_each_other_without_gaps(burn_in):
    sequence = outer.as_sequence(toys.walk(), two_episodes(), burn_in)
    one = jax.tree.map(lambda leaf: np.asarray(leaf[0]), sequence.trajectory)
    np.testing.assert_array_equal(one.valid, [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(one.observation[:5, 0], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(one.next_observation[:5, 0], [1, 3, 4, 5, 6])  # a user's estimator reads V there
    np.testing.assert_array_equal(one.discount, 1)
    np.testing.assert_array_equal(sequence.percept.start[:5], [1, 0, 1, 0, 0])
    np.testing.assert_allclose(sequence.percept.action[:5, 0], [0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(sequence.percept.reward[:5], [0, 1, 2, 3, 4])
    counted = [1, 1, 1, 1, 1, 0] if burn_in == 0 else [0, 0, 1, 1, 1, 0]
    np.testing.assert_array_equal(sequence.counted, counted)
    np.testing.assert_allclose(one.reward, np.array([1, 2, 3, 4, 5, 0]) * counted)


def test_returns_go_on_through_the_ends_of_episodes():
    """With K = 1 the first episode's actions are credited with the second's rewards, and with nothing else."""
    sequence = outer.as_sequence(toys.walk(), two_episodes(), 1)
    g = 0.5
    tail = [3 + 4 * g + 5 * g**2, 4 + 5 * g, 5]
    expected = [tail[0] * g**2, tail[0] * g, *tail, 0]
    np.testing.assert_allclose(mrl.inner.reward_to_go(sequence.trajectory, g)[0], expected)


@pytest.mark.parametrize("average", ["horizon", "valid"])
def test_the_loss_in_numpy(average):
    random = np.random.default_rng(0)
    advantage, target, log_prob, entropy, value = random.normal(size=(5, 6))
    # The last episode counts, and takes all of its three steps; of six in all, five are taken.
    counted, steps = {"horizon": (3, 6), "valid": (3, 5)}[average]
    sequence = outer.as_sequence(toys.walk(), two_episodes().replace(average=average), 1)
    sequence = dataclasses.replace(sequence, advantage=jnp.asarray(advantage), target=jnp.asarray(target))
    replayed = Replayed(jnp.asarray(log_prob), jnp.asarray(entropy), jnp.asarray(value))
    loss, metrics = outer.trial_loss(sequence, replayed, Weights(clip=0.2, entropy=0.3, value=0.7), scale=2.0)
    valid = np.arange(6) < 5
    ratio = np.exp(log_prob - np.asarray(sequence.trajectory.log_prob[0]))[valid]
    gain = np.minimum(ratio * advantage[valid], np.clip(ratio, 0.8, 1.2) * advantage[valid])
    error = ((value - target / 2)[valid] ** 2).sum() / steps
    expected = -gain.sum() / counted - 0.3 * entropy[valid].sum() / steps + 0.7 * error
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(
        [metrics["ratio_min"], metrics["ratio_max"]], [min(*ratio, 1), max(*ratio, 1)], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("value", "error", "slope"),
    [
        # The data's θ said 1 and 3 is wanted; a value may come 0.5 nearer for the loss to see it.
        (1.2, (1.2 - 3) ** 2, 2 * (1.2 - 3)),
        (1.7, (1.5 - 3) ** 2, 0.0),  # came further, and is held to 1.5
        (5.0, (5.0 - 3) ** 2, 2 * (5.0 - 3)),  # beyond what is wanted, where the true error is the larger one
        (-2.0, (-2.0 - 3) ** 2, 2 * (-2.0 - 3)),  # went the wrong way, and is called back
    ],
)
def test_a_value_gains_nothing_by_moving_beyond_its_range(value, error, slope):
    sequence = outer.as_sequence(toys.walk(), two_episodes(), 0)
    sequence = dataclasses.replace(sequence, value=jnp.ones(6), target=jnp.full(6, 6.0))
    zeros, valid = jnp.zeros(6), np.arange(6) < 5

    def loss(value, clip=0.5):
        return outer.trial_loss(sequence, Replayed(zeros, zeros, value), Weights(0.2, 0.0, 1.0, clip), scale=2.0)[0]

    found, gradient = jax.value_and_grad(loss)(jnp.full(6, value))
    np.testing.assert_allclose(found, 5 / 6 * error, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope / 6 * valid, rtol=1e-5)
    np.testing.assert_allclose(loss(jnp.full(6, value), 100.0), loss(jnp.full(6, value), None), rtol=1e-6)


@pytest.mark.parametrize(("burn_in", "counted"), [(0, {"horizon": 6, "valid": 5}), (1, {"horizon": 3, "valid": 3})])
@pytest.mark.parametrize("average", ["horizon", "valid"])
def test_the_room_of_a_trial_is_that_of_its_sound_episodes(average, burn_in, counted):
    trajectory = two_episodes().replace(average=average)
    whole = {"horizon": 6, "valid": 5}[average]
    np.testing.assert_array_equal(outer.as_sequence(toys.walk(), trajectory, burn_in).room, [whole, counted[average]])
    void = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), trajectory)
    void = void.replace(valid=void.valid.at[2].set(False))
    np.testing.assert_array_equal(outer.as_sequence(toys.walk(), void, burn_in).room, [whole, counted[average]])


def test_a_trial_whose_counted_episodes_are_void_has_nothing_to_gain():
    trajectory = two_episodes()
    trajectory = trajectory.replace(valid=trajectory.valid.at[1].set(False))
    sequence = outer.as_sequence(toys.walk(), trajectory, 1)
    sequence = dataclasses.replace(sequence, advantage=jnp.ones(6))
    zeros = jnp.zeros(6)
    loss, _ = outer.trial_loss(sequence, Replayed(zeros, zeros, zeros), Weights(0.2, 0.0, 0.0), scale=1.0)
    assert loss == 0


def test_discounted_to_the_start_of_every_episode():
    sequence = outer.as_sequence(toys.walk(), two_episodes(), 0, discount=0.5)
    np.testing.assert_allclose(sequence.trajectory.reward[0], [1, 2 * 0.5, 3, 4 * 0.5, 5 * 0.25, 0])
    np.testing.assert_allclose(sequence.percept.reward[:5], [0, 1, 2, 3, 4])  # the memory sees what was paid


def test_normalised_over_all_tasks_together():
    advantage = jnp.array([[1.0, 2.0, 9.0], [3.0, 6.0, 7.0]])
    valid = jnp.array([[True, True, False], [True, True, False]])
    target = jnp.array([[-50.0, 40.0, 999.0], [1.0, 2.0, 999.0]])
    found = np.asarray(outer.normalize_over_tasks(advantage, target, valid))
    values = np.array([1.0, 2, 3, 6])
    np.testing.assert_allclose(found[:, :2].ravel(), (values - 3) / (values.std() + 0.5), rtol=1e-5)
    np.testing.assert_array_equal(found[:, 2], 0)


def test_what_is_left_where_nothing_can_be_gained_stays_small():
    """Errors of 1e-4 in values of size 1 are no advantages of size 1."""
    advantage = 1e-4 * jax.random.normal(jax.random.key(0), (4, 50))
    found = outer.normalize_over_tasks(advantage, jnp.ones((4, 50)), jnp.ones((4, 50), bool))
    assert np.abs(found).max() < 0.05


def total_log_prob(bptt, remat=False):
    """d/dθ Σ log π along a trial, with the memory cut after `bptt` steps."""
    env = toys.walk()
    policy = mrl.policies.gru(env, memory_size=3)
    theta = policy.init(jax.random.key(1))
    sequence = outer.as_sequence(env, two_episodes(), 0)
    return jax.jit(jax.grad(lambda t: outer.replay_sequence(policy, t, sequence, bptt, remat).log_prob.sum()))(theta)


def test_backpropagation_is_cut_where_it_is_asked_for():
    with jax.enable_x64():
        full = total_log_prob(None)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), total_log_prob(6), full)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), total_log_prob(None, True), full
        )
        # By hand: the memories before every second step are data, and each piece starts from them.
        env = toys.walk()
        policy = mrl.policies.gru(env, memory_size=3)
        theta = policy.init(jax.random.key(1))
        sequence = outer.as_sequence(env, two_episodes(), 0)

        def step(theta, memory, t):
            percept = jax.tree.map(lambda leaf: leaf[t], sequence.percept)
            memory = policy.remember(theta, memory, percept)
            action = sequence.trajectory.action[0, t]
            return memory, policy.act(theta, memory, percept.observation)[0].log_prob(action)

        starts = [policy.start(theta)]
        for t in range(6):
            starts.append(jax.jit(step)(theta, starts[-1], t)[0])

        def of_piece(theta, first):
            memory, first_log_prob = step(theta, starts[first], first)
            return first_log_prob + step(theta, memory, first + 1)[1]

        expected = jax.jit(jax.grad(lambda t: sum(of_piece(t, first) for first in (0, 2, 4))))(theta)
        found = total_log_prob(2)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)
        hidden = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (found, full)), strict=True)]
        assert max(hidden) > 1e-4, "the cut makes a difference"


def test_a_learned_start_keeps_its_gradient_where_the_memory_is_cut():
    """A cut as late as the trial is long is none; where the trial begins there is no memory to cut."""
    env = toys.walk()
    gru = mrl.policies.gru(env, memory_size=3)
    policy = gru._replace(start=lambda theta: theta["start"])
    theta = gru.init(jax.random.key(1)) | {"start": jnp.full(3, 0.3)}
    sequence = outer.as_sequence(env, two_episodes(), 0)

    def gradient(bptt):
        loss = jax.jit(jax.grad(lambda t: outer.replay_sequence(policy, t, sequence, bptt).log_prob.sum()))
        return loss(theta)["start"]

    full = gradient(None)
    assert (np.abs(full) > 1e-4).all()
    np.testing.assert_allclose(gradient(6), full, rtol=1e-6)


def test_minibatches_are_steps_on_some_of_the_tasks_in_turn():
    data = jnp.array([1.0, 10.0, 3.0, 30.0])
    objective = MetaObjective(lambda theta, part: (((theta - part) ** 2).mean(), {}), None)
    optimizer = outer.gradient_steps(optax.sgd(0.1), epochs=2, minibatches=2)
    theta, _, _ = optimizer.update(objective, jnp.array(0.0), optimizer.init(jnp.array(0.0)), data)
    expected = 0.0
    for _ in range(2):
        for mean in (2.0, 20.0):  # of tasks 0 and 2, then of tasks 1 and 3
            expected -= 0.1 * 2 * (expected - mean)
    np.testing.assert_allclose(theta, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="minibatches is 3, which must divide the 4 tasks"):
        outer.gradient_steps(optax.sgd(0.1), minibatches=3).update(objective, jnp.array(0.0), optax.EmptyState(), data)
