"""Brax and MuJoCo Playground as `TaskEnv`: their own steps, done by hand, and their blocks of docs/suites.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from metarl_jax.envs import from_brax, from_playground
from metarl_jax.envs.brax_adapter import quiet
from metarl_jax.envs.suites.physics import with_model
from tests.envs.suites import (
    assert_jit_and_vmap_agree,
    assert_maml_updates,
    assert_one_type,
    assert_refused,
    from_docs,
    play,
    play_two_tasks,
)

KEY = jax.random.key(0)
ACTIONS = jnp.array([[0.3], [-0.8], [1.0], [0.1]])

with quiet():
    from brax.envs import Env, State, get_environment
    from brax.envs.wrappers.training import VmapWrapper


def assert_same_steps(states, raw, actions, keys, rewards=True):
    """Episodes [B, T + 1] are the suite's own resets and steps; its states are in `State.internal`."""
    reset, step = jax.jit(raw.reset), jax.jit(raw.step)
    for i, key in enumerate(keys):
        state = reset(jax.random.key_data(key))
        for t in range(len(actions) + 1):
            if t:
                state = step(state, actions[t - 1])
                if rewards:
                    np.testing.assert_allclose(states.reward[i, t], state.reward, rtol=1e-5, atol=1e-6)
                assert states.terminated[i, t] == bool(state.done)
            np.testing.assert_allclose(states.observation[i, t], state.obs, rtol=1e-4, atol=1e-5)


# --- the contract, on an environment of three lines ------------------------------------------------------------------


@struct.dataclass
class Model:
    gain: jax.Array


class Toy(Env):
    """x ← x + gain·a, reward x. Keeps a bound method and writes into the state it gets, as some suites' classes do."""

    backend = observation_size = None  # type: ignore[assignment]
    action_size = 2  # type: ignore[assignment]

    def __init__(self, **settings):
        self.sys = Model(jnp.ones(2))
        self.settings = settings
        self.move = self._move

    def _move(self, x, action):
        return x + self.sys.gain * action

    def reset(self, rng):
        return State(None, self.see(jax.random.normal(rng, (2,))), jnp.zeros(()), 0, {"steps": 0, "last": 0})

    def step(self, state, action):
        state.metrics["steps"] += 1
        state.metrics["last"] = action[0]  # 0 at reset, a float after a step
        x = self.move(state.obs, action)
        reward = x if self.settings.get("vector") else x.sum()
        return state.replace(obs=self.see(x), reward=reward, done=jnp.abs(x).max() > 3)

    def see(self, x):
        return {"state": x, "secret": x} if self.settings.get("dictionary") else x


def scaled(task, model):
    return model.replace(gain=task * model.gain)


def sample(key):
    return jax.random.uniform(key, minval=0.5, maxval=1.5)


def reward(task, previous, action, next):
    return task * (next.obs - previous.obs).sum()


def test_toy_tasks_act_through_system_and_reward():
    raw = Toy()
    env = from_brax(raw, sample_task=sample, system=scaled, reward=reward, horizon=5)
    assert (env.name, env.horizon, env.observation_size, env.action_size) == ("brax:Toy", 5, 2, 2)
    assert_one_type(env)
    actions = jnp.array([[0.5, 0.25], [9.0, 0.0], [0.0, -1.0]])
    _, tasks, states = assert_jit_and_vmap_agree(env, actions)
    moved = np.diff(np.asarray(states.observation), axis=1)
    clipped = np.clip(actions, -1, 1)
    np.testing.assert_allclose(moved, np.asarray(tasks)[:, None, None] * clipped, atol=1e-6)
    np.testing.assert_allclose(states.reward[:, 1:], np.asarray(tasks)[:, None] * moved.sum(-1), atol=1e-5)
    assert not states.truncated.any()
    np.testing.assert_array_equal(states.internal.metrics["steps"], [[0, 1, 2, 3]] * 2)
    np.testing.assert_allclose(states.internal.metrics["last"][0], [0.0, 0.5, 1.0, 0.0])  # not cut to 0
    np.testing.assert_array_equal(raw.sys.gain, [1, 1])
    assert_maml_updates(env)


