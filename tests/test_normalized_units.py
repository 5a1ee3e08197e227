"""Normalisation where units are easily mixed up: bytes, integers, agents that live on, and the limits of soundness."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from tests import toys
from tests.test_normalization import BOTH, KEY, SIZES, recorded, trained


def test_pictures_of_bytes_become_real_numbers():
    """The encoder divides bytes by 255, and standardised numbers by nothing."""
    shape = jax.ShapeDtypeStruct((6, 6, 1), jnp.uint8)
    env = mrl.TaskEnv(
        name="bytes",
        sample_task=lambda key: jax.random.uniform(key),
        reset=lambda key, task: toys.State(
            jax.random.randint(key, (6, 6, 1), 0, 256).astype(jnp.uint8), 0.0, False, False
        ),
        step=lambda task, state, action: state.replace(observation=state.observation // 2, reward=task),
        observation_shape=shape,
        action_size=1,
        horizon=3,
    )
    algorithm = mrl.algorithms.maml(env, tasks=3, episodes=8, normalize_observations=True)
    plain, start = mrl.algorithms.maml(env, tasks=3, episodes=8), algorithm.init(KEY)
    picture = env.reset(KEY, jnp.zeros(())).observation
    alike = (a.policy.apply(p, picture).mean for a, p in ((algorithm, start.params), (plain, start.params.params)))
    np.testing.assert_allclose(*alike, rtol=1e-4)
    state, _ = jax.jit(algorithm.update)(KEY, start)
    seen = state.params.statistics.observation
    assert seen.mean.shape == (6, 6, 1)
    # Uniform bytes, then halves and quarters of them: a mean of 127.5 · (1 + 1/2 + 1/4) / 3 less what is cut off.
    np.testing.assert_allclose(seen.mean.mean(), 127.5 * 1.75 / 3 - (0.5 + 0.75) / 3, rtol=0.02)
    out = jax.eval_shape(algorithm.adapt, KEY, state.params, jnp.zeros(()))
    assert out.trajectory.observation.dtype == jnp.uint8


def far_from_zero():
    """Observations 1000 + N(0, 1), in episodes that are longer than a piece; rewards of size 100."""
    return mrl.TaskEnv(
        name="far",
        sample_task=lambda key: jax.random.normal(key),
        reset=lambda key, task: mrl.envs.State(1000 + jax.random.normal(key, (1,)), 0.0, False, False, key),
        step=lambda task, state, action: mrl.envs.State(
            1000 + jax.random.normal(state.internal, (1,)),
            100 * state.observation[0] - 1e5,
            False,
            False,
            jax.random.split(state.internal)[0],
        ),
        observation_size=1,
        action_size=1,
        horizon=1000,
    )


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["self-tuning", pytest.param("lpg", marks=pytest.mark.slow)])
def test_agents_that_live_on_see_the_units_of_today(name):
    """Pieces of long episodes go on in states that were made with yesterday's statistics."""
    env = recorded(far_from_zero())
    algorithm = mrl.algorithms.make(name, env, horizon=6, **SIZES, adaptation_steps=2, **BOTH)
    update = jax.jit(algorithm.update)
    state, seen, lasts = algorithm.init(KEY), [], []
    for iteration in range(3):
        state, metrics = update(jax.random.key(iteration), state)
        seen.append(np.asarray(metrics["observations"], float).ravel())
        own = np.where(metrics["valid"], metrics["rewards"], 0).sum(-1).mean((0, 2))
        np.testing.assert_allclose(metrics["return"][1:], own, rtol=1e-3)
        if lasts:  # stage 0 is the last of the iteration before
            np.testing.assert_allclose(metrics["return"][0], lasts[-1], rtol=1e-3)
        lasts.append(own[-1])
    moments, seen = state.params.statistics.observation, np.concatenate(seen)
    assert np.abs(seen - 1000).max() < 6
    assert moments.count == seen.size
    np.testing.assert_allclose(moments.mean, seen.mean(), rtol=1e-6)
    np.testing.assert_allclose(moments.scale, seen.std(), rtol=1e-2)
    assert state.params.statistics.gain.scale > 50, "or yesterday's unit is today's"


@pytest.mark.parametrize(("added", "dtype"), [(7, jnp.int32), (0.25, jnp.float32)])
def test_integers_come_back_as_integers_where_no_step_makes_them_real(added, dtype):
    env = mrl.TaskEnv(
        name="count",
        sample_task=lambda key: jax.random.normal(key),
        reset=lambda key, task: toys.State(jax.random.randint(key, (2,), 0, 1000), 0.0, False, False),
        step=lambda task, state, action: state.replace(observation=state.observation + added),
        observation_size=2,
        action_size=1,
        horizon=3,
        measure=lambda data: {"is_kept": data.observation.dtype == dtype},
    )
    algorithm = mrl.algorithms.maml(env, tasks=3, episodes=8, policy={"hidden": ()}, normalize_observations=True)
    state, _ = jax.jit(algorithm.update)(KEY, algorithm.init(KEY))
    state, metrics = jax.jit(algorithm.update)(KEY, state)
    assert metrics["is_kept"]
    data = jax.jit(algorithm.adapt)(KEY, state.params, jnp.zeros(())).trajectory
    assert data.observation.dtype == dtype
    rounding = 0 if dtype == jnp.int32 else 1e-3
    np.testing.assert_allclose(data.next_observation, data.observation + added, rtol=0, atol=rounding)


@pytest.mark.parametrize(("raw", "void"), [(2e8, True), (1e7, False), (jnp.inf, True)])
def test_the_limits_of_soundness_are_those_of_raw_numbers(raw, void):
    """After a step far out, whatever the scale of what was seen before."""
    env = toys.walk()

    def jump(task, state, action):
        return state.replace(observation=jnp.full(1, raw), reward=0.0, time=state.time + 1)

    _, state = trained("maml")
    for variance in (1e-11, 1e8):  # a deviation of 3e-6 is just more than what counts as constant
        seen = state.params.statistics.observation
        statistics = state.params.statistics.replace(observation=seen.replace(variance=jnp.full(1, variance)))
        there = mrl.algorithms.maml(dataclasses.replace(env, step=jump), **SIZES, **BOTH)
        out = jax.jit(there.adapt)(KEY, state.params.replace(statistics=statistics), jnp.zeros(1))
        np.testing.assert_array_equal(out.lengths == 0, np.full((2, 4), void))


def test_a_traced_discount_goes_with_it():
    def update(discount):
        algorithm = mrl.algorithms.rl2(toys.walk(), tasks=2, episodes=2, memory_size=4, discount=discount, **BOTH)
        return algorithm.update(KEY, algorithm.init(KEY))

    jax.eval_shape(update, 0.9)
