"""gymnax as `TaskEnv`: its own steps, done by hand, and its block of docs/suites.md."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs import from_gymnax, from_playground
from metarl_jax.rollout import rollout
from tests.envs.suites import (
    assert_jit_and_vmap_agree,
    assert_maml_updates,
    assert_one_type,
    assert_refused,
    from_docs,
    play,
)

KEY = jax.random.key(0)


def same(key, params):
    return params


@pytest.fixture(scope="module")
def gymnax():
    return pytest.importorskip("gymnax")


def test_every_registered_environment_has_one_type(gymnax):
    names = [name for name in gymnax.registered_envs if name != "MNISTBandit-bsuite"]  # which needs a download
    assert len(names) >= 25
    for name in names:
        env = from_gymnax(name, same)
        assert_one_type(env)
        raw, defaults = gymnax.make(name)
        observation = jax.eval_shape(raw.reset_env, KEY, defaults)[0]
        assert env.observation_size == observation.size
        assert (env.action_size, env.horizon) == (raw.num_actions, defaults.max_steps_in_episode)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Catch-bsuite", "PointRobot-misc"])
def test_episodes_are_those_of_gymnax(name, gymnax):
    env, (raw, defaults) = from_gymnax(name, same), gymnax.make(name)
    random = np.random.default_rng(0)
    shape = (12,) if env.discrete else (12, env.action_size)
    actions = random.integers(env.action_size, size=shape) if env.discrete else 0.09 * random.uniform(-1, 1, shape)
    actions = jnp.asarray(actions, int if env.discrete else float)
    states = play(env.reset, env.step, KEY, env.sample_task(KEY), actions)
    key, reset_key = jax.random.split(KEY)
    observation, state = raw.reset_env(reset_key, defaults)
    np.testing.assert_array_equal(states.observation[0], np.ravel(observation))
    step = jax.jit(raw.step_env)
    for t, action in enumerate(actions, 1):
        key, step_key = jax.random.split(key)
        observation, state, reward, terminated, _ = step(step_key, state, action, defaults)
        np.testing.assert_allclose(states.observation[t], np.ravel(observation), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(states.reward[t], reward, rtol=1e-6)
        assert states.terminated[t] == terminated


@pytest.mark.thorough
def test_gymnax_in_the_docs(gymnax):
    env = from_docs("Pendulum-v1")["env"]
    keys, tasks, states = assert_jit_and_vmap_agree(env, jnp.ones((3, 1)))
    assert len({float(leaf[i]) for leaf in (tasks.g, tasks.l) for i in range(2)}) == 4
    default = from_gymnax("Pendulum-v1", same)
    assert (env.horizon, env.observation_size, env.action_size, env.discrete) == (200, 3, 1, False)
    other = play(default.reset, default.step, keys[0], default.sample_task(KEY), jnp.ones((3, 1)))
    np.testing.assert_array_equal(states.observation[0, 0], other.observation[0])  # the task is not seen at the start
    assert not np.allclose(states.observation[0, 1], other.observation[1])
    assert_maml_updates(env)


def test_pictures_keep_their_shape_if_asked_to(gymnax):
    env, flat = (from_gymnax("Breakout-MinAtar", same, flatten=flatten) for flatten in (False, True))
    assert (env.observation_shape, flat.observation_shape, flat.observation_size) == ((10, 10, 4), None, 400)
    task = env.sample_task(KEY)
    before, flat_before = env.reset(KEY, task), flat.reset(KEY, task)
    after, flat_after = env.step(task, before, jnp.array(1)), flat.step(task, flat_before, jnp.array(1))
    for one, other in ((before, flat_before), (after, flat_after)):
        np.testing.assert_array_equal(one.observation.ravel(), other.observation)
    layers = [
        len(jax.tree.leaves(mrl.algorithms.maml(one, tasks=2, episodes=2).init(KEY).params)) for one in (env, flat)
    ]
    assert layers[0] > layers[1], "convolutions read it"
    with pytest.raises(ValueError, match="flatten is 1"):
        from_gymnax("Breakout-MinAtar", same, flatten=1)


def test_discrete_actions_learn_too(gymnax):
    assert_maml_updates(from_gymnax("CartPole-v1", same))


@pytest.mark.parametrize(
    ("horizon", "limit", "ends"),
    [
        (9, 9, None),  # the horizon is no truncation
        (9, 20, None),
        (9, 4, (4, False)),
        (None, 4, (4, False)),  # the default horizon is 500
        (500, 500, (10, True)),  # always to the right: the pole falls
    ],
)
def test_time_limits_truncate_and_falls_terminate(horizon, limit, ends, gymnax):
    env = from_gymnax("CartPole-v1", lambda key, params: params.replace(max_steps_in_episode=limit), horizon=horizon)
    assert env.horizon == (500 if horizon is None else horizon)
    state, task = env.reset(KEY, env.sample_task(KEY)), env.sample_task(KEY)
    for t in range(1, 12 if horizon == 500 else 10):
        state = env.step(task, state, jnp.array(1 if horizon == 500 else t % 2))
        if state.terminated or state.truncated:
            break
    else:
        t = None
    if ends is None:
        assert t is None
    else:
        assert bool(state.terminated) is not bool(state.truncated)
        assert (t, bool(state.terminated)) == ends


def test_a_truncated_episode_is_masked_and_bootstrapped(gymnax):
    env = from_gymnax("Pendulum-v1", lambda key, params: params.replace(max_steps_in_episode=3), horizon=6)
    policy = mrl.policies.mlp(env)
    data = jax.jit(lambda key: rollout(key, env, policy, policy.init(KEY), env.sample_task(KEY), 2, 6))(KEY)
    np.testing.assert_array_equal(data.valid, [[True] * 3 + [False] * 3] * 2)
    assert data.truncated[:, 2].all()
    assert (data.discount == 1).all()


def test_actions_are_clipped_to_the_space_of_the_task(gymnax):
    point = from_gymnax("PointRobot-misc", lambda key, params: params.replace(max_force=0.03))
    task = point.sample_task(KEY)
    state = point.step(task, point.reset(KEY, task), jnp.array([7.0, -7.0]))
    np.testing.assert_allclose(state.internal.state.last_action, [0.03, -0.03])
    cart = from_gymnax("CartPole-v1", same)
    task = cart.sample_task(KEY)
    for wild, legal in ((9, 1), (-9, 0)):
        states = [cart.step(task, cart.reset(KEY, task), jnp.array(action)) for action in (wild, legal)]
        np.testing.assert_array_equal(states[0].observation, states[1].observation)


@pytest.mark.parametrize(
    ("arguments", "options", "parts"),
    [
        (("CartPole-v2", same), {}, ["unknown gymnax environment 'CartPole-v2'", "did you mean 'CartPole-v1'"]),
        ((("env", "params"), same), {}, ["('env', 'params')", "gymnax.make(name)[0]"]),
        ((None, same), {}, ["env is None"]),
        (("CartPole-v1", 3), {}, ["sample_params is 3", "sample_params(key, default_params)"]),
        (("CartPole-v1", lambda key: key), {}, ["sample_params has the arguments (key)", "default_params"]),
        (("CartPole-v1", lambda key, params: key), {}, ["sample_params returned a", "EnvParams", "replace"]),
        (("CartPole-v1", lambda key, params: params.replace(gravity="g")), {}, ["sample_params returned", "array"]),
        (("CartPole-v1", same), {"horizon": -1}, ["horizon is -1", "at least 1"]),
        (("CartPole-v1", same), {"horizon": 0}, ["horizon is 0"]),
    ],
)
def test_bad_input_to_gymnax(arguments, options, parts, gymnax):
    assert_refused(lambda: from_gymnax(*arguments, **options), parts)


def test_wrapped_gymnax_is_refused(gymnax):
    wrappers = pytest.importorskip("gymnax.wrappers")
    wrapped = wrappers.FlattenObservationWrapper(gymnax.make("Catch-bsuite")[0])
    assert_refused(lambda: from_gymnax(wrapped, same), ["without wrappers"])


def test_missing_and_old_libraries_name_their_extra(monkeypatch):
    for library, make in (
        ("gymnax", lambda: from_gymnax("x", same)),
        ("mujoco_playground", lambda: from_playground("PointMass", sample_task=same)),
    ):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ImportError, match=r'^[^\n]*pip install "metarl_jax\[(gymnax|playground)\]"$'):
            make()
    old = types.SimpleNamespace(environment=types.SimpleNamespace(Environment=object))
    monkeypatch.setitem(sys.modules, "gymnax", types.SimpleNamespace(environments=old))
    with pytest.raises(ImportError, match=r"older than 1\.0.*\[gymnax\]"):
        from_gymnax("CartPole-v1", same)
