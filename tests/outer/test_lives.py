"""Lives that go on across meta-updates: what a window holds, and when an agent is renewed."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.base import Adapter
from metarl_jax.compose import build_parts
from metarl_jax.guard import guard, guarded
from metarl_jax.lifelong import ENDLESS, assemble_lives
from metarl_jax.outer import lives
from tests import toys

THETA = jnp.array(2.0)


def counting(steps=2, env=None, **sizes):
    """φ counts updates in units of θ, from a start that is drawn for every life; a void stage is no update."""
    policy = mrl.Policy(
        init=lambda key: jnp.zeros(()),
        apply=lambda params, observation: mrl.policies.DiagonalGaussian(0 * observation + 1e-3 * params, jnp.zeros(1)),
    )

    def born(key, theta):
        return jax.random.uniform(key)

    adapter = Adapter(
        init_meta=lambda key: THETA,
        init=lambda theta: born(jax.random.key(0), theta),
        params=lambda theta, fast: fast,
        learn=lambda theta, fast, trajectory, advantage: fast + theta,
        born=born,
    )
    parts = build_parts(
        env or toys.walk(), objective=outer.ratio(), policy=policy, episodes=3, adaptation_steps=steps,
        advantage="returns", burn_in=1, horizon=4, **sizes,
    )  # fmt: skip
    return parts._replace(adapter=adapter)


@functools.cache
def one_life():
    parts = counting()
    parts = parts._replace(adapter=lives.skipping_void(parts.adapter))

    @jax.jit
    def run(key):
        life = lives.born(key, parts, THETA, jnp.zeros(1), 7)
        first, one = lives.window(jax.random.fold_in(key, 1), parts, THETA, life)
        second, two = lives.window(jax.random.fold_in(key, 2), parts, THETA, first)
        return life, first, one, second, two

    return run(jax.random.key(0))


def test_a_newborn_has_seen_nothing_and_learns_nothing_from_it():
    life, first, one, _, _ = one_life()
    assert (life.age, life.end) == (0, 7)
    assert not life.newest.trajectory.valid.any()
    assert life.environments.over.all()
    start = life.fast
    np.testing.assert_allclose(one.stages.params, [start, start, start + 2], rtol=1e-6)
    assert first.age == 2


def test_a_window_begins_with_what_the_last_one_ended_with():
    _, first, one, second, two = one_life()
    np.testing.assert_allclose(two.start, first.fast)
    last, newest = (jax.tree.map(lambda leaf, i=i: leaf[i], seen.stages) for i, seen in ((-1, one), (0, two)))
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(newest), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(two.stages.params, first.fast + jnp.array([0.0, 2.0, 4.0]), rtol=1e-6)
    assert second.age == 4
    assert two.stages.trajectory.valid.any((1, 2)).all()


def test_environments_go_on_from_stage_to_stage():
    """A row that was cut continues in the next stage from the observation where it was cut."""
    _, _, one, _, two = one_life()
    stages = jax.tree.map(lambda a, b: jnp.concatenate([a, b[1:]]), one.stages.trajectory, two.stages.trajectory)
    cut = np.asarray(stages.truncated[:, :, -1] & stages.valid[:, :, -1])
    continued = 0
    for s, n in zip(*np.nonzero(cut[:-1]), strict=True):
        left, found = stages.next_observation[s, n, -1], stages.observation[s + 1, n, 0]
        went_on = left > -2  # where it is not, the environment itself had truncated
        if went_on:
            np.testing.assert_allclose(found, left, rtol=1e-5, atol=1e-6)  # a sum, in two orders of rounding
        continued += bool(went_on)
    assert continued > 2


def test_replay_from_the_start_of_a_window_is_what_was_lived():
    parts = counting()
    parts = parts._replace(adapter=lives.skipping_void(parts.adapter))
    _, _, one, _, two = one_life()
    for seen in (one, two):
        path = outer.replay(parts, THETA, seen.stages, seen.start)
        np.testing.assert_allclose(path.params, seen.stages.params, rtol=1e-6)
    # Two updates in the window, of which the newborn's first was none: θ counts as often as it was applied here.
    slopes = [
        jax.grad(lambda theta, seen=seen: outer.replay(parts, theta, seen.stages, seen.start).params[-1])(THETA)
        for seen in (one, two)
    ]
    assert slopes == [1, 2]


def test_the_limit_is_on_each_agents_gradient():
    """Of four agents with a θ of one number: each adds at most the limit to the mean, and none that is below is cut."""

    @jax.jit  # one program for all limits, and one without
    def gradient(limit):
        steps = outer.gradient_steps(outer.descent())
        algorithm = assemble_lives(counting(tasks=4), steps, max_agent_gradient_norm=limit)
        return algorithm.gradient(jax.random.key(3), THETA)

    free, metrics = gradient(None)
    assert "limited_share" not in metrics
    same, metrics = gradient(1e6)
    np.testing.assert_allclose(same, free, rtol=1e-5)
    assert metrics["limited_share"] == 0
    cut, metrics = gradient(1e-9)
    assert metrics["limited_share"] == 1
    assert metrics["dropped_share"] == 0
    assert np.isclose(np.abs(4 * cut / 1e-9) % 2, 0, atol=1e-3)  # ±1 ±1 ±1 ±1
    assert np.abs(free) > 1e-6


@functools.cache
def population_program():
    algorithm = assemble_lives(counting(tasks=4), outer.gradient_steps(outer.descent(outer_lr=1e-9)), lifetime=8)
    return jax.jit(algorithm.init), jax.jit(algorithm.update)


def populations(updates, poisoned=None):
    """The population after every update, and how many of it were renewed; one agent's φ is broken before the last."""
    init, update = population_program()
    state = init(jax.random.key(1))
    seen, renewed = [state.opt_state.population], []
    for index in range(updates):
        if poisoned is not None and index == updates - 1:
            living = state.opt_state
            broken = living.population.replace(fast=living.population.fast.at[poisoned].set(jnp.nan))
            state = state.replace(opt_state=living.replace(population=broken))
        state, metrics = update(jax.random.fold_in(jax.random.key(2), index), state)
        seen.append(state.opt_state.population)
        renewed.append(int(metrics["renewed"]))
    return seen, renewed


