"""reacher-goal against a numpy transcription on recorded states and actions."""

import jax
import numpy as np

import metarl_jax.envs as envs


def rotate(quaternion, vector):
    """Rotates vectors by unit quaternions (w, x, y, z): v + 2w(u × v) + 2u × (u × v)."""
    w, u = quaternion[..., :1], quaternion[..., 1:]
    once = np.cross(u, np.broadcast_to(vector, u.shape))
    return vector + 2 * w * once + 2 * np.cross(u, once)


def tip(states):
    x = states.internal.x
    position, rotation = np.asarray(x.pos[..., 1, :], np.float64), np.asarray(x.rot[..., 1, :], np.float64)
    return (position + rotate(rotation, np.array([0.11, 0, 0])))[..., :2]


def test_reward(recording):
    recorded = recording("reacher-goal")
    control = np.clip(np.asarray(recorded.actions, np.float64), -1, 1)
    distance = np.linalg.norm(tip(recorded.states)[:, 1:] - np.asarray(recorded.tasks.goal)[:, None], axis=-1)
    expected = -distance - 0.01 * (control**2).sum(-1)
    np.testing.assert_allclose(recorded.states.reward[:, 1:], expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(distance) > 0.05
    assert not np.asarray(recorded.states.terminated).any()
    assert not np.asarray(recorded.states.truncated).any()


def test_observation(recording):
    states = recording("reacher-goal").states
    angle, speed = np.asarray(states.internal.q[..., :2]), states.internal.qd[..., :2]
    expected = np.concatenate([np.cos(angle), np.sin(angle), speed, tip(states)], axis=-1)
    np.testing.assert_allclose(states.observation, expected, atol=1e-6)


def test_the_tip_is_where_the_joint_angles_put_it(recording):
    states = recording("reacher-goal").states
    first, both = np.asarray(states.internal.q[..., 0]), np.asarray(states.internal.q[..., :2]).sum(-1)
    elbow = 0.1 * np.stack([np.cos(first), np.sin(first)], axis=-1)
    forward = elbow + 0.11 * np.stack([np.cos(both), np.sin(both)], axis=-1)
    start, later = tip(states)[:, 0] - forward[:, 0], tip(states)[:, 1:] - forward[:, 1:]
    np.testing.assert_allclose(start, 0, atol=1e-6)
    np.testing.assert_allclose(later, 0, atol=5e-3)  # spring joints give way by millimetres


def test_the_marker_stands_on_the_goal_for_renderers(recording):
    recorded = recording("reacher-goal")
    marker = np.asarray(recorded.states.internal.x.pos[..., 2, :2])
    np.testing.assert_allclose(marker[:, 0], recorded.tasks.goal, atol=1e-6)
    np.testing.assert_allclose(marker[:, -1], recorded.tasks.goal, atol=1e-3)


def test_starts_are_those_of_gyms_reacher():
    env = envs.make("reacher-goal")
    task = env.sample_task(jax.random.key(0))

    def start(key):  # only q and q̇ leave the program, so that the compiler can drop the kinematics
        internal = env.reset(key, task).internal
        return internal.q[:2], internal.qd

    q, qd = map(np.asarray, jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(1), 400)))
    assert np.all((np.abs(q) <= 0.1) & (np.abs(q).max(0) > 0.09))
    assert np.all((np.abs(qd[:, :2]) <= 0.005) & (np.abs(qd[:, :2]).max(0) > 0.0045))
    assert not qd[:, 2:].any()


def test_goals_are_uniform_in_the_disk():
    for radius in (0.2, 0.1):
        env = envs.make("reacher-goal", goal_radius=radius)
        goal = np.asarray(jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 4000)).goal, np.float64)
        share = np.sort((goal**2).sum(-1) / radius**2)  # share of the disk nearer than this goal: uniform
        angle = np.sort(np.arctan2(goal[:, 1], goal[:, 0]) / (2 * np.pi) + 0.5)
        assert share[-1] <= 1 + 1e-6
        for unit in (share, angle):
            assert np.abs(unit - (np.arange(4000) + 0.5) / 4000).max() < 2.2 / np.sqrt(4000)  # Kolmogorov
