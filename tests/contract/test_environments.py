"""What every registered environment promises, whatever its task is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax.envs import contract
from tests import rows
from tests.conftest import EXTREME, LANES

FAMILIES = envs.names()
EVERY_VERSION = [full for name in FAMILIES for full in envs.versions(name)]
PURE_JAX = [name for name in FAMILIES if not envs.card(name).backends]


def plain(tree):
    """Arrays that numpy can compare: typed keys as their bits."""

    def bits(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(bits, tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, plain(a), plain(b))


def other_tasks(recording):
    """Tasks that differ from the recorded ones in every lane, and whose difference the recorded actions show."""
    tasks = recording.tasks
    if isinstance(tasks, envs.DirectionTask):
        return tasks.replace(direction=-tasks.direction)
    if isinstance(tasks, envs.BanditTask):
        return tasks.replace(probability=1.0 - tasks.probability.round())
    if isinstance(tasks, envs.TreasureTask):
        return tasks.replace(treasure=~tasks.treasure)
    if recording.states.internal is None and tasks.goal.shape == recording.states.observation[:, 0].shape:
        return tasks.replace(
            goal=recording.states.observation[:, 5]
        )  # a place that was visited: sparse rewards show it
    return jax.tree.map(lambda leaf: leaf + 0.05 * (1 + jnp.arange(leaf[0].size).reshape(leaf[0].shape)), tasks)


@pytest.mark.parametrize("name", EVERY_VERSION)
def test_reset_and_step_have_the_declared_sizes_and_one_state_tree(name):
    env, card = envs.make(name), envs.card(name)
    task = env.sample_task(jax.random.key(0))
    leaves = jax.tree.leaves(task)
    action = jnp.zeros((), int) if env.discrete else jnp.zeros(env.action_size)
    start = jax.eval_shape(env.reset, jax.random.key(1), task)
    following = jax.eval_shape(env.step, task, start, action)

    def types(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)

    assert types(start) == types(following)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(start))
    assert not any(jax.typeof(leaf).weak_type for leaf in leaves)
    assert (start.observation.shape, start.observation.dtype) == ((env.observation_size,), jnp.zeros(0).dtype)
    assert (start.reward.shape, start.reward.dtype) == ((), jnp.zeros(0).dtype)
    assert (start.terminated.shape, start.terminated.dtype) == ((), jnp.bool_)
    assert (start.truncated.shape, start.truncated.dtype) == ((), jnp.bool_)
    assert (env.name, env.horizon) == (name, card.horizon)
    assert all(before is after for before, after in zip(leaves, jax.tree.leaves(task), strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_tasks_differ_and_repeat_with_their_key(name):
    env = envs.make(name)
    keys = jax.random.split(jax.random.key(0), 64)
    tasks = jax.jit(jax.vmap(env.sample_task))(keys)
    finite = envs.card(name).finite
    for leaf in jax.tree.leaves(tasks):
        assert len(np.unique(np.asarray(leaf).reshape(64, -1), axis=0)) >= (64 if finite is None else 0.8 * finite)
    assert_equal(tasks, jax.jit(jax.vmap(env.sample_task))(keys))


@pytest.mark.parametrize("name", rows.of_environments(FAMILIES))
def test_the_same_call_gives_the_same_episodes_and_leaves_the_tasks_alone(name, recording):
    recorded = recording(name)
    before = plain(recorded.tasks)
    begun = jax.tree.map(lambda leaf: leaf[:, :5], recorded.states)  # Brax is stepped by hand
    assert_equal(begun, recorded.run(recorded.keys, recorded.tasks, recorded.actions[:, :4]))
    assert_equal(before, recorded.tasks)


@pytest.mark.parametrize("name", rows.of_environments(FAMILIES))
def test_random_and_extreme_actions_give_finite_states(name, recording):
    recorded = recording(name)
    assert np.abs(recorded.actions[EXTREME]).max() >= (recorded.env.action_size - 1 if recorded.env.discrete else 1e6)
    for leaf in jax.tree.leaves((recorded.states.observation, recorded.states.reward)):
        assert np.isfinite(leaf).all()
    assert not np.asarray(recorded.states.truncated).any()


@pytest.mark.parametrize("name", rows.of_environments(FAMILIES))
def test_the_observation_does_not_show_the_task(name, recording):
    recorded = recording(name)
    tasks = other_tasks(recorded)
    states = recorded.run(recorded.keys, tasks, recorded.actions)
    np.testing.assert_array_equal(recorded.states.observation[:, 0], states.observation[:, 0])
    if envs.card(name).shared_dynamics:
        np.testing.assert_array_equal(recorded.states.observation, states.observation)
    assert not np.array_equal(recorded.states.reward, states.reward)


@pytest.mark.parametrize("name", rows.by_default(FAMILIES, [*PURE_JAX, "cheetah-dir"]))
def test_check_finds_nothing(name, monkeypatch):
    if envs.card(name).backends:  # stepped by hand, at the width of the recordings: no physics to compile
        monkeypatch.setattr(contract, "_compiled", lambda function: function)
        monkeypatch.setattr(contract, "LANES", LANES // len(contract.GROUPS))
        monkeypatch.setattr(contract, "LEAST_STEPS", 24)
    assert envs.check(envs.make(name)) == ()


@pytest.mark.parametrize("name", rows.of_environments(FAMILIES))
def test_episode_starts_differ_between_keys_where_the_card_says_so(name, recording):
    recorded = recording(name)
    starts = np.asarray(recorded.states.observation[:, 0])
    expected = len(starts) if envs.card(name).random_start else 1
    assert len(np.unique(starts, axis=0)) == expected


@pytest.mark.parametrize("name", PURE_JAX)
def test_jit_and_vmap_over_tasks_give_what_a_plain_loop_gives(name, recording):
    recorded = recording(name)
    env = recorded.env
    for lane in range(2):
        task = jax.tree.map(lambda leaf, lane=lane: leaf[lane], recorded.tasks)
        state = env.reset(recorded.keys[lane], task)
        for t in range(4):
            state = env.step(task, state, recorded.actions[lane, t])
            expected = jax.tree.map(lambda leaf, lane=lane, t=t: leaf[lane, t + 1], recorded.states)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain(state), plain(expected))
