"""Sequential episodes with a memory: what it sees, when it is reset, and what leaves no trace in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.rollout import rollout, trial
from tests import fragile, toys

LOG = 40


def recorder(mean=0.0):
    """A policy whose memory is the list of all that it saw: [observation, action, reward, start] in rows."""

    def remember(params, memory, percept):
        count, rows = memory
        row = jnp.concatenate([percept.observation, percept.action, jnp.stack([percept.reward, percept.start])])
        return count + 1, rows.at[count].set(row)

    return mrl.RecurrentPolicy(
        init=lambda key: jnp.asarray(mean),
        start=lambda params: (0, jnp.zeros((LOG, 4))),
        remember=remember,
        act=lambda params, memory, observation: (
            mrl.policies.DiagonalGaussian(params + observation, jnp.zeros(1)),
            0.0,
        ),
        params=lambda params, memory: memory,
    )


def run(env, task, episodes, horizon, key=0, policy=None, params=0.0):
    """The memory after each episode, and D, leaves [H, T, ...]."""
    policy = recorder() if policy is None else policy

    def kept(memory, episode):
        return memory, jax.tree.map(lambda leaf: leaf[0], episode)

    call = jax.jit(lambda key: trial(key, env, policy, jnp.asarray(params), task, episodes, horizon, kept))
    last, (memories, data) = jax.tree.map(np.asarray, call(jax.random.key(key)))
    jax.tree.map(lambda after, all_: np.testing.assert_array_equal(after, all_[-1]), last, memories)
    return memories, data


def test_the_memory_sees_every_valid_step_once_in_order():
    (counts, rows), data = run(toys.walk(), jnp.zeros(1), episodes=5, horizon=6)
    lengths = data.valid.sum(1)
    assert (lengths < 6).any(), "episodes of this environment end early"
    np.testing.assert_array_equal(counts, np.cumsum(lengths))
    valid = data.valid.reshape(-1)
    observation, action, reward = (leaf.reshape(30, -1)[valid] for leaf in (data.observation, data.action, data.reward))
    seen = rows[-1][: counts[-1]]
    np.testing.assert_array_equal(seen[:, :1], observation)
    np.testing.assert_allclose(seen[1:, 1:2], action[:-1], rtol=1e-6)
    np.testing.assert_array_equal(seen[1:, 2:3], reward[:-1])
    np.testing.assert_array_equal(seen[0, 1:3], 0)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    np.testing.assert_array_equal(np.flatnonzero(seen[:, 3]), starts)


def test_discrete_actions_are_seen_one_hot():
    head = mrl.RecurrentPolicy(
        init=lambda key: jnp.zeros(3),
        start=lambda params: jnp.zeros((3, 3)),
        remember=lambda params, memory, percept: jnp.concatenate([memory[1:], percept.action[None]]),
        act=lambda params, memory, observation: (mrl.policies.Categorical(params), 0.0),
        params=lambda params, memory: memory,
    )
    task = jnp.array(toys.BANDIT_REWARDS)
    memories, data = run(toys.bandit(), task, episodes=4, horizon=1, policy=head, params=np.zeros(3))
    np.testing.assert_array_equal(memories[-1], np.eye(3)[data.action[:3, 0]])


def test_a_trial_of_a_policy_that_forgets_is_a_rollout():
    """The same keys give the same episodes, whatever the memory holds."""
    env, task = toys.walk(), jnp.ones(1)
    policy = mrl.Policy(
        init=lambda key: jnp.zeros(()),
        apply=lambda params, observation: mrl.policies.DiagonalGaussian(params + observation, jnp.zeros(1)),
    )
    expected = jax.jit(lambda key: rollout(key, env, policy, jnp.zeros(()), task, 5, 6))(jax.random.key(3))
    _, data = run(env, task, 5, 6, key=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), data, expected)


def test_fewer_episodes_are_the_first_ones():
    few, many = (run(toys.walk(), jnp.zeros(1), episodes, 6) for episodes in (2, 5))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), few, many)


def test_a_void_episode_leaves_no_trace():
    """The memory after it is that before it."""
    env, key = fragile.fragile(), jax.random.key(0)
    reset_keys = fragile.reset_keys(key, 4)

    def task(at):
        return fragile.Task(jnp.zeros(1), reset_keys[1:2], jnp.array([at]), jnp.array(0.0), jnp.array(False))

    (counts, rows), data = run(env, task(2), 4, 6)
    assert not data.valid[1].any()
    assert data.valid[[0, 2, 3]].any(1).all()
    np.testing.assert_array_equal(counts[1], counts[0])
    np.testing.assert_array_equal(rows[1], rows[0])
    last = data.action[0][data.valid[0]][-1]
    np.testing.assert_array_equal(rows[2][counts[0], 1:2], last)


@pytest.mark.parametrize("environment", [toys.walk, lambda: fragile.fragile((0.5,))])
def test_the_replay_is_what_the_trial_did(environment):
    """Log-probabilities computed from the sequence equal those of the behaviour: same percepts, same memory."""
    env = environment()
    policy = mrl.policies.gru(env, memory_size=5, hidden=(4,))
    theta = policy.init(jax.random.key(1))

    def both(key):
        task = env.sample_task(key)
        _, episodes = trial(key, env, policy, theta, task, 6, 6, lambda memory, episode: episode)
        sequence = outer.as_sequence(env, jax.tree.map(lambda leaf: leaf[:, 0], episodes), 0)
        return sequence, outer.replay_sequence(policy, theta, sequence)

    sequence, replayed = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(2), 8))
    valid = np.asarray(sequence.trajectory.valid[:, 0])
    assert 0 < valid.mean() < 1
    behavior = np.asarray(sequence.trajectory.log_prob[:, 0])
    np.testing.assert_allclose(np.asarray(replayed.log_prob)[valid], behavior[valid], rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in replayed)


def test_a_cut_at_the_last_step_is_the_end_of_the_horizon():
    """Environments with a time limit of T flag it as truncation; J counts T steps: no value follows."""
    env = mrl.TaskEnv(
        name="time-limit",
        sample_task=lambda key: jnp.zeros(1),
        reset=lambda key, task: toys.CounterState(jnp.zeros(1), 0.0, False, False, 0),
        step=lambda task, state, action: state.replace(time=state.time + 1, truncated=state.time + 1 >= 4),
        observation_size=1,
        action_size=1,
        horizon=4,
    )
    policy = toys.small_policy(env)
    phi, task = policy.init(jax.random.key(0)), jnp.zeros(1)
    cut = jax.jit(rollout, static_argnums=(1, 2, 5, 6))
    assert not cut(jax.random.key(1), env, policy, phi, task, 2, 4).truncated.any()
    longer = cut(jax.random.key(1), env, policy, phi, task, 2, 5).truncated
    np.testing.assert_array_equal(longer, np.arange(5) == np.array([[3], [3]]))
