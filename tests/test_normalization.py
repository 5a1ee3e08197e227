"""Running normalisation: statistics against NumPy, invariance to units, and deployment in raw ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax.moments import Moments
from metarl_jax.normalization import Normalized
from tests import rows, toys
from tests.test_learner import close, replay

SIZES = {"tasks": 3, "episodes": 4, "policy": {"hidden": (4,)}}
KEY = jax.random.key(0)
BOTH = {"normalize_observations": True, "normalize_rewards": True}


def recorded(env):
    """The environment, with D among its metrics."""
    return dataclasses.replace(
        env,
        measure=lambda data: {"observations": data.observation, "rewards": data.reward, "valid": data.valid},
    )


@functools.cache
def make(name, **options):
    algorithm = mrl.algorithms.make(name, recorded(toys.walk()), **(SIZES | BOTH | options))
    return algorithm, jax.jit(algorithm.update)


def so_far(rewards, discount=0.99):
    gains = np.zeros_like(rewards)
    for t in range(rewards.shape[-1]):
        gains[..., t] = rewards[..., t] + (discount * gains[..., t - 1] if t else 0)
    return gains


# What decays, perturbs and preconditions θ must leave the statistics alone.
UPDATES = [
    ("es-maml", {"outer_optimizer": optax.adamw(1e-2, weight_decay=0.5)}),
    ("rl2", {"discount": 0.9}),
    rows.thorough("promp", {"discount": 0.0}),
    rows.thorough("meta-curvature", {}),
]


@pytest.mark.parametrize(("name", "options"), UPDATES)
def test_statistics_are_those_of_all_steps_taken(name, options):
    algorithm, update = make(name, **options)
    state, data = algorithm.init(KEY), []
    for iteration in range(3):
        state, metrics = update(jax.random.key(iteration), state)
        data.append(jax.tree.map(np.asarray, metrics))
    valid = np.concatenate([one["valid"].ravel() for one in data])
    assert 0 < valid.mean() < 1, "episodes should end early"
    seen = np.concatenate([one["observations"].ravel() for one in data])[valid].astype(float)
    gains = [so_far(one["rewards"].astype(float), options.get("discount", 0.99)).ravel() for one in data]
    gains = np.concatenate(gains)[valid]
    statistics = state.params.statistics
    for moments, values in ((statistics.observation, seen), (statistics.gain, gains)):
        assert moments.count == len(values)
        np.testing.assert_allclose(np.ravel(moments.mean), values.mean(), rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(np.ravel(moments.scale), values.std(), rtol=2e-5)


@pytest.mark.parametrize("name", ["maml", rows.thorough("maml-trpo"), rows.thorough("rl2")])
def test_the_first_update_is_that_without_normalisation(name):
    """Nothing was seen before, so all is divided by 1."""
    algorithm, update = make(name)
    plain = mrl.algorithms.make(name, toys.walk(), **SIZES)
    state, metrics = update(KEY, algorithm.init(KEY))
    expected, other = jax.jit(plain.update)(KEY, plain.init(KEY))
    close(state.params.params, expected.params)
    close(metrics["return"], other["return"])


def in_other_units(env, factor, shift, price):
    """The same MDPs with observations factor · s + shift, and prices for rewards."""

    def view(state):
        return mrl.envs.state.View(
            factor * state.observation + shift, price * state.reward, state.terminated, state.truncated, state
        )

    return dataclasses.replace(
        env,
        reset=lambda key, task: view(env.reset(key, task)),
        step=lambda task, state, action: view(env.step(task, state.inner, action)),
    )


@pytest.mark.parametrize("name", ["rl2", rows.thorough("promp"), pytest.param("lpg", marks=pytest.mark.slow)])
def test_units_do_not_matter(name):
    """θ moves as it would in other units, whose statistics are transformed alike; returns stay in raw units."""
    factor, shift, price = 50.0, -7.0, 0.01
    algorithm, update = make(name)
    other = mrl.algorithms.make(name, in_other_units(toys.walk(), factor, shift, price), **SIZES, **BOTH)
    state, _ = update(KEY, algorithm.init(KEY))
    statistics = state.params.statistics
    seen, gain = statistics.observation, statistics.gain
    transformed = statistics.replace(
        observation=Moments(seen.count, factor * seen.mean + shift, factor**2 * seen.variance),
        gain=Moments(gain.count, price * gain.mean, price**2 * gain.variance),
    )
    there = state.replace(params=Normalized(state.params.params, transformed))
    if name == "lpg":  # its agents' environments are those of the other units
        there = there.replace(opt_state=other.init(KEY).opt_state)
        state = state.replace(opt_state=algorithm.init(KEY).opt_state)
    after, metrics = update(jax.random.key(1), state)
    there, expected = jax.jit(other.update)(jax.random.key(1), there)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), after.params.params, there.params.params
    )
    np.testing.assert_allclose(price * metrics["return"], expected["return"], rtol=1e-4)
    moved = there.params.statistics.observation
    np.testing.assert_allclose(factor * after.params.statistics.observation.mean + shift, moved.mean, rtol=1e-4)
    np.testing.assert_allclose(
        price * after.params.statistics.gain.scale, there.params.statistics.gain.scale, rtol=1e-4
    )


def trained(name, **options):
    algorithm, update = make(name, **options)
    return algorithm, update(KEY, algorithm.init(KEY))[0]


@pytest.mark.parametrize("name", ["maml", "rl2"])
def test_adapt_is_in_raw_units(name):
    algorithm, state = trained(name)
    task = jnp.array([0.3])
    out = jax.jit(algorithm.adapt)(KEY, state.params, task)
    data = jax.tree.map(np.asarray, out.trajectory)
    position = data.observation + data.action
    np.testing.assert_allclose(
        np.where(data.valid, data.next_observation[..., 0], 0), np.where(data.valid, position[..., 0], 0), atol=2e-5
    )
    reward = -((position[..., 0] - 0.3) ** 2)
    np.testing.assert_allclose(np.where(data.valid, data.reward, 0), np.where(data.valid, reward, 0), atol=2e-4)
    np.testing.assert_allclose(out.returns, np.where(data.valid, reward, 0).sum(-1), rtol=1e-4)
    assert jax.tree.structure(out.params.statistics) == jax.tree.structure(state.params.statistics)
    close(out.params.statistics, state.params.statistics)


@pytest.mark.parametrize("name", ["maml", "rl2", pytest.param("lpg", marks=pytest.mark.slow)])
def test_deployment_equals_adapt(name):
    """From raw observations and rewards, outside of the program; an inner step sees the size of the rewards."""
    algorithm, state = trained(name, **({"normalized": False} if name == "maml" else {}))
    expected = jax.jit(algorithm.adapt)(KEY, state.params, toys.walk().sample_task(KEY))
    learner = mrl.Learner(algorithm, state.params)
    if name == "lpg":
        learner._fast = jax.jit(algorithm.online.start)(jax.random.split(jax.random.split(KEY)[0])[0], state.params)
    replay(learner, expected.trajectory, stages=1)
    close(learner.params, expected.params)


def test_the_policy_takes_raw_observations():
    algorithm, state = trained("maml")
    seen = state.params.statistics.observation
    raw = jnp.array([1.5])
    normal = mrl.policies.mlp(toys.walk(), hidden=(4,)).apply(state.params.params, (raw - seen.mean) / seen.scale)
    close(algorithm.policy.apply(state.params, raw).mean, normal.mean)


def test_a_learned_rate_is_no_part_of_the_policy():
    algorithm = mrl.algorithms.make("meta-sgd", toys.walk(), **SIZES, **BOTH)
    theta = algorithm.init(KEY).params
    phi = mrl.inner.policy_of(theta)
    jax.tree.map(np.testing.assert_array_equal, phi, algorithm.policy.init(KEY).replace(params=theta.params.policy))
    jax.tree.map(np.testing.assert_array_equal, mrl.inner.with_policy(theta, phi), theta)


def test_modes_are_in_raw_units():
    """Where nothing is drawn but the start, an episode by modes is the mean of the policy, step by step."""
    algorithm, state = trained("maml")
    out = jax.jit(functools.partial(algorithm.adapt, deterministic=True))(KEY, state.params, jnp.array([0.3]))
    starts = np.asarray(out.trajectory.observation[0, :, 0])
    mode = jax.jit(jax.vmap(lambda s: algorithm.policy.apply(state.params, s).mean))
    returns, position, running = np.zeros(len(starts)), starts, np.ones(len(starts), bool)
    for _ in range(toys.walk().horizon):
        position = position + np.asarray(mode(position))
        returns -= running * ((position - 0.3) ** 2)[:, 0]
        running &= (np.abs(position[:, 0]) <= 2.5) & (position[:, 0] >= -2)
    np.testing.assert_allclose(out.by_mode.returns[0], returns, rtol=1e-4)
    assert state.params.statistics.gain.scale > 1.5, "or the test shows nothing"


def test_gradient_leaves_the_statistics_alone():
    algorithm, state = trained("maml")
    ascent, metrics = jax.jit(algorithm.gradient)(KEY, state.params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(ascent.statistics))
    assert any(leaf.any() for leaf in jax.tree.leaves(ascent.params))
    assert not [name for name in metrics if name.startswith("normalization")]


@pytest.mark.parametrize("name", rows.by_default(mrl.algorithms.names(), ["lpg"]))
def test_every_algorithm_keeps_its_state(name):
    """Shapes and dtypes, without compiling."""
    algorithm = mrl.algorithms.make(name, toys.walk(), **SIZES, **BOTH)
    state = jax.eval_shape(algorithm.init, KEY)
    after, metrics = jax.eval_shape(algorithm.update, KEY, state)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert set(metrics) >= {"return", "environment_steps"}


@pytest.mark.thorough
def test_seeds_and_iterations_in_one_program():
    algorithm, update = make("promp")
    roots = jax.random.split(KEY, 2)
    keys = jax.vmap(lambda root: jax.random.split(root, 3))(roots)
    states = jax.vmap(algorithm.init)(roots)
    run = jax.jit(jax.vmap(lambda state, keys: jax.lax.scan(lambda s, k: algorithm.update(k, s), state, keys)[0]))
    together = run(states, keys)
    for seed in range(2):
        state = jax.tree.map(lambda leaf, i=seed: leaf[i], states)
        for key in keys[seed]:
            state, _ = update(key, state)
        jax.tree.map(
            lambda a, b, i=seed: np.testing.assert_allclose(a[i], b, rtol=2e-3, atol=1e-4),
            together.params,
            state.params,
        )


# --- moments ---------------------------------------------------------------------------------------------------------


def test_moments_of_parts_are_those_of_the_whole():
    values = np.random.default_rng(0).normal([1e3, 0], [1e-2, 5], (60, 2)).astype(np.float32)
    parts = [values[:7], values[7:8], values[8:]]

    @jax.jit
    def merged(parts):
        total = Moments(jnp.zeros(()), jnp.zeros(2), jnp.zeros(2))
        for part in parts:
            total = total.merged(Moments(jnp.float32(len(part)), part.mean(0), part.var(0)))
        return total

    total = merged(parts)
    assert total.count == 60
    np.testing.assert_allclose(total.mean, values.mean(0, dtype=float), rtol=1e-5)
    np.testing.assert_allclose(total.scale, values.std(0, dtype=float), rtol=2e-2)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_nothing_seen_changes_nothing(scale):
    old = Moments(jnp.float32(5), jnp.array([2.0]), jnp.array([9e-4]))
    nothing = Moments(jnp.float32(0), jnp.array([0.0]), jnp.array([0.0 if scale == 1 else scale**2]))
    for merged in (old.merged(nothing), nothing.merged(old)):
        close(merged, old)
    np.testing.assert_array_equal(nothing.scale, [scale])


SCALES = [(5.0, 0.0, 1.0), (5.0, 1e-14, 1.0), (0.0, 0.0, 1.0), (0.0, 1e-14, 1.0), (0.0, 4.0, 2.0), (0.0, 1e-8, 1e-4)]


@pytest.mark.parametrize(("mean", "variance", "scale"), SCALES)
def test_what_never_changes_is_only_centred(mean, variance, scale):
    """What rounding leaves of a constant, zero too, is no change."""
    found = Moments(jnp.float32(9), jnp.float32(mean), jnp.float32(variance)).scale
    np.testing.assert_allclose(found, scale, rtol=1e-6)


def test_a_diverged_episode_is_not_counted():
    env = toys.walk()

    def diverging(task, state, action):
        after = env.step(task, state, action)
        return after.replace(observation=jnp.where(after.observation > 1.5, jnp.nan, after.observation))

    broken = recorded(dataclasses.replace(env, step=diverging))
    algorithm = mrl.algorithms.make("maml", broken, **SIZES, **BOTH)
    state, metrics = jax.jit(algorithm.update)(KEY, algorithm.init(KEY))
    assert metrics["diverged_episodes"] > 0
    seen = metrics["observations"][metrics["valid"]]
    np.testing.assert_allclose(state.params.statistics.observation.mean, seen.mean(), rtol=1e-5)
    assert state.params.statistics.observation.count == metrics["valid"].sum()


@pytest.mark.parametrize("option", ["normalize_observations", "normalize_rewards"])
def test_bad_values_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} is 'yes'"):
        mrl.algorithms.maml(toys.walk(), **{option: "yes"})
    with pytest.raises(ValueError, match=f"{option} is an option of a whole algorithm"):
        mrl.algorithms.build_parts(toys.walk(), objective=mrl.outer.ratio(), **{option: True})


def test_only_one_of_the_two():
    for option, kept in (("normalize_observations", "observation"), ("normalize_rewards", "gain")):
        algorithm = mrl.algorithms.maml(toys.walk(), **SIZES, **{option: True})
        statistics = jax.eval_shape(algorithm.init, KEY).params.statistics
        assert [name for name in ("observation", "gain") if getattr(statistics, name) is not None] == [kept]
