"""Several vmaps as one batch axis: the same results, and one axis where the function stands."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.batching import one_axis
from metarl_jax.guard import first_nan
from metarl_jax.rollout import rollout
from tests import toys

R, B, N = 2, 3, 4


def step(task, state, key):
    """Of a task [2], a state with a matrix and a typed key."""
    noise = jax.random.normal(key, (2,))
    x = state["x"] @ (jnp.eye(2) * task) + noise
    return state | {"x": x, "key": jax.random.fold_in(state["key"], 1), "count": state["count"] + 1}


def arguments(*shape):
    keys = jax.random.split(jax.random.key(1), shape)
    x = jax.random.normal(jax.random.key(2), (*shape, 2, 2))
    state = {"x": x, "key": jax.random.split(jax.random.key(3), shape), "count": jnp.zeros(shape, int)}
    return keys, state | {"empty": jnp.zeros((*shape, 0, 3))}  # as some simulators' states have it


def assert_equal(a, b, tolerance=0.0):
    def close(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)

    jax.tree.map(close, a, b)


def nested(function, axes):
    """A vmap for each of the axes, the outermost first; each says whether it maps task, state and key."""
    return functools.reduce(lambda inner, mapped: jax.vmap(inner, mapped), reversed(axes), function)


TASKS_SHARED_BY_EPISODES = [(0, 0, 0), (None, 0, 0)]


@pytest.mark.parametrize(
    ("shape", "task_shape", "axes"),
    [
        ((), (), []),
        ((N,), (N,), [(0, 0, 0)]),
        ((N,), (), [(None, 0, 0)]),
        ((B, N), (B,), TASKS_SHARED_BY_EPISODES),
        ((R, B, N), (R, B), [(0, 0, 0), *TASKS_SHARED_BY_EPISODES]),
        ((R, B, N), (B,), [(None, 0, 0), *TASKS_SHARED_BY_EPISODES]),
        ((1, 1), (1,), TASKS_SHARED_BY_EPISODES),
    ],
)
def test_it_is_the_nested_vmap(shape, task_shape, axes):
    task = jax.random.normal(jax.random.key(0), (*task_shape, 2))
    keys, state = arguments(*shape)
    expected = nested(step, axes)(task, state, keys)
    assert_equal(jax.jit(nested(one_axis(step), axes))(task, state, keys), expected, 1e-6)


def batch_shapes(function, *values):
    """The shapes of the products in a function's program."""
    return [
        equation.outvars[0].aval.shape
        for equation in jax.make_jaxpr(function)(*values).eqns
        for equation in _all(equation)
        if equation.primitive.name == "dot_general"
    ]


def _all(equation):
    yield equation
    for value in equation.params.values():
        if hasattr(value, "jaxpr"):
            yield from (inner for eqn in value.jaxpr.eqns for inner in _all(eqn))


def test_the_function_sees_one_axis():
    keys, state = arguments(R, B, N)
    axes = [(0, 0, 0), *TASKS_SHARED_BY_EPISODES]
    task = jnp.ones((R, B, 2))
    assert batch_shapes(nested(one_axis(step), axes), task, state, keys) == [(R * B * N, 2, 2)]
    assert batch_shapes(nested(step, axes), task, state, keys) == [(R, B, N, 2, 2)]


def test_seeds_keep_an_axis_of_their_own_where_they_may_be_spread_over_devices():
    keys, state = arguments(R, B, N)
    mesh = mrl.devices.mesh(1, tasks=B, seeds=R)
    with jax.set_mesh(mesh):
        shapes = batch_shapes(
            nested(one_axis(step), [(0, 0, 0), *TASKS_SHARED_BY_EPISODES]), jnp.ones((R, B, 2)), state, keys
        )
    assert shapes == [(R, B * N, 2, 2)]


def test_in_a_scan_as_a_rollout_uses_it():
    keys, state = arguments(B, N)
    task = jnp.ones((B, 2))

    def run(function):
        def one(task, state, key):
            return jax.lax.scan(lambda s, k: (function(task, s, k), s["x"]), state, jax.random.split(key, 5))

        return jax.jit(nested(one, TASKS_SHARED_BY_EPISODES))(task, state, keys)

    assert_equal(run(one_axis(step)), run(step), 1e-5)


def decaying(rate, trace=lambda: None):
    """An environment that closes over a number, which may be traced."""

    def reset(key, task):
        return toys.State(jax.random.normal(key, (2,)), jnp.zeros(()), jnp.zeros((), bool), jnp.zeros((), bool))

    def step(task, state, action):
        trace()
        reward = -rate * (state.observation**2).sum()
        return state.replace(observation=0.9 * rate * state.observation + action, reward=reward)

    return mrl.TaskEnv(
        sample_task=jax.random.normal, reset=reset, step=step, observation_size=2, action_size=2, horizon=3
    )


def total(rate):
    """Of two episodes of the environment with this rate."""
    env = decaying(rate)
    policy = mrl.policies.mlp(env, hidden=(4,))
    params = policy.init(jax.random.key(1))
    return rollout(jax.random.key(0), env, policy, params, jnp.ones(()), episodes=2, horizon=3).reward.sum()


def test_an_environment_may_close_over_traced_values():
    rates = jnp.array([0.5, 1.0])
    expected = [jax.jit(lambda rate=rate: total(float(rate)))() for rate in rates]
    assert expected[0] != expected[1]
    np.testing.assert_allclose([jax.jit(total)(rate) for rate in rates], expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(total))(rates), expected, rtol=1e-5)
    assert jax.jit(jax.grad(total))(0.5) == 0
    assert jax.jit(lambda rate: jax.jvp(total, (rate,), (1.0,)))(0.5)[1] == 0


def test_an_update_traces_the_environment_once():
    traces = []
    algorithm = mrl.algorithms.make("promp", decaying(1.0, lambda: traces.append(1)), tasks=2, episodes=2)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    jax.eval_shape(algorithm.update, jax.random.key(1), state)
    assert len(traces) == 1


def test_the_first_nan_of_an_environment_is_found_where_it_arises():
    env = decaying(1.0)

    def step(task, state, action):
        following = env.step(task, state, action)
        return following.replace(reward=jnp.sqrt(-1 - following.reward**2))

    algorithm = mrl.algorithms.make("maml", dataclasses.replace(env, step=step), tasks=1, episodes=1, horizon=1)
    found = first_nan(algorithm, jax.random.key(1), algorithm.init(jax.random.key(0)))
    assert found is not None
    assert "in sqrt" in found
    assert "test_batching.py" in found


def test_no_gradient_passes_a_rollout():
    env = mrl.envs.make("point-nav", horizon=3)
    policy = mrl.policies.mlp(env, hidden=(4,))

    def rewards(params, task):
        return rollout(jax.random.key(0), env, policy, params, task, episodes=2, horizon=3).reward.sum()

    params, task = policy.init(jax.random.key(1)), env.sample_task(jax.random.key(2))
    gradient = jax.jit(jax.grad(rewards, argnums=(0, 1)))(params, task)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