def test_a_life_that_ends_is_renewed_and_the_others_go_on():
    seen, renewed = populations(4)
    np.testing.assert_array_equal(seen[0].end, [2, 4, 6, 8])  # all ages from the start
    ages = np.stack([population.age for population in seen])
    # A life of age 0 enters the window in which it is renewed, and leaves it 2 updates older.
    np.testing.assert_array_equal(ages, [[0, 0, 0, 0], [2, 2, 2, 2], [2, 4, 4, 4], [4, 2, 6, 6], [6, 4, 2, 8]])
    assert renewed == [0, 1, 1, 1]
    for before, after in itertools.pairwise(seen[1:]):
        new = np.asarray(after.age) == 2
        changed = np.asarray(before.task != after.task)[:, 0]
        np.testing.assert_array_equal(changed, new)
        np.testing.assert_array_equal(after.end[new], 8)
        learned = np.asarray(after.fast - before.fast)
        np.testing.assert_allclose(learned[~new], 4, rtol=1e-5)
        # A newborn's first update is none, and φ_0 in [0, 1) is drawn: neither 0 nor the old one.
        start = np.asarray(after.fast)[new] - 2
        assert ((start > 0) & (start < 1)).all()
    assert len(np.unique(np.asarray(seen[-1].task))) == 4
    assert len(np.unique(np.asarray(seen[-1].fast) % 2)) == 4


def test_a_life_whose_parameters_are_not_finite_is_renewed_and_harms_no_other():
    seen, renewed = populations(2, poisoned=2)
    sound, _ = populations(2)
    assert renewed == [0, 2]
    np.testing.assert_array_equal(seen[-1].age, [2, 4, 0, 4])
    assert np.isfinite(seen[-1].fast).all()
    others = np.array([0, 1, 3])
    np.testing.assert_array_equal(seen[-1].fast[others], sound[-1].fast[others])
    assert (seen[-1].task[2] != sound[-1].task[2]).all()


