"""Cheetah families against a numpy transcription on recorded states and actions."""

import jax
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax.envs.brax_adapter import simulator

DT = 0.05
# Velocities are differences of float32 positions (up to 2 m) over 0.05 s, so 1e-7 of position is 5e-6 of reward.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


def velocity(states):
    """[..., T] m/s from positions [..., T + 1]."""
    return np.diff(np.asarray(states.internal.x.pos[..., 0, 0], np.float64), axis=-1) / DT


def numpy_reward(name, task, states, actions):
    scale = 10.0 if name.endswith("promp2019") else 1.0
    control = np.clip(np.asarray(actions, np.float64) / scale, -1, 1)
    cost = 0.05 * (control**2).sum(-1)
    v = velocity(states)
    if name.startswith("cheetah-dir"):
        return np.asarray(task.direction, np.float64)[..., None] * v - cost
    return -np.abs(v - np.asarray(task.target, np.float64)[..., None]) - cost


@pytest.mark.parametrize("name", ["cheetah-dir", "cheetah-vel"])
def test_reward(name, recording):
    recorded = recording(name)
    expected = numpy_reward(name, recorded.tasks, recorded.states, recorded.actions)
    np.testing.assert_allclose(recorded.states.reward[:, 1:], expected, **TOLERANCE)
    assert np.abs(velocity(recorded.states)).max() > 0.1
    assert not np.asarray(recorded.states.terminated).any()
    assert not np.asarray(recorded.states.truncated).any()


def test_observation_leaves_out_only_the_torsos_x(recording):
    states = recording("cheetah-vel").states
    physics = states.internal
    np.testing.assert_array_equal(states.observation, np.concatenate([physics.q[..., 1:], physics.qd], axis=-1))
    # The joint coordinate x that is left out is the position that the velocity is measured from.
    np.testing.assert_allclose(physics.q[..., 0], physics.x.pos[..., 0, 0], atol=1e-5)


def test_starts_are_those_of_mujocos_cheetah():
    env = envs.make("cheetah-vel")
    task = env.sample_task(jax.random.key(0))

    def start(key):  # only q and q̇ leave the program, so that the compiler can drop the kinematics
        internal = env.reset(key, task).internal
        return internal.q, internal.qd

    q, qd = map(np.asarray, jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(1), 400)))
    assert q.shape == qd.shape == (400, 9)
    assert np.abs(q).max() <= 0.1
    assert np.abs(q).max(0).min() > 0.09
    # 400 normal draws of standard deviation 0.1: the sample's is within 5 × 0.1/√800.
    np.testing.assert_allclose(qd.std(0), 0.1, atol=5 * 0.1 / np.sqrt(800))


@pytest.fixture(scope="module")
def stepped(recording):
    """Each version stepped by hand from one recorded state; all share one compiled physics step."""
    start = jax.tree.map(lambda leaf: leaf[0, 4], recording("cheetah-vel").states)

    def step(name, action):
        env = envs.make(name)
        task = env.sample_task(jax.random.key(7))
        after = env.step(task, start, action)
        states = jax.tree.map(lambda a, b: np.stack([a, b]), start, after)
        return task, states, after

    return step


ACTION = np.array([0.8, -12.0, 3.0, -0.1, 25.0, -6.0], np.float32)


@pytest.mark.parametrize("name", [f"cheetah-{kind}@{v}" for kind in ("dir", "vel") for v in ("finn2017", "promp2019")])
def test_reward_of_every_version(name, stepped):
    task, states, after = stepped(name, ACTION)
    np.testing.assert_allclose(after.reward, numpy_reward(name, task, states, ACTION[None])[0], **TOLERANCE)


def test_promp2019_maps_ten_onto_the_actuators_range(stepped):
    scaled = stepped("cheetah-dir@promp2019", ACTION)[2]
    by_hand = stepped("cheetah-dir@finn2017", ACTION / 10)[2]
    np.testing.assert_array_equal(scaled.observation, by_hand.observation)
    unscaled = stepped("cheetah-dir@finn2017", ACTION)[2]
    assert not np.array_equal(scaled.observation, unscaled.observation)
    clipped = stepped("cheetah-dir@finn2017", np.clip(ACTION, -1, 1))[2]
    np.testing.assert_array_equal(unscaled.observation, clipped.observation)


def test_the_physics_step_is_the_one_of_the_simulator(stepped, recording):
    start = jax.tree.map(lambda leaf: leaf[0, 4], recording("cheetah-vel").states)
    physics = simulator("halfcheetah", "spring")
    assert physics.dt == pytest.approx(DT)
    assert physics.env.backend == "spring"
    after = physics.advance({}, start.internal, np.clip(ACTION, -1, 1))
    np.testing.assert_array_equal(after.q, stepped("cheetah-dir", ACTION)[2].internal.q)


def test_directions_have_equal_odds():
    env = envs.make("cheetah-dir")
    direction = np.asarray(jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 4000)).direction)
    assert set(np.unique(direction)) == {-1.0, 1.0}
    assert abs(direction.mean()) < 5 / np.sqrt(4000)


@pytest.mark.parametrize(
    ("name", "options", "bounds"),
    [
        ("cheetah-vel@finn2017", {}, (0, 2)),
        ("cheetah-vel@promp2019", {}, (0, 3)),
        ("cheetah-vel", {"target_range": (-1.0, 1.0)}, (-1, 1)),
    ],
)
def test_target_velocities_are_uniform(name, options, bounds):
    env = envs.make(name, **options)
    target = np.asarray(jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 4000)).target, np.float64)
    unit = np.sort((target - bounds[0]) / (bounds[1] - bounds[0]))
    assert unit[0] >= 0
    assert unit[-1] < 1
    assert np.abs(unit - (np.arange(4000) + 0.5) / 4000).max() < 2.2 / np.sqrt(4000)  # Kolmogorov


def test_versions_differ_as_their_papers_do():
    assert [envs.make(name).horizon for name in envs.versions("cheetah-vel")] == [200, 100, 200, 200]
    assert [envs.make(name).horizon for name in envs.versions("cheetah-dir")] == [200, 100, 200]
    assert envs.make("cheetah-vel").name == "cheetah-vel@finn2017"