def test_done_terminates_and_actions_may_be_unlimited():
    env = from_brax(Toy(), sample_task=sample, system=scaled, action_limit=None)
    states = play(env.reset, env.step, KEY, jnp.array(1.0), jnp.array([[0.1, 0.1], [50.0, 0.0]]))
    np.testing.assert_array_equal(states.terminated, [False, False, True])
    np.testing.assert_allclose(states.observation[2, 0] - states.observation[1, 0], 50, rtol=1e-5)


def test_reward_sees_the_previous_state_as_it_was():
    def steps_made(task, previous, action, next):
        return next.metrics["steps"] - previous.metrics["steps"]

    env = from_brax(Toy(), sample_task=sample, reward=steps_made)
    np.testing.assert_array_equal(play(env.reset, env.step, KEY, jnp.array(1.0), jnp.zeros((2, 2))).reward, [0, 1, 1])


def test_a_copy_with_another_model_runs_its_own_methods():
    raw = Toy()
    changed = with_model(raw, "sys", Model(jnp.full(2, 3.0)))
    np.testing.assert_array_equal(changed.move(jnp.zeros(2), jnp.ones(2)), [3, 3])
    np.testing.assert_array_equal(raw.move(jnp.zeros(2), jnp.ones(2)), [1, 1])


def test_observe_chooses_what_is_seen():
    env = from_brax(
        Toy(), sample_task=sample, system=scaled, observe=lambda state: {"a": state.obs[:1], "b": state.done}
    )
    assert env.observation_size == 2
    state = env.reset(KEY, jnp.array(1.0))
    np.testing.assert_array_equal(state.observation, [state.internal.obs[0], 0])


