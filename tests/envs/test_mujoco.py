"""MuJoCo's C engine: gymnasium's physics step by step, honest about what breaks, the same bits whoever calls."""

import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import metarl_jax as mrl
import metarl_jax.envs as envs
from metarl_jax.envs import brax_page, mujoco_engine, mujoco_models
from metarl_jax.envs.brax_adapter import simulator
from metarl_jax.runs.pictures import scene
from metarl_jax.soundness import sane

GYM = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "ant": "Ant-v5"}


# --- fidelity --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gym_env(monkeypatch, tmp_path):
    """``robot → gymnasium's environment`` with the contact margins of ours, in a folder for MuJoCo's log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))  # which it imports to draw, and we do not
    gymnasium = pytest.importorskip("gymnasium")

    def make(robot):
        file = {"xml_file": "walker2d.xml"} if robot == "walker2d" else {}
        env = gymnasium.make(GYM[robot], **file).unwrapped
        env.model.geom_margin[:] = simulator(robot, "mujoco").env.sys.geom_margin
        return env

    return make


@pytest.mark.filterwarnings("ignore")  # gymnasium's of its own versions
@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-10), (False, 1e-5)])
@pytest.mark.parametrize("robot", GYM)
def test_a_control_step_is_gymnasiums(robot, x64, tolerance, gym_env):
    """From each of 200 recorded states; the numbers that both start from are those of our precision."""
    env, random, dtype = gym_env(robot), np.random.default_rng(0), np.float64 if x64 else np.float32
    rows = []
    for t in range(200):
        if t % 25 == 0:
            env.reset(seed=t)
        q, qd = env.data.qpos.astype(dtype), env.data.qvel.astype(dtype)
        control = random.uniform(-1, 1, env.model.nu).astype(dtype)
        env.set_state(q.astype(float), qd.astype(float))
        env.data.qacc_warmstart[:] = 0
        env.step(control.astype(float))
        mujoco.mj_kinematics(env.model, env.data)  # its positions are those before the last physics step
        rows.append((q, qd, control, env.data.qpos.copy(), env.data.qvel.copy(), env.data.xpos[1].copy()))
    q, qd, control, q_after, qd_after, torso = map(np.stack, zip(*rows, strict=True))
    with jax.enable_x64(x64):
        physics = simulator(robot, "mujoco")
        start = jax.vmap(lambda q, qd: physics.init({}, q, qd))(q, qd)
        after = jax.vmap(lambda motion, u: physics.advance({}, motion, u))(start, control)
    assert after.q.dtype == dtype
    assert physics.dt == pytest.approx(env.dt)
    np.testing.assert_allclose(after.q, q_after, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(after.qd, qd_after, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(after.x.pos[:, 0], torso, rtol=tolerance, atol=tolerance)
    assert np.abs(qd_after).max() > 1


def test_contacts_begin_at_the_larger_margin_whatever_this_mujoco_adds_up():
    model = mujoco_models.load("hopper").model
    data = mujoco.MjData(model)
    foot, floor = (mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name) for name in ("foot_geom", "floor"))

    def contacts(distance):
        data.qpos[:] = model.qpos0
        mujoco.mj_forward(model, data)
        data.qpos[1] += distance - mujoco.mj_geomDistance(model, data, foot, floor, 1.0, None)
        mujoco.mj_forward(model, data)
        return data.ncon

    margin = 0.001  # of every geom in the file
    assert contacts(0.95 * margin) > 0
    assert contacts(1.05 * margin) == 0


def test_models_are_without_textures_and_as_heavy_as_gyms():
    model = mujoco_models.load("halfcheetah").model
    assert model.ntex == 0
    assert model.body_mass.sum() == pytest.approx(14)


@pytest.mark.parametrize(("robot", "dt"), [("halfcheetah", 0.01), ("ant", 0.02)])
def test_rllabs_robots_report_the_centre_of_mass_of_the_very_moment(robot, dt):
    physics = simulator(f"{robot}-rllab", "mujoco")
    assert physics.dt == pytest.approx(dt)
    model = mujoco_models.load(f"{robot}-rllab").model
    expected = (0.8, 0.8, 0.01) if robot == "ant" else (0.0, 0.8, 0.01)
    np.testing.assert_allclose(model.geom_solimp[1:, :3] - expected, 0, atol=1e-12)
    data, key = mujoco.MjData(model), jax.random.key(0)
    motion = physics.init({}, jnp.asarray(physics.env.sys.init_q, float), jax.random.normal(key, (model.nv,)))
    for t in range(4):
        data.qpos[:], data.qvel[:] = motion.q, motion.qd
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        expected = np.concatenate([data.subtree_com[1], data.subtree_linvel[1]])
        np.testing.assert_allclose(motion.sensed, expected, atol=1e-6)
        np.testing.assert_allclose(motion.place, data.xpos[1], atol=1e-6)
        motion = physics.advance({}, motion, jnp.linspace(-1, 1, model.nu) * (-1) ** t)


# --- honesty ---------------------------------------------------------------------------------------------------------


def test_a_nan_action_and_an_exploding_state_are_void_and_nothing_is_said_of_them(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(mujoco_engine.THREADS, "2")
    env = envs.make("cheetah-dir", backend="mujoco")
    task = env.sample_task(jax.random.key(0))
    good = env.reset(jax.random.key(1), task)
    exploding = good.replace(internal=good.internal.replace(qd=1e12 + good.internal.qd))
    infinite = good.replace(internal=good.internal.replace(qd=jnp.inf + good.internal.qd))
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), good, exploding, infinite, good)
    actions = jnp.full((4, 6), 0.5).at[3, 2].set(jnp.nan)
    after = jax.vmap(env.step, (None, 0, 0))(task, states, actions)
    assert jax.vmap(sane)(after).tolist() == [True, False, False, False]
    np.testing.assert_array_equal(after.observation[0], env.step(task, good, actions[0]).observation)
    assert np.isnan(after.observation[3]).all()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_handler_is_left_alone():
    def handler(message):
        pass

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(handler)
    pointer = mujoco_engine._handler()[0].value
    try:
        env = envs.make("cheetah-dir", backend="mujoco")
        task = env.sample_task(jax.random.key(0))
        env.step(task, env.reset(jax.random.key(1), task), jnp.zeros(6))
        assert mujoco_engine._handler()[0].value == pointer
    finally:
        mujoco.set_mju_user_warning(before)


def test_several_devices_are_refused():
    physics = simulator("hopper", "mujoco")
    q, qd, control = (jax.ShapeDtypeStruct((size,), jnp.float32) for size in (6, 6, 3))
    motion = jax.eval_shape(lambda q, qd: physics.init({}, q, qd), q, qd)
    with (
        jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1, 2), ("seeds", "tasks"))),
        pytest.raises(ValueError, match="2 devices cannot share; use one device"),
    ):
        jax.eval_shape(lambda motion, u: physics.advance({}, motion, u), motion, control)


def test_without_gymnasium_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mujoco_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match='pip install "gymnasium>=1.0"'):
        mujoco_models.load("ant")


@pytest.mark.parametrize("threads", ["abc", "0", "-1", "1.5", "", "٣"])
def test_a_wrong_number_of_threads_is_told_before_anything_is_compiled(threads, monkeypatch):
    mujoco_engine.mujoco_simulator.cache_clear()
    monkeypatch.setenv(mujoco_engine.THREADS, threads)
    with pytest.raises(ValueError, match=f"the environment variable METARL_MUJOCO_THREADS is '?{threads}'?"):
        envs.make("cheetah-dir", backend="mujoco")


def test_episodes_start_in_the_precision_of_the_moment():
    """A constant of one precision would be that of all later programs: JAX keeps what it has lowered of it."""
    start = simulator("halfcheetah", "mujoco").env.sys
    for x64 in (False, True, False):
        with jax.enable_x64(x64):
            assert start.init_q.dtype == (np.float64 if x64 else np.float32)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cheetah-dir@rllab2017", {"backend": "spring"}, "unknown backend of 'cheetah-dir@rllab2017'.*mujoco"),
        ("cheetah-dir", {"model": "rllab"}, "backend is 'spring', and model='rllab' runs on backend 'mujoco' alone"),
        ("ant-vel", {"model": "rlab", "backend": "mujoco"}, "unknown model 'rlab'.*did you mean 'rllab'"),
        ("cheetah-vel", {"observation": "rllab", "backend": "mujoco"}, "unknown observation 'rllab'"),
        ("reacher-goal", {"backend": "mujoco"}, "unknown backend of 'reacher-goal@v1' 'mujoco'"),
    ],
)
def test_what_mujoco_does_not_run_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        envs.make(name, **options)


def test_viewers_draw_it_and_braxs_own_is_refused():
    env = envs.make("hopper-params", backend="mujoco")
    task = env.sample_task(jax.random.key(0))
    state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(1), 2), task)
    links = jax.jit(jax.vmap(lambda s: env.scene(task, s)[1].x))(state)
    model, drawn = env.scene(task, jax.tree.map(lambda leaf: leaf[0], state))
    data = mujoco.MjData(mujoco_models.load("hopper").model)
    for i in range(2):
        data.qpos[:] = state.internal.q[i]
        mujoco.mj_kinematics(mujoco_models.load("hopper").model, data)
        np.testing.assert_allclose(links.pos[i], data.xpos[1:], atol=1e-6)
        np.testing.assert_allclose(links.rot[i], data.xquat[1:], atol=1e-6)
    assert [shape.link for shape in scene.shapes(model)] == [0, 1, 2, 3]
    assert drawn.x.pos.shape == (4, 3)
    assert scene.floor(model) == 0
    assert model.opt.timestep == pytest.approx(0.008)
    with pytest.raises(ValueError, match="Brax's viewer draws what ran on a backend of Brax"):
        brax_page.brax_page(model, drawn.x)


# --- the same bits ---------------------------------------------------------------------------------------------------


def test_threads_and_repetition_change_no_bit(monkeypatch):
    host, random = mujoco_engine.engine("ant"), np.random.default_rng(0)
    q, qd = host.start + random.normal(size=(3, 20, 15)) * 0.1, random.normal(size=(3, 20, 14))
    control = random.uniform(-1, 1, (3, 20, 8))
    found = []
    for threads in ("1", "2", "3", "2"):
        monkeypatch.setenv(mujoco_engine.THREADS, threads)
        found.append(host.step(5, q, qd, control, {}))
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)
    assert found[0][0].shape == q.shape


def test_the_number_of_threads_is_checked_and_the_cores_of_the_process_by_default(monkeypatch):
    for wrong in ("0", "two", "-1", "1.5", ""):
        monkeypatch.setenv(mujoco_engine.THREADS, wrong)
        with pytest.raises(ValueError, match="the environment variable METARL_MUJOCO_THREADS is "):
            mujoco_engine.threads()
    monkeypatch.delenv(mujoco_engine.THREADS)
    assert mujoco_engine.threads() == len(os.sched_getaffinity(0))


def test_a_process_pinned_to_one_core_does_not_hang():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, metarl_jax.envs as envs
from metarl_jax.envs.mujoco_engine import threads
env = envs.make("hopper-params", backend="mujoco")
tasks = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 64))
states = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 64), tasks)
step = lambda s, _: (jax.vmap(env.step)(tasks, s, jnp.zeros((64, 3))), None)
print(threads(), jax.jit(lambda s: jax.lax.scan(step, s, length=50)[0])(states).observation.shape)
"""
    command = [sys.executable, "-c", code]
    environment = {name: value for name, value in os.environ.items() if name != mujoco_engine.THREADS}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.stdout, done.stderr) == ("1 (64, 11)\n", "")


