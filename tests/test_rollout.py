"""Episodes of a deterministic counter, whose every entry is known."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import metarl_jax as mrl
from metarl_jax.policies import likelihood
from metarl_jax.rollout import rollout, unroll, waiting
from tests import toys


@struct.dataclass
class Counter:
    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    key: jax.Array


def counter(horizon=6):
    """The observation counts steps from the start drawn by the key; the task is (terminate at, truncate at)."""

    def step(task, state, action):
        count = state.observation + 1
        noise = jax.random.normal(state.key)
        reward = count[0] + 0 * noise
        return Counter(count, reward, count[0] >= task[0], count[0] >= task[1], jax.random.fold_in(state.key, 1))

    return mrl.TaskEnv(
        sample_task=lambda key: jnp.array([99.0, 99.0]),
        # Weakly typed Python scalars and a typed key in the state, as users write them.
        reset=lambda key, task: Counter(jnp.zeros(1), 0.0, False, False, key),
        step=step,
        observation_size=1,
        action_size=1,
        horizon=horizon,
    )


POLICY = mrl.Policy(
    init=lambda key: jnp.zeros(()),
    apply=lambda params, observation: mrl.policies.DiagonalGaussian(params + observation, jnp.zeros(1)),
)


def roll(terminate, truncate, horizon=6, episodes=2, key=0):
    task = jnp.array([terminate, truncate])
    return jax.jit(lambda key: rollout(key, counter(), POLICY, jnp.zeros(()), task, episodes, horizon))(
        jax.random.key(key)
    )


def test_full_episode():
    data = roll(99.0, 99.0)
    np.testing.assert_array_equal(data.observation[0, :, 0], np.arange(6))
    np.testing.assert_array_equal(data.reward[0], np.arange(1, 7))
    assert data.valid.all()
    assert not data.truncated.any()
    assert (data.discount == 1).all(), "the horizon is not a termination"
    np.testing.assert_array_equal(data.next_observation[0, :, 0], np.arange(1, 7))


def test_terminated_episode():
    data = roll(3.0, 99.0)
    np.testing.assert_array_equal(data.valid[0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(data.reward[0], [1, 2, 3, 0, 0, 0])
    np.testing.assert_array_equal(data.discount[0, :3], [1, 1, 0])
    assert not data.truncated.any()
    assert data.next_observation[0, 2, 0] == 3


def test_truncated_episode():
    data = roll(99.0, 4.0)
    np.testing.assert_array_equal(data.valid[0], [1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(data.truncated[0, :4], [0, 0, 0, 1])
    assert (data.discount[0, :4] == 1).all()
    assert data.next_observation[0, 3, 0] == 4


def test_termination_wins_over_truncation_in_the_same_step():
    data = roll(3.0, 3.0)
    assert not data.truncated.any()
    assert data.discount[0, 2] == 0


def test_padding_repeats_the_first_step():
    data = roll(2.0, 99.0)
    for leaf in (data.observation, data.action, data.log_prob, data.next_observation):
        np.testing.assert_array_equal(leaf[:, 2:], np.broadcast_to(leaf[:, :1], leaf[:, 2:].shape))


def test_log_prob_and_kl_are_the_behaviors():
    data = roll(99.0, 99.0)
    params = jnp.zeros(())
    np.testing.assert_allclose(likelihood.log_prob(POLICY, params, data), data.log_prob, rtol=1e-6)
    np.testing.assert_allclose(likelihood.kl_from_behavior(POLICY, params, params, data), 0, atol=1e-6)
    np.testing.assert_allclose(likelihood.kl_from_behavior(POLICY, params + 2, params, data), 2.0, rtol=1e-5)


def test_episodes_differ_and_do_not_depend_on_their_number():
    few, many = roll(99.0, 99.0, episodes=2), roll(99.0, 99.0, episodes=5)
    np.testing.assert_array_equal(few.action, many.action[:2])
    assert len(np.unique(many.action[:, 0, 0])) == 5


def test_no_gradient_flows_through_the_environment():
    def total(params):
        task = jnp.array([99.0, 99.0])
        data = rollout(jax.random.key(0), counter(), POLICY, params, task, 2, 6)
        return data.action.sum() + data.log_prob.sum() + data.observation.sum()

    assert jax.jit(jax.grad(total))(jnp.array(1.0)) == 0


class PlainLaplace:
    """A user's distribution that knows nothing of pytrees."""

    def __init__(self, center, kind="laplace"):
        self.center, self.kind = center, kind

    def sample(self, key):
        return self.center + jax.random.laplace(key, self.center.shape)

    def log_prob(self, action):
        return -jnp.abs(action - self.center).sum(-1) - jnp.log(2.0)

    def entropy(self):
        return jnp.full(self.center.shape[:-1], 1 + jnp.log(2.0))

    def kl(self, other):
        distance = jnp.abs(self.center - other.center)
        return (distance + jnp.exp(-distance) - 1).sum(-1)


