"""The running robots' families on MuJoCo's C engine: the same rewards, observations and contract as on Brax."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import metarl_jax as mrl
import metarl_jax.envs as envs
from metarl_jax.envs import contract, mujoco_engine, mujoco_models
from metarl_jax.envs.brax_adapter import simulator
from metarl_jax.rollout import rollout
from tests.conftest import LANES

FAMILIES = [name for name in envs.names() if "mujoco" in envs.card(name).backends]
RLLAB = ("cheetah-dir@rllab2017", "cheetah-vel@rllab2017", "ant-dir@rllab2017", "ant-vel@rllab2017")


@pytest.fixture(scope="module")
def recorded():
    """``name → recording`` on MuJoCo, by the same actions as the recordings on Brax."""
    record = importlib.import_module("tests.conftest").record
    return functools.cache(lambda name: record(envs.make(name, backend="mujoco")))


def test_all_running_robots_have_it():
    assert len(FAMILIES) == 15
    assert {name.split("-")[0] for name in FAMILIES} == {"cheetah", "walker", "hopper", "ant", "humanoid"}


@pytest.mark.parametrize("name", ["cheetah-dir@promp2019", "ant-dir@promp2019", *FAMILIES])
def test_rewards_are_those_of_the_formulas(name, recorded):
    """The transcriptions that the families on Brax are tested against, to the same tolerances."""
    rewards = importlib.import_module("tests.envs.test_rewards")
    of_promp = lambda r: r.task.direction * r.velocity[..., 0] - 0.05 * r.cost  # noqa: E731
    formula = (rewards.BRAX | {"cheetah-dir@promp2019": of_promp})[name]
    found = rewards.Recorded(recorded(name))
    expected = formula(found)
    dt = simulator(found.robot, "mujoco").dt
    np.testing.assert_allclose(found.states.reward[:, 1:], expected, rtol=1e-5, atol=max(2e-5, 1e-6 / dt))
    assert np.ptp(expected) > 0.05
    assert np.isfinite(found.states.observation).all()


@pytest.mark.parametrize("name", RLLAB)
def test_rllabs_rewards_and_observations(name, recorded):
    """With the centre of mass and its velocity as MuJoCo computes them from the recorded q and q̇."""
    found = recorded(name)
    robot = "halfcheetah-rllab" if "cheetah" in name else "ant-rllab"
    model = mujoco_models.load(robot).model
    data = mujoco.MjData(model)
    q, qd = (np.asarray(getattr(found.states.internal, leaf), np.float64) for leaf in ("q", "qd"))
    center, speed, rotation = (np.zeros((*q.shape[:2], size)) for size in (3, 3, 9))
    for place in np.ndindex(q.shape[:2]):
        data.qpos[:], data.qvel[:] = q[place], qd[place]
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        center[place], speed[place], rotation[place] = data.subtree_com[1], data.subtree_linvel[1], data.xmat[1]
    ant = robot == "ant-rllab"
    seen = [q, qd, rotation, center] if ant else [q[..., 1:], qd, center]
    np.testing.assert_allclose(found.states.observation, np.concatenate(seen, -1), rtol=1e-5, atol=2e-5)
    v = speed[:, 1:, 0]
    if "vel" in name:
        gain = float(ant) - np.abs(v - np.asarray(found.tasks.target)[:, None])
    else:
        gain = v * np.asarray(found.tasks.direction)[:, None]
    cost = (np.clip(np.asarray(found.actions, np.float64), -1, 1) ** 2).sum(-1)
    expected = gain + 0.05 * ant - (0.005 if ant else 0.05) * cost
    np.testing.assert_allclose(found.states.reward[:, 1:], expected, rtol=1e-5, atol=2e-5)
    start = np.array(mujoco_models.load(robot).start)
    assert (start[2] == 0.55) == ant
    np.testing.assert_allclose((q[:, 0] - start).std(), 0.01, rtol=0.3)
    np.testing.assert_allclose(qd[:, 0].std(), 0.1, rtol=0.3)


@pytest.mark.parametrize("name", ["cheetah-dir", "ant-goal", "walker-params", *RLLAB[:1]])
def test_check_finds_nothing(name, monkeypatch):
    monkeypatch.setattr(contract, "_compiled", lambda function: function)
    monkeypatch.setattr(contract, "LANES", LANES // len(contract.GROUPS))
    monkeypatch.setattr(contract, "LEAST_STEPS", 24)
    assert envs.check(envs.make(name, backend="mujoco")) == ()


# --- changed physics -------------------------------------------------------------------------------------------------


def test_a_task_gets_the_model_with_its_own_numbers():
    """Against a model that is changed by hand, step by step."""
    env = envs.make("ant-params", backend="mujoco")
    tasks = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 3))
    states = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 3), tasks)
    on_the_ground = states.internal.replace(q=states.internal.q.at[:, 2].add(-0.45))
    states = states.replace(internal=on_the_ground)
    actions = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 8)), float)
    after = jax.vmap(env.step)(tasks, states, actions).internal
    for i in range(3):
        model = mujoco_models.load("ant").model
        scale = {knob: np.asarray(factors[i], np.float64) for knob, factors in tasks.scale.items()}
        for knob, array in {
            "mass": model.body_mass,
            "inertia": model.body_inertia,
            "friction": model.geom_friction,
            "damping": model.dof_damping,
            "gear": model.actuator_gear,
            "gravity": model.opt.gravity,
        }.items():
            array *= scale[knob].reshape(-1, *[1] * (array.ndim - 1))
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = states.internal.q[i], states.internal.qd[i], actions[i]
        mujoco.mj_step(model, data, 5)
        assert data.ncon > 0
        np.testing.assert_allclose(after.q[i], data.qpos, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(after.qd[i], data.qvel, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("robot", ["halfcheetah-rllab", "ant-rllab"])
def test_sensors_are_those_of_the_whole_model_to_the_last_bit(robot):
    """Also on the ground and beyond joint limits: a whole step has contacts and limits, which they do without."""
    host, random = mujoco_engine.Engine(robot), np.random.default_rng(0)
    mass = host.model.body_mass * random.choice([0.5, 1, 3], (6, host.model.nbody))
    q, qd = host.start + random.normal(0, 0.5, (6, host.model.nq)), random.normal(0, 2, (6, host.model.nv))
    control = random.uniform(-1, 1, (6, host.model.nu))
    for changes in ({}, {"body_mass": mass}):
        for frames in (0, 3):
            after, speed, sensed = host.step(frames, q, qd, control, changes)
            for i in range(6):
                model = mujoco_models.load(robot).model
                if changes:
                    model.body_mass[:] = mass[i]
                    mujoco.mj_setConst(model, mujoco.MjData(model))
                data = mujoco.MjData(model)
                data.qpos[:], data.qvel[:] = after[i], speed[i]
                mujoco.mj_forward(model, data)
                np.testing.assert_array_equal(sensed[i], data.sensordata)
    assert not np.allclose(host.step(0, q, qd, control, {})[2], sensed)


def test_models_are_kept_by_content_and_not_without_bound():
    host = mujoco_engine.Engine("hopper")
    mass = np.array(host.model.body_mass)
    q, control = np.tile(host.start, (2, 3, 1)), np.zeros((2, 3, 3))
    changes = {"body_mass": np.stack([mass, 2 * mass])[:, None] * np.ones((1, 3, 1))}
    for _ in range(2):
        host.step(1, q, 0 * q, control, changes)
    assert len(host._changed) == 2
    np.testing.assert_array_equal(host.model.body_mass, mass)


def test_a_step_with_more_models_than_are_kept_builds_each_once(monkeypatch):
    monkeypatch.setattr(mujoco_engine, "MOST_MODELS", 3)
    host, built = mujoco_engine.Engine("hopper"), []
    build = host._build
    monkeypatch.setattr(host, "_build", lambda *key: built.append(key) or build(*key))
    mass = np.array(host.model.body_mass)

    def step(factors):
        q = np.tile(host.start, (len(factors), 1))
        host.step(1, q, 0 * q, np.zeros((len(factors), 3)), {"body_mass": np.multiply.outer(factors, mass)})

    for _ in range(2):
        step(np.linspace(1, 2, 5))
    assert len(built) == len(host._changed) == 5
    step(np.array([1.0, 3.0]))  # the other four go
    assert len(built) == 6
    assert len(host._changed) == 2


# --- episodes that have ended -----------------------------------------------------------------------------------------


def test_steps_after_the_end_of_an_episode_are_not_simulated_and_change_nothing_that_counts(monkeypatch):
    """Against the same environment whose steps do not know that the episode has ended, so that all are simulated."""
    env = envs.make("hopper-params@promp2019", backend="mujoco", horizon=80)
    forgetful = dataclasses.replace(
        env, step=lambda task, state, action: env.step(task, state.replace(terminated=jnp.zeros((), bool)), action)
    )
    policy = mrl.policies.mlp(env, hidden=(4,), init_std=2.0)
    params, host, rows = policy.init(jax.random.key(0)), mujoco_engine.engine("hopper"), []
    advance = host._advance
    monkeypatch.setattr(host, "_advance", lambda *a: rows.append(len(a[1])) or advance(*a))

    def collect(env):
        def of_task(key):
            task = env.sample_task(key)
            return rollout(key, env, policy, params, task, 5, 80)

        rows.clear()
        data = jax.block_until_ready(jax.jit(jax.vmap(of_task))(jax.random.split(jax.random.key(1), 3)))
        return data, list(rows)

    (data, simulated), (expected, all_rows) = collect(env), collect(forgetful)
    jax.tree.map(np.testing.assert_array_equal, data, expected)
    steps = np.asarray(data.valid).sum((0, 1))
    assert steps[0] == 15
    assert len(set(np.asarray(data.valid).sum((1, 2)))) == 3  # each task has its own
    assert 0 < steps[-1] < 10
    assert simulated == steps[steps > 0].tolist()
    assert all_rows == [15] * 80


@pytest.mark.parametrize("ended", [False, True])
def test_a_step_gives_no_nan_that_a_search_for_one_would_stop_at(ended):
    """Operation by operation, as `--debug-nans` runs an update."""
    env = envs.make("walker-dir", backend="mujoco")
    task = env.sample_task(jax.random.key(0))
    state = env.reset(jax.random.key(1), task).replace(terminated=jnp.asarray(ended))
    with jax.disable_jit(), jax.debug_nans(True):
        after = env.step(task, state, jnp.zeros(env.action_size))
    assert np.isfinite(after.observation).all()


def test_a_robot_whose_episode_has_ended_stays_where_it_is():
    env = envs.make("hopper-params", backend="mujoco")
    task = env.sample_task(jax.random.key(0))
    state = env.reset(jax.random.key(1), task)
    ended = state.replace(terminated=jnp.ones((), bool))
    for action in (jnp.ones(3), jnp.full(3, jnp.nan)):
        jax.tree.map(np.testing.assert_array_equal, env.step(task, ended, action).internal, ended.internal)
    assert np.any(env.step(task, state, jnp.ones(3)).internal.q != state.internal.q)
