"""One θ from several algorithms: identities with the members' own updates, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from tests import toys


@functools.cache
def member(arms=(1.0, 0.2, -0.5), episodes=6, rate=0.1):
    """MAML on a bandit with other rewards; θ are the logits, whatever the rewards and the number of pulls."""
    env = dataclasses.replace(toys.bandit(), sample_task=lambda key: jnp.array(arms))
    return mrl.algorithms.maml(env, tasks=2, episodes=episodes, outer_lr=rate, policy=toys.bandit_policy())


def twins():
    return {"a": member(), "b": member((0.0, 1.0, 0.5), episodes=4, rate=0.3)}


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_update_is_that_of_every_member_in_turn():
    members, key = twins(), jax.random.key(3)
    mixture = mrl.algorithms.mixture(members)
    state = mixture.init(jax.random.key(0))
    assert_equal(state.params, members["a"].init(jax.random.key(0)).params)
    states = {name: one.init(jax.random.key(0)) for name, one in members.items()}
    for iteration in range(3):
        step = jax.random.fold_in(key, iteration)
        state, metrics = jax.jit(mixture.update)(step, state)
        theta, told = states["a"].params, {}
        for index, (name, one) in enumerate(members.items()):
            after, told[name] = jax.jit(one.update)(jax.random.fold_in(step, index), states[name].replace(params=theta))
            theta, states[name] = after.params, after
        states = {name: one.replace(params=theta) for name, one in states.items()}
        np.testing.assert_allclose(state.params, theta, rtol=1e-6)
        np.testing.assert_allclose(metrics["return"], (told["a"]["return"] + told["b"]["return"]) / 2, rtol=1e-5)
        np.testing.assert_allclose(metrics["b/return"], told["b"]["return"], rtol=1e-5)
        # 2 tasks × 2 stages × (6 + 4) pulls
        assert metrics["environment_steps"] == 40
    assert state.iteration == 3
    assert not np.array_equal(state.params, toys.BANDIT_LOGITS)


@pytest.mark.thorough
def test_the_gradient_is_the_mean_of_the_members():
    members, key, theta = twins(), jax.random.key(5), jnp.array(toys.BANDIT_LOGITS)
    mean, metrics = jax.jit(mrl.algorithms.mixture(members).gradient)(key, theta)
    own = [jax.jit(one.gradient)(jax.random.fold_in(key, i), theta)[0] for i, one in enumerate(members.values())]
    np.testing.assert_allclose(mean, (own[0] + own[1]) / 2, rtol=1e-5)
    assert metrics["a/return"].shape == (2,)


def test_adaptation_is_that_of_the_first():
    members, key, theta = twins(), jax.random.key(5), jnp.array(toys.BANDIT_LOGITS)
    mixture, task = mrl.algorithms.mixture(members), jnp.array((0.3, 0.1, 0.9))
    assert_equal(mixture.adapt(key, theta, task), members["a"].adapt(key, theta, task))
    assert mixture.policy is members["a"].policy


@pytest.mark.thorough
def test_it_trains_behind_the_guard():
    *_, last = mrl.training.train(mrl.algorithms.mixture(twins()), jax.random.key(0), iterations=2)
    assert last.state.iteration == 2
    assert last.metrics["nonfinite"].sum() == 0
    assert last.metrics["b/return"].shape == last.metrics["return"].shape


@pytest.mark.thorough
def test_seeds_train_as_they_do_alone():
    mixture, keys = mrl.algorithms.mixture(twins()), jax.random.split(jax.random.key(0), 2)
    *_, both = mrl.training.train(mixture, keys, iterations=2)
    for seed, key in enumerate(keys):
        *_, alone = mrl.training.train(mixture, key, iterations=2)
        np.testing.assert_allclose(both.state.params[seed], alone.state.params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(both.metrics["b/return"][:, seed], alone.metrics["b/return"], rtol=1e-5)


def void_at(stage, all_void):
    """An algorithm that reports what one does whose stage was void: returns that are NaN, and counts that say so."""

    def update(key, state):
        metrics = {
            "return": jnp.array([1.0, 2.0]).at[stage].set(jnp.nan),
            "gain": jnp.nan,
            "diverged_episodes": jnp.int32(3),
            "environment_steps": jnp.int32(0 if all_void else 40),
        }
        return dataclasses.replace(state, params=state.params + 1, iteration=state.iteration + 1), metrics

    return member()._replace(update=update)


@pytest.mark.parametrize("all_void", [False, True])
def test_the_guard_judges_a_void_stage_of_a_member_as_it_does_alone(all_void):
    """A NaN return of a void stage is no fault; an iteration in which a member had no episode is one."""
    for algorithm in (void_at(1, all_void), mrl.algorithms.mixture({"a": void_at(1, all_void), "b": member()})):
        run = mrl.training.train(algorithm, jax.random.key(0), iterations=1, on_nonfinite="skip")
        *_, last = run
        assert last.metrics["nonfinite"][-1] == all_void
        moved = not np.array_equal(
            last.state.params, algorithm.init(mrl.training.streams(jax.random.key(0)).init).params
        )
        assert moved != all_void


@pytest.mark.slow
def test_a_rule_learns_from_discrete_and_continuous_agents_at_once():
    envs = {"grid": mrl.envs.make("grid-nav", size=3, horizon=2), "point": mrl.envs.make("point-robot", horizon=3)}
    sizes = {"tasks": 2, "episodes": 2, "adaptation_steps": 1, "rule_size": 2, "prediction_size": 2}
    members = {name: mrl.algorithms.lpg(env, policy={"hidden": (2,)}, **sizes) for name, env in envs.items()}
    mixture = mrl.algorithms.mixture(members)
    *_, last = mrl.training.train(mixture, jax.random.key(0), iterations=2)
    assert last.state.iteration == 2
    # 2 tasks × 1 stage of 2 environments × 2 and 3 steps
    assert last.metrics["environment_steps"][-1] == 2 * 2 * (2 + 3)
    tasks = {name: env.sample_task(jax.random.key(1)) for name, env in envs.items()}
    for name, task in tasks.items():
        returns = members[name].adapt(jax.random.key(2), last.state.params, task, steps=3).returns
        assert np.isfinite(returns).all()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "members is {}; it must be a mapping of names to at least one MetaAlgorithm"),
        ([1], r"members is \[1\]; it must be a mapping"),
        ({"a": 1}, "member 'a' is 1; it must be a metarl_jax.MetaAlgorithm"),
        ({"a/b": "algorithm"}, "a member's name is 'a/b'; it must be a text without '/'"),
        ({"a": "normalised", "b": "normalised"}, "member 'a' normalises its rewards.*leave normalize_rewards out"),
        ({"a": "algorithm", "b": "other"}, r"θ of member 'b' \(4 numbers\) .* of 'a' \(3 numbers\); members share one"),
    ],
)
def test_refused(members, message):
    larger = mrl.Policy(lambda key: jnp.zeros(4), lambda phi, _: mrl.policies.Categorical(phi[:3]))
    algorithms = {
        "algorithm": member(),
        "other": mrl.algorithms.maml(toys.bandit(), policy=larger),
        "normalised": mrl.algorithms.maml(toys.bandit(), normalize_rewards=True),
    }
    if isinstance(members, dict):
        members = {name: algorithms.get(value, value) for name, value in members.items()}
    with pytest.raises(ValueError, match=message):
        mrl.algorithms.mixture(members)
