"""Every family's reward against a numpy transcription of its formula, over 504 recorded transitions each.

Tolerances: rewards are float32. Velocities are differences of float32 positions of a few metres, whose last digit is
2e-7, over one control step of 0.008 to 0.05 s: up to 5e-5 of reward. Distances and costs are exact to 1e-5.
"""

import jax
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax.envs.brax_adapter import simulator
from tests import rows
from tests.conftest import LANES, STEPS

ROBOTS = {
    "cheetah": "halfcheetah",
    "ant": "ant",
    "walker": "walker2d",
    "hopper": "hopper",
    "humanoid": "humanoid",
    "pusher": "pusher",
    "reacher": "reacher",
}


class Recorded:
    """A recording in float64: what the formulas below are written in. Leaves [LANES, STEPS, ...], after each step."""

    def __init__(self, recording):
        self.task = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[:, None], recording.tasks)
        self.action = np.asarray(recording.actions, np.float64)
        self.states, self.env = recording.states, recording.env
        name = recording.env.name
        self.options = envs.card(name).options
        self.robot = ROBOTS.get(name.split("-")[0])
        self.family = name.split("@")[0]

    @property
    def control(self):
        limit = {"humanoid": 0.4, "pusher": 2.0}.get(self.robot or "", 1.0)
        return limit * np.clip(self.action / self.options["action_scale"], -1, 1)

    @property
    def cost(self):
        return (self.control**2).sum(-1)

    def position(self, link=0):
        return np.asarray(self.states.internal.x.pos[:, :, link], np.float64)

    @property
    def velocity(self):
        dt = {"walker2d": 0.008, "hopper": 0.008, "humanoid": 0.015}.get(self.robot or "", 0.05)
        return np.diff(self.position(), axis=1) / dt

    @property
    def place(self):
        return self.position()[:, 1:, :2]


def norm(x):
    return np.sqrt((x**2).sum(-1))


def ant_ring(r):
    distance = np.abs(r.place - r.task.goal).sum(-1)
    far = norm(r.place - r.task.goal) > 0.8
    return 4 - np.where(far, np.abs(r.task.goal).sum(-1), distance) - 0.005 * r.cost + 0.05


def reacher_goal(r):
    # The forearm's frame turns about z only: its x axis is (w² − z², 2wz).
    rotation = np.asarray(r.states.internal.x.rot[:, 1:, 1], np.float64)
    w, x, y, z = np.moveaxis(rotation, -1, 0)
    tip = r.position(1)[:, 1:, :2] + 0.11 * np.stack([w**2 + x**2 - y**2 - z**2, 2 * (x * y + w * z)], -1)
    return -norm(tip - r.task.goal) - 0.01 * r.cost


def pusher_goal(r):
    wrist, cylinder = r.position(6)[:, 1:], r.position(7)[:, 1:]
    return -norm(cylinder[..., :2] - r.task.goal) - 0.5 * norm(wrist - cylinder) - 0.1 * r.cost


def point(r):
    return np.asarray(r.states.observation[:, 1:], np.float64) - r.task.goal


def point_sparse(r):
    return np.where(norm(point(r)) <= 0.2, 1 - norm(point(r)), 0)


def grid_nav(r):
    return np.where((point(r) == 0).all(-1), 1.0, -0.1)


def risky_rooms(r):
    opened = np.where(r.task.treasure[:, 0, np.arange(STEPS) % 4] == 1, 1.0, -3.0)
    return np.where(r.action == 1, opened, 0.1)


BRAX = {
    "cheetah-dir": lambda r: r.task.direction * r.velocity[..., 0] - 0.05 * r.cost,
    "cheetah-vel": lambda r: -np.abs(r.velocity[..., 0] - r.task.target) - 0.05 * r.cost,
    "cheetah-mass": lambda r: r.velocity[..., 0] - 0.1 * r.cost,
    "ant-dir": lambda r: r.task.direction * r.velocity[..., 0] - 0.005 * r.cost + 0.05,
    "ant-dir@promp2019": lambda r: r.task.direction * r.velocity[..., 0] - 0.5 * r.cost + 1,
    "ant-dir-2d": lambda r: (r.task.direction * r.velocity[..., :2]).sum(-1) - 0.5 * r.cost + 1,
    "ant-vel": lambda r: 1 - np.abs(r.velocity[..., 0] - r.task.target) - 0.005 * r.cost + 0.05,
    "ant-goal": lambda r: -np.abs(r.place - r.task.goal).sum(-1) - 0.1 * r.cost,
    "ant-goal-box": lambda r: 4 - np.abs(r.place - r.task.goal).sum(-1) - 0.005 * r.cost + 0.05,
    "ant-ring": ant_ring,
    "ant-params": lambda r: r.velocity[..., 0] + 1 - 0.5 * r.cost,
    "humanoid-dir": lambda r: (r.task.direction * r.velocity[..., :2]).sum(-1) - 0.1 * r.cost + 5,
    "walker-dir": lambda r: r.task.direction * r.velocity[..., 0] + 1 - 0.001 * r.cost,
    "walker-vel": lambda r: -np.abs(r.velocity[..., 0] - r.task.target) + 10 - 0.001 * r.cost,
    "walker-params": lambda r: r.velocity[..., 0] + 1 - 0.001 * r.cost,
    "hopper-params": lambda r: r.velocity[..., 0] + 1 - 0.001 * r.cost,
    "reacher-goal": reacher_goal,
    "pusher-goal": pusher_goal,
}
SMALL = {
    "point-nav": lambda r: -norm(point(r)),
    "point-robot": lambda r: -norm(point(r)),
    "point-sparse": point_sparse,
    "point-corners": lambda r: np.maximum(0.5 - norm(point(r)), 0),
    "grid-nav": grid_nav,
    "risky-rooms": risky_rooms,
    "gaussian-bandit": lambda r: -((r.action - r.task.goal) ** 2).sum(-1),
}
DRAWN = {"bernoulli-bandit", "tabular-mdp"}  # rewards are random there; tests/envs/test_bandits.py has their statistics