# anil and cavia ask a policy for labels; es-maml learns nothing where returns do not depend on θ, as here.
@pytest.mark.parametrize(
    "name",
    [
        case
        for case in toys.every_algorithm(["maml", "maml-trpo", "reptile"])
        if case.values[0] not in ("anil", "cavia", "es-maml", *toys.NO_STEP_FROM_THETA)
    ],
)
def test_a_plain_python_distribution_serves_every_algorithm(name):
    policy = mrl.Policy(
        init=lambda key: jnp.zeros(1), apply=lambda params, observation: PlainLaplace(params + 0 * observation)
    )
    algorithm = mrl.algorithms.make(name, counter(), policy=policy, tasks=2, episodes=3, advantage="returns")
    state, metrics = jax.jit(algorithm.update)(jax.random.key(0), algorithm.init(jax.random.key(1)))
    assert np.isfinite(metrics["loss"])
    assert (mrl.inner.policy_of(state.params) != 0).all()


def one_step_env(start, following, observation_size=1):
    """An environment of one kind of state at reset and another after a step."""
    return mrl.TaskEnv(
        sample_task=lambda key: jnp.zeros(()),
        reset=lambda key, task: start,
        step=lambda task, state, action: following,
        observation_size=observation_size,
        action_size=1,
        horizon=2,
    )


@struct.dataclass
class Plain:
    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


@pytest.mark.parametrize(
    ("start", "following"),
    [
        (Plain(jnp.zeros(1), 0, False, False), Plain(jnp.zeros(1), 1.5, False, False)),
        (Plain(jnp.zeros(1), jnp.int32(0), False, False), Plain(jnp.zeros(1), jnp.float32(1.5), jnp.int8(0), 0.0)),
        (Plain(jnp.zeros(1, int), 0.0, False, False), Plain(jnp.zeros(1), 1.5, jnp.array(False), np.False_)),
    ],
)
def test_reset_and_step_may_differ_in_their_types_and_nothing_is_cut(start, following):
    env, nothing = one_step_env(start, following), jnp.zeros(())
    data = jax.jit(lambda key: rollout(key, env, POLICY, nothing, nothing, 2, 2))(jax.random.key(0))
    np.testing.assert_array_equal(data.reward, 1.5)
    assert data.valid.all()


@struct.dataclass
class Poor:
    observation: jax.Array
    reward: jax.Array


@pytest.mark.parametrize(
    ("start", "following", "message"),
    [
        (Poor(jnp.zeros(1), 0.0), Poor(jnp.zeros(1), 0.0), "reset has no field 'terminated'"),
        (Plain(jnp.zeros(1), jnp.zeros(1), False, False),) * 2 + (r"reward of reset has shape \(1,\); .* scalar",),
        (
            Plain(jnp.zeros(1), 0.0, False, False),
            Plain(jnp.zeros(2), 0.0, False, False),
            "observation of step has 2 components and observation_size is 1",
        ),
        (Plain(jnp.zeros(1), 0.0, False, False), Plain((jnp.zeros(1),), 0.0, False, False), "different structure"),
    ],
)
def test_bad_states_are_refused_in_words(start, following, message):
    with pytest.raises(ValueError, match=message):
        rollout(jax.random.key(0), one_step_env(start, following), POLICY, jnp.zeros(()), jnp.zeros(()), 2, 2)


# --- environments that go on -----------------------------------------------------------------------------------------


@functools.cache
def pieces_program(steps, count, breaks_at=None):
    sound = counter()

    def step(task, state, action):
        following = sound.step(task, state, action)
        broken = following.observation == breaks_at
        return following.replace(observation=jnp.where(broken, jnp.nan, following.observation))

    env = sound if breaks_at is None else dataclasses.replace(sound, step=step)

    @jax.jit
    def run(key, task):
        def piece(running, index):
            running, data = unroll(jax.random.fold_in(key, index), env, POLICY, jnp.zeros(()), task, running, steps)
            return running, (running, data)

        start = waiting(jax.random.fold_in(key, 99), env, task, 2)
        return start, jax.lax.scan(piece, start, jnp.arange(count))[1]

    return run


