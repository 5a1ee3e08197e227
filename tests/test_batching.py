"""Several vmaps as one batch axis: the same results, and one axis where the function stands."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.batching import one_axis
from metarl_jax.rollout import rollout

R, B, N = 2, 3, 4


def step(task, state, key):
    """Of a task [2], a state with a matrix and a typed key."""
    noise = jax.random.normal(key, (2,))
    return {
        "x": state["x"] @ (jnp.eye(2) * task) + noise,
        "key": jax.random.fold_in(state["key"], 1),
        "count": state["count"] + 1,
    }


def arguments(*shape):
    keys = jax.random.split(jax.random.key(1), shape)
    x = jax.random.normal(jax.random.key(2), (*shape, 2, 2))
    return keys, {"x": x, "key": jax.random.split(jax.random.key(3), shape), "count": jnp.zeros(shape, int)}


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


def test_no_gradient_passes_a_rollout_and_none_is_asked_for():
    env = mrl.envs.make("point-nav", horizon=3)
    policy = mrl.policies.mlp(env, hidden=(4,))

    def total(params, task):
        return rollout(jax.random.key(0), env, policy, params, task, episodes=2, horizon=3).reward.sum()

    params, task = policy.init(jax.random.key(1)), env.sample_task(jax.random.key(2))
    gradient = jax.grad(total, argnums=(0, 1))(params, task)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