def test_no_family_is_left_out():
    assert set(envs.names()) == {name.partition("@")[0] for name in BRAX.keys() | SMALL.keys() | DRAWN}
    assert LANES * STEPS >= 500


@pytest.mark.parametrize("name", rows.of_environments(BRAX | SMALL))
def test_reward(name, recording):
    recorded = Recorded(recording(name))
    expected = (BRAX | SMALL)[name](recorded)
    assert expected.shape == (LANES, STEPS)
    dt = 0.05 if recorded.robot is None else simulator(recorded.robot, "spring").dt
    np.testing.assert_allclose(recorded.states.reward[:, 1:], expected, rtol=1e-5, atol=max(2e-5, 1e-6 / dt))
    assert np.ptp(expected) > 0.05 or name in ("point-sparse", "point-corners", "grid-nav")


@pytest.mark.parametrize("name", ["point-sparse", "point-corners", "grid-nav"])
def test_sparse_reward_on_the_way_to_the_goal(name):
    """Straight walks, some of which reach the goal and pass it."""
    env = envs.make(name)
    seen = set()
    for seed in range(8):
        task = env.sample_task(jax.random.key(seed))
        goal = np.asarray(task.goal, np.float64)
        state = env.reset(jax.random.key(0), task)
        for t in range(15):
            if env.discrete:
                cell = np.asarray(state.observation)
                action = np.array(
                    2 if cell[0] < goal[0] else 1 if t < 12 and cell[1] < goal[1] else 1 if t >= 12 else 0
                )
            else:
                action = 0.18 * goal / norm(goal) * envs.card(name).options["action_scale"]
            state = env.step(task, state, action)
            offset = np.asarray(state.observation, np.float64) - goal
            expected = {
                "point-sparse": 1 - norm(offset) if norm(offset) <= 0.2 else 0,
                "point-corners": max(0.5 - norm(offset), 0),
                "grid-nav": 1.0 if not offset.any() else -0.1,
            }[name]
            np.testing.assert_allclose(state.reward, expected, atol=1e-6)
            seen.add(expected > 0)
    assert seen == {True, False}


ENDS = {
    "ant-dir": lambda q, height: (height < 0.2) | (height > 1),
    "ant-dir@promp2019": lambda q, height: (height < 0) | (height > 1),
    "humanoid-dir": lambda q, height: (height < 1) | (height > 2),
    "walker-dir": lambda q, height: (height <= 0.8) | (height >= 2) | (np.abs(q[..., 2]) >= 1),
    "hopper-params": lambda q, height: (height <= 0.7) | (np.abs(q[..., 2]) >= 0.2),
}


@pytest.mark.parametrize("name", rows.of_environments(BRAX))
def test_ends(name, recording):
    recorded = Recorded(recording(name))
    terminated = np.asarray(recorded.states.terminated[:, 1:])
    robot = {"walker": "walker-dir", "hopper": "hopper-params", "humanoid": "humanoid-dir", "ant": "ant-dir"}
    rule = name if name in ENDS else robot.get(name.split("-")[0])
    if rule is None or name == "ant-goal":
        assert not terminated.any()
        return
    q = np.asarray(recorded.states.internal.q, np.float64)[:, 1:]
    np.testing.assert_array_equal(terminated, ENDS[rule](q, recorded.position()[:, 1:, 2]))


@pytest.mark.parametrize("name", rows.of_environments(ENDS))
def test_ends_at_every_height(name, recording):
    """The recorded starts, lifted to heights on both sides of both limits."""
    recorded = recording(name)
    robot = ROBOTS[name.split("-")[0]]
    physics = simulator(robot, "spring")
    start = jax.tree.map(lambda leaf: leaf[:, 0], recorded.states)
    vertical = 1 if robot in ("walker2d", "hopper") else 2
    q = start.internal.q.at[:, vertical].add(np.linspace(-0.8, 1.2, LANES))
    lifted = start.replace(internal=jax.vmap(lambda q, qd: physics.init({}, q, qd))(q, start.internal.qd))
    after = jax.vmap(recorded.env.step)(recorded.tasks, lifted, 0 * recorded.actions[:, 0])
    height = np.asarray(after.internal.x.pos[:, 0, 2], np.float64)
    expected = ENDS[name](np.asarray(after.internal.q, np.float64), height)
    np.testing.assert_array_equal(after.terminated, expected)
    assert {True, False} == set(expected.tolist())


OBSERVATIONS = {  # q without the place on the ground, q̇, and the torso's position where it matters
    "cheetah-dir": (1, False, None),
    "ant-dir": (2, False, None),
    "ant-goal": (2, True, None),
    "humanoid-dir": (2, False, None),
    "walker-dir": (1, False, 10),
    "hopper-params": (1, False, 10),
}


@pytest.mark.parametrize("name", rows.of_environments(OBSERVATIONS))
def test_observation(name, recording):
    states = recording(name).states
    skip, place, bound = OBSERVATIONS[name]
    physics = states.internal
    speed = physics.qd if bound is None else np.clip(physics.qd, -bound, bound)
    parts = [physics.q[..., skip:], speed] + ([physics.x.pos[:, :, 0]] if place else [])
    np.testing.assert_array_equal(states.observation, np.concatenate(parts, -1))