def test_the_outer_loss_is_that_of_the_lives_that_are_left():
    """A life that breaks within its window is worth 0 in the mean over lives, and no NaN."""
    init, update = population_program()
    state, _ = update(jax.random.key(2), init(jax.random.key(1)))

    def metrics(poisoned):
        living = state.opt_state
        fast = living.population.fast.at[poisoned].set(jnp.inf) if poisoned else living.population.fast
        broken = living.replace(population=living.population.replace(fast=fast))
        after, told = update(jax.random.key(3), state.replace(opt_state=broken))
        assert np.isfinite(jax.flatten_util.ravel_pytree((after.params, after.opt_state.opt_state))[0]).all()
        return told

    one, none = metrics(2), metrics(None)
    assert (one["diverged_lives"], none["diverged_lives"]) == (1, 0)
    assert np.isfinite(one["loss"])
    # What a broken life did is forgotten, but it was done: an iteration of nothing but such lives was not without an
    # episode, and so is not undone, which would bring them back.
    kept = none["environment_steps"] * one["valid_share"] / none["valid_share"]
    assert 0 < kept < one["environment_steps"] <= none["environment_steps"]


def test_what_hides_in_an_environment_undoes_no_update():
    """Half of all resets are broken, and the clock counts from infinity."""
    env = toys.walk()

    def reset(key, task):
        broken = jax.random.bernoulli(jax.random.fold_in(key, 1))
        start = env.reset(key, task)
        return start.replace(observation=jnp.where(broken, jnp.nan, start.observation), time=jnp.inf)

    parts = counting(tasks=4, env=dataclasses.replace(env, reset=reset))
    algorithm = assemble_lives(parts, outer.gradient_steps(outer.descent(outer_lr=1e-9)))
    update, state = jax.jit(guard(algorithm.update, "abort", 5)), guarded(algorithm.init(jax.random.key(1)))
    for index in range(1, 4):
        state, metrics = update(jax.random.key(index), state)
        assert (metrics["nonfinite"], metrics["diverged_lives"]) == (0, 0)
        assert metrics["diverged_episodes"] > 0
        population = state.opt_state.opt_state.population
        broken = np.isnan(population.environments.state.observation)[..., 0]
        assert 0 < broken.mean() < 1
        assert population.environments.over[broken].all(), "the next piece must begin with a reset"
        np.testing.assert_array_equal(population.age, 2 * index)


def test_a_piece_is_no_longer_than_an_episode():
    with pytest.raises(ValueError, match="horizon is 7; here it is the steps of a piece.*'walk' has 6"):
        mrl.algorithms.make("self-tuning", toys.walk(), horizon=7)


def test_the_longest_lifetime_is_spread_like_any_other():
    optimizer = outer.gradient_steps(outer.descent(outer_lr=1e-9))
    algorithm = assemble_lives(counting(tasks=4), optimizer, lifetime=ENDLESS)
    ends = algorithm.init(jax.random.key(0)).opt_state.population.end
    assert ends.tolist() == [ENDLESS * n // 4 for n in (1, 2, 3, 4)]


def test_without_a_lifetime_no_life_ends():
    algorithm = assemble_lives(counting(tasks=2), outer.gradient_steps(outer.descent(outer_lr=1e-3)))
    np.testing.assert_array_equal(algorithm.init(jax.random.key(0)).opt_state.population.end, ENDLESS)


def test_adapt_lives_from_birth_and_its_first_stage_is_before_any_update():
    algorithm = assemble_lives(counting(steps=5), outer.gradient_steps(outer.descent(outer_lr=1e-3)))
    out = jax.jit(algorithm.adapt)(jax.random.key(3), THETA, jnp.zeros(1))
    assert out.returns.shape == (6, 3)
    assert 10 < out.params < 11, "5 updates of θ = 2 from a start in [0, 1)"
    assert (out.params % 1) != 0
    np.testing.assert_allclose(out.returns, out.trajectory.reward.sum(-1), rtol=1e-6)