@pytest.mark.parametrize(
    ("env", "options", "parts"),
    [
        ("hoper", {}, ["unknown Brax environment 'hoper'", "did you mean 'hopper'"]),
        ("hopper", {"backend": "sprig"}, ["unknown backend of Brax 'sprig'", "did you mean 'spring'"]),
        (Toy(), {"backend": "spring"}, ["backend is 'spring'", "leave backend out"]),
        (Toy, {}, ["it must be a brax.envs.Env object"]),
        (None, {}, ["env is None", "registered name"]),
        (VmapWrapper(Toy()), {}, ["env is the wrapper VmapWrapper", "env.unwrapped"]),
        (Toy(), {"horizon": -2}, ["horizon is -2", "at least 1"]),
        (Toy(), {"horizon": 2.5}, ["horizon is 2.5"]),
        (Toy(), {"action_limit": 0}, ["action_limit is 0", "positive"]),
        (Toy(), {"sample_task": 3}, ["sample_task is 3", "sample_task(key)"]),
        (Toy(), {"sample_task": lambda: 0}, ["sample_task has the arguments ()", "sample_task(key)"]),
        (Toy(), {"sample_task": lambda key: "goal"}, ["sample_task returned 'goal'", "array"]),
        (Toy(), {"system": None}, ["neither reward nor system is given", "no effect"]),
        (Toy(), {"reward": 1.0}, ["reward is 1.0", "reward(task, previous, action, next)"]),
        (Toy(), {"reward": lambda task, state: 0.0}, ["reward has the arguments (task, state)"]),
        (Toy(), {"reward": lambda task, *_: jnp.ones(3)}, ["reward is an array of shape (3,)", "scalar"]),
        (Toy(), {"reward": lambda *_: None}, ["reward is None", "scalar"]),
        (Toy(vector=True), {}, ["brax:Toy: reward is an array of shape (2,)"]),
        (Toy(), {"system": lambda task: task}, ["system has the arguments (task)", "system(task, model)"]),
        (Toy(), {"system": lambda task, model: task}, ["system returned a", "Model", "replace"]),
        (Toy(), {"system": lambda task, model: model.replace(gain=jnp.ones(5))}, ["system returned a Model", "shapes"]),
        (Toy(), {"observe": "obs"}, ["observe is 'obs'", "observe(state)"]),
        (Toy(dictionary=True), {}, ["a dictionary of 'state', 'secret'", "observe(state)"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_value_and_the_fix(env, options, parts):
    assert_refused(lambda: from_brax(env, **{"sample_task": sample, "system": scaled} | options), parts)


def test_system_needs_a_model():
    raw = Toy()
    del raw.sys
    assert_refused(lambda: from_brax(raw, sample_task=sample, system=scaled), ["keeps its model in 'sys'"])


# --- Brax ------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_brax_reward_in_the_docs():
    env = from_docs("inverted_pendulum")["env"]
    assert_one_type(env)
    keys, tasks, states = assert_jit_and_vmap_agree(env, ACTIONS)
    with quiet():
        raw = get_environment("inverted_pendulum", backend="spring")
    assert_same_steps(states, raw, ACTIONS, keys, rewards=False)
    expected = 1 - np.abs(states.internal.pipeline_state.q[:, 1:, 0] - tasks[:, None])
    np.testing.assert_allclose(states.reward[:, 1:], expected, rtol=1e-5)


def test_brax_pendulum_falls():
    env = from_brax("inverted_pendulum", sample_task=sample, reward=lambda task, before, action, after: task)
    states = play(env.reset, env.step, KEY, jnp.array(0.5), jnp.ones((12, 1)))
    assert states.terminated.any()
    np.testing.assert_array_equal(states.terminated, np.abs(states.observation[:, 1]) > 0.2)
    assert not states.truncated.any()


@pytest.mark.slow
def test_brax_model_in_the_docs():
    names = from_docs('"hopper"')
    env, system = names["env"], names["system"]
    assert_one_type(env)
    actions = jnp.array([[1.0, -1.0, 0.5], [1.0, 1.0, -0.5]])
    keys, tasks, states = play_two_tasks(env, actions)
    assert not np.allclose(states.observation[0, -1], states.observation[1, -1], atol=1e-3)
    with quiet():
        raw = get_environment("hopper", backend="spring")
    raw.sys = system(tasks[0], raw.sys)
    assert_same_steps(states, raw, actions, keys[:1])


# --- MuJoCo Playground -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite():
    return pytest.importorskip("mujoco_playground").dm_control_suite


def test_playground_reward_in_the_docs(suite):
    env = from_docs("PointMass")["env"]
    assert (env.name, env.observation_size, env.action_size) == ("playground:PointMass", 4, 2)
    assert_one_type(env)
    actions = jnp.array([[1.0, -0.5], [0.3, 0.0], [-1.0, 1.0]])
    keys, tasks, states = play_two_tasks(env, actions)
    raw = suite.load("PointMass", config_overrides={"impl": "jax"})
    assert_same_steps(states, raw, actions, keys, rewards=False)
    expected = -np.linalg.norm(states.observation[:, 1:, :2] - tasks[:, None], axis=-1)
    np.testing.assert_allclose(states.reward[:, 1:], expected, rtol=1e-5)


def test_playground_model_in_the_docs(suite):
    names = from_docs("CartpoleBalance")
    env, system = names["env"], names["system"]
    assert_one_type(env)
    keys, tasks, states = play_two_tasks(env, ACTIONS)
    raw = suite.load("CartpoleBalance", config_overrides={"impl": "jax"})
    raw._mjx_model = system(tasks[0], raw.mjx_model)
    assert_same_steps(states, raw, ACTIONS, keys[:1])
    start = env.reset(KEY, tasks[0])
    ends = [env.step(task, start, ACTIONS[0]).observation for task in tasks]
    assert not np.allclose(*ends, atol=1e-4)


@pytest.mark.slow
def test_playground_under_vmap_and_maml(suite):
    env = from_docs("PointMass")["env"]
    assert_jit_and_vmap_agree(env, jnp.array([[1.0, -0.5], [0.3, 0.0]]))
    assert_maml_updates(env)


def test_playground_default_horizon_and_bad_input(suite):
    def make(env, **options):
        return from_playground(env, **{"sample_task": sample, "reward": lambda task, *_: task} | options)

    assert make("PointMass").horizon == 1000
    assert_refused(lambda: make("PointMas"), ["dm_control suite 'PointMas'", "did you mean 'PointMass'"])
    assert_refused(lambda: make("Go1JoystickFlatTerrain"), ["'Go1JoystickFlatTerrain'", "PointMass"])
    assert_refused(lambda: make(Toy()), ["mujoco_playground.registry.load"])
    assert_refused(lambda: make("PointMass", horizon=-1), ["horizon is -1"])
    raw = suite.load("PointMass", config_overrides={"impl": "jax"})
    assert make(raw, name="mine").name == "mine"
    wrapped = pytest.importorskip("mujoco_playground").wrapper.Wrapper(raw)
    assert_refused(lambda: make(wrapped), ["wrapper", "env.unwrapped"])