def test_seeds_in_a_vmap_are_the_seeds_alone():
    env = envs.make("hopper-params", backend="mujoco")

    def run(key):
        task_keys, reset_keys = jax.random.split(key, (2, 3))
        tasks = jax.vmap(env.sample_task)(task_keys)
        states = jax.vmap(env.reset)(reset_keys, tasks)
        actions = jax.random.normal(key, (4, 3, 3))
        step = jax.vmap(env.step)
        return jax.lax.scan(lambda s, a: (step(tasks, s, a), None), states, actions)[0].internal

    seeds = jax.random.split(jax.random.key(0), 2)
    calls = mujoco_engine.engine("hopper").calls
    together = jax.jit(jax.vmap(run))(seeds)
    assert mujoco_engine.engine("hopper").calls == calls + 4  # no seed or task has calls of its own
    for index, seed in enumerate(seeds):
        alone = jax.jit(run)(seed)
        np.testing.assert_array_equal(together.q[index], alone.q)
        np.testing.assert_array_equal(together.qd[index], alone.qd)


def test_no_gradient_flows_through_the_physics():
    env = envs.make("ant-vel", backend="mujoco")
    task, action = env.sample_task(jax.random.key(0)), jnp.full(8, 0.3)

    def after(action):
        state = env.reset(jax.random.key(1), task)
        for _ in range(2):
            state = env.step(task, state, action)
        return state

    for leaf in jax.tree.leaves(jax.jacrev(lambda a: (after(a).observation, after(a).internal))(action)):
        assert not np.asarray(leaf).any()
    # What is left in the reward's is the control cost of the last step, 0.005·‖u‖².
    np.testing.assert_allclose(jax.grad(lambda a: after(a).reward)(action), -0.01 * action, rtol=1e-6)


def test_an_update_calls_the_host_once_per_control_step_and_repeats_bit_for_bit():
    env = envs.make("cheetah-dir@promp2019", backend="mujoco", horizon=6)
    algorithm = mrl.algorithms.make("maml", env, tasks=3, episodes=2, adaptation_steps=1)
    update = jax.jit(algorithm.update)
    state = algorithm.init(jax.random.key(0))
    host = mujoco_engine.engine("halfcheetah")
    results = []
    for _ in range(2):
        before = host.calls
        results.append(jax.block_until_ready(update(jax.random.key(1), state)))
        assert host.calls - before == 2 * 6  # S·T
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(results[0]), jax.tree.leaves(results[1]))
    assert results[0][1]["diverged_episodes"] == 0