def pieces(steps, count, terminate=99.0, truncate=99.0, breaks_at=None):
    """`count` calls of `unroll`, each going on where the last one stopped; leaves [count, N, T, ...]."""
    return pieces_program(steps, count, breaks_at)(jax.random.key(0), jnp.array([terminate, truncate]))


def test_pieces_go_on_and_equal_one_long_episode():
    _, (running, data) = pieces(steps=2, count=3)
    assert data.valid.all()
    whole = roll(99.0, 99.0)
    for name in ("observation", "reward", "next_observation", "discount", "valid"):
        joined = np.moveaxis(np.asarray(getattr(data, name)), 0, 1)
        joined = joined.reshape(2, 6, *joined.shape[3:])
        np.testing.assert_array_equal(joined, getattr(whole, name), err_msg=name)
    np.testing.assert_array_equal(running.time, [[2, 2], [4, 4], [6, 6]])
    np.testing.assert_array_equal(running.over, [[False, False], [False, False], [True, True]])
    # A piece that its episode survives is cut at its last step, and the horizon is no cut.
    np.testing.assert_array_equal(data.truncated[:, 0], [[0, 1], [0, 1], [0, 0]])


def test_a_piece_ends_at_the_horizon_and_the_next_begins_anew():
    _, (running, data) = pieces(steps=4, count=3)
    np.testing.assert_array_equal(data.observation[:, 0, :, 0], [[0, 1, 2, 3], [4, 5, 4, 4], [0, 1, 2, 3]])
    np.testing.assert_array_equal(data.valid[:, 0], [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(data.reward[:, 0], [[1, 2, 3, 4], [5, 6, 0, 0], [1, 2, 3, 4]])
    np.testing.assert_array_equal(data.truncated[:, 0], [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]])
    assert (data.discount == 1).all()
    np.testing.assert_array_equal(running.over[:, 0], [False, True, False])


def test_a_piece_ends_with_termination_or_truncation_and_the_next_begins_anew():
    for terminate, truncate in ((3.0, 99.0), (99.0, 3.0)):
        _, (running, data) = pieces(2, 3, terminate, truncate)
        np.testing.assert_array_equal(data.observation[:, 0, :, 0], [[0, 1], [2, 2], [0, 1]])
        np.testing.assert_array_equal(data.valid[:, 0], [[1, 1], [1, 0], [1, 1]])
        ended_by_cut = truncate == 3
        # Padding repeats the first step, here the one that ended the episode.
        np.testing.assert_array_equal(data.truncated[:, 0], [[0, 1], [ended_by_cut] * 2, [0, 1]])
        np.testing.assert_array_equal(data.discount[:, 0], [[1, 1], [ended_by_cut] * 2, [1, 1]])
        np.testing.assert_array_equal(running.over[:, 0], [False, True, False])


def test_a_piece_that_ends_with_its_episode_is_not_cut():
    _, (_, data) = pieces(3, 2, terminate=3.0)
    assert not data.truncated.any()
    np.testing.assert_array_equal(data.discount[:, 0], [[1, 1, 0]] * 2)


def test_actions_and_resets_of_every_piece_are_drawn_anew():
    start, (_, data) = pieces(2, 3)
    assert start.over.all()
    assert len(np.unique(data.action)) == data.action.size
    _, (running, _) = pieces(3, 2, terminate=3.0)
    drawn = jax.random.key_data(running.state.key).reshape(4, -1)
    assert len(np.unique(np.asarray(drawn), axis=0)) == 4


def test_a_piece_that_diverges_is_void_and_its_environment_reset():
    _, (running, data) = pieces(2, 3, breaks_at=3)
    np.testing.assert_array_equal(data.valid[:, 0], [[1, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(data.void[:, 0], [False, True, False])
    np.testing.assert_array_equal(data.observation[2, 0, :, 0], [0, 1])
    assert np.isfinite(data.next_observation).all()
    assert (data.reward[1] == 0).all()
    np.testing.assert_array_equal(running.over[:, 0], [False, True, False])


def test_no_gradient_flows_through_what_goes_on():
    def total(params):
        task, env = jnp.array([99.0, 99.0]), counter()
        running = waiting(jax.random.key(0), env, task, 2)
        running, first = unroll(jax.random.key(1), env, POLICY, params, task, running, 2)
        running, second = unroll(jax.random.key(2), env, POLICY, params, task, running, 2)
        return second.action.sum() + first.log_prob.sum() + running.state.observation.sum()

    assert jax.jit(jax.grad(total))(jnp.array(1.0)) == 0
