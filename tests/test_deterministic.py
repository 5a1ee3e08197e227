"""Evaluation by modes: what is measured changes, and what is learned from does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.entry import entry_points
from metarl_jax.evaluation import summarize
from tests import rows, toys
from tests.runs.stub import stub_algorithm, stub_env

KEY = jax.random.key(3)
SIZES = {"tasks": 2, "episodes": 3}
NAMES = ("maml", "rl2", "lpg")  # gradient steps, a memory, long lives: the three assemblies


def made(name, env=None, **options):
    env = toys.walk() if env is None else env
    return mrl.algorithms.make(name, env, policy={"hidden": (4,)}, **SIZES | options)


@pytest.fixture(scope="module", params=NAMES)
def adapted(request):
    """Algorithm, task, θ, and the results of `adapt` without and with modes."""
    algorithm = made(request.param)
    theta, task = algorithm.init(KEY).params, toys.walk().sample_task(KEY)
    plain, both = (
        jax.jit(algorithm.adapt, static_argnames="deterministic")(KEY, theta, task, deterministic=deterministic)
        for deterministic in (False, True)
    )
    return algorithm, task, theta, plain, both


def test_the_adaptation_stays_as_it_is(adapted):
    *_, plain, both = adapted
    assert plain.by_mode is None
    assert both.by_mode.returns.shape == both.by_mode.lengths.shape == plain.returns.shape
    for before, after in zip(jax.tree.leaves(plain), jax.tree.leaves(both.replace(by_mode=None)), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)  # another program rounds in another way
    assert (both.by_mode.returns != both.returns).all()


def test_the_modes_are_those_of_every_stage_from_the_starts_of_its_own_episodes():
    """Against a Python loop: a policy whose mode is known plays each start of D, with φ_s from steps 0 … s."""
    env = toys.walk()
    algorithm = made("maml", adaptation_steps=2)
    theta, task = algorithm.init(KEY).params, env.sample_task(KEY)
    out = algorithm.adapt(KEY, theta, task, deterministic=True)
    for stage in range(3):
        phi = algorithm.adapt(KEY, theta, task, steps=stage).params
        for episode in range(3):
            start = out.trajectory.observation[stage, episode, 0]
            state = dataclasses.replace(env.reset(KEY, task), observation=start)
            total, length = 0.0, 0
            for _ in range(env.horizon):
                state = env.step(task, state, algorithm.policy.apply(phi, state.observation).mean)
                total, length = total + state.reward, length + 1
                if state.terminated or state.truncated:
                    break
            np.testing.assert_allclose(out.by_mode.returns[stage, episode], total, rtol=1e-5)
            assert out.by_mode.lengths[stage, episode] == length


@pytest.mark.parametrize("name", rows.by_default(NAMES, ["rl2"]))
def test_without_noise_modes_are_samples(name):
    """σ = 1e-12: both plays of a stage are one, as their starts, memories and environments are."""
    env = toys.walk()
    policy = {"hidden": (4,), "init_std": 1e-12, "learn_std": False}
    # The score of so narrow a density is huge; the pieces of long lives are shorter than their episodes.
    options = {"maml": {"inner_lr": 1e-30}, "rl2": {}, "lpg": {"horizon": 4, "adaptation_steps": 2}}[name]
    algorithm = mrl.algorithms.make(name, env, policy=policy, **SIZES | options)
    out = algorithm.adapt(KEY, algorithm.init(KEY).params, env.sample_task(KEY), deterministic=True)
    np.testing.assert_allclose(out.by_mode.returns, out.returns, rtol=1e-4)
    np.testing.assert_array_equal(out.by_mode.lengths, out.lengths)


@pytest.mark.thorough
def test_evaluate_measures_the_modes_and_counts_what_was_learned_from():
    env, algorithm = toys.walk(), made("maml")
    theta = algorithm.init(KEY).params
    plain, modes = (
        mrl.evaluation.evaluate(algorithm, env, KEY, theta, num_tasks=4, deterministic=d) for d in (False, True)
    )
    for name in ("adapted", "random_init"):
        assert (modes[name].per_task != plain[name].per_task).all()
        np.testing.assert_array_equal(modes[name].episodes, plain[name].episodes)
        np.testing.assert_array_equal(modes[name].environment_steps, plain[name].environment_steps)
    task_key, adapt_key, _ = jax.random.split(KEY, 3)
    for index in range(4):  # the tasks and keys that `evaluate` draws
        task = env.sample_task(jax.random.fold_in(task_key, index))
        out = algorithm.adapt(jax.random.fold_in(adapt_key, index), theta, task, deterministic=True)
        np.testing.assert_allclose(modes["adapted"].per_task[index], out.by_mode.returns.mean(-1), rtol=1e-5)


def test_void_episodes_are_those_that_were_played():
    """Lengths of D are steps; a task counts by the lengths of its measured episodes, for which no budget holds."""
    per_task = np.arange(6.0).reshape(3, 2)
    lengths, played = np.full((3, 2, 2), 5), np.full((3, 2, 2), 7)
    lengths[0, 0], played[1, 1, 0] = 0, 0
    spare = np.zeros((3, 2, 2), bool)
    spare[..., 1] = True
    row = summarize(per_task, lengths, spare, played=played)
    np.testing.assert_array_equal(row.mean, per_task.mean(0))
    np.testing.assert_array_equal(row.diverged_episodes, [0, 1])
    np.testing.assert_allclose(row.environment_steps, [0, 20 / 3])
    played[1, 1] = 0
    assert summarize(np.where(played[..., 0] == 0, np.nan, per_task), lengths, spare, played=played).tasks_left_out == 1


def test_modes_may_stay_where_samples_break_the_simulation():
    env = toys.walk()

    def step(task, state, action):
        after = env.step(task, state, action)
        return after.replace(reward=jnp.where(jnp.abs(action).sum() > 1e-3, jnp.nan, after.reward))

    still = mrl.Policy(lambda key: jnp.zeros(1), lambda phi, _: mrl.policies.DiagonalGaussian(0 * phi, jnp.zeros(1)))
    fragile = dataclasses.replace(env, step=step)
    evaluate = {"algorithm": mrl.algorithms.make("maml", fragile, policy=still, **SIZES), "env": fragile, "key": KEY}
    evaluate |= {"params": jnp.zeros(1), "num_tasks": 3}
    with pytest.raises(ValueError, match="diverged in every episode of some step in 3 of 3 tasks"):
        mrl.evaluation.evaluate(**evaluate)
    row = mrl.evaluation.evaluate(**evaluate, deterministic=True)["adapted"]
    assert np.isfinite(row.per_task).all()
    assert row.tasks_left_out == row.diverged_episodes.sum() == 0
    np.testing.assert_array_equal(row.environment_steps, 0)


class WithoutMode:
    def __init__(self, mean):
        own = mrl.policies.DiagonalGaussian(mean, jnp.zeros(1))
        self.sample, self.log_prob, self.entropy, self.kl = own.sample, own.log_prob, own.entropy, own.kl


def test_a_distribution_without_a_mode_is_refused_only_where_modes_are_asked_for():
    policy = mrl.Policy(lambda key: jnp.zeros(1), lambda phi, observation: WithoutMode(phi + 0 * observation))
    algorithm = mrl.algorithms.make("maml", toys.walk(), policy=policy, **SIZES)
    adapt = {"algorithm": algorithm, "env": toys.walk(), "key": KEY, "params": jnp.zeros(1), "num_tasks": 2}
    mrl.evaluation.evaluate(**adapt)
    with pytest.raises(
        ValueError, match="deterministic needs the method mode .*WithoutMode has none; .* leave deterministic out"
    ):
        mrl.evaluation.evaluate(**adapt, deterministic=True)


@pytest.mark.parametrize(
    ("deterministic", "message"),
    [
        (True, "deterministic is True, and this algorithm's adapt does not take it"),
        (1, "deterministic is 1; it must be True or False"),
        ("no", "deterministic is 'no'; it must be True or False"),
    ],
)
def test_what_cannot_be_measured_is_refused(deterministic, message):
    params = {"w": np.ones(3, np.float32), "b": np.float32(0)}
    with pytest.raises(ValueError, match=message):
        mrl.evaluation.evaluate(stub_algorithm(), stub_env(), KEY, params, num_tasks=2, deterministic=deterministic)


def test_a_users_adapt_need_not_take_it():
    algorithm = mrl.algorithms.make("maml", toys.walk(), tasks=2, episodes=3, policy={"hidden": (4,)})
    own = entry_points(
        algorithm.init, algorithm.update, lambda *arguments: algorithm.adapt(*arguments), algorithm.gradient
    )
    theta = algorithm.init(KEY).params
    assert own.adapt(KEY, theta, toys.walk().sample_task(KEY)).by_mode is None
    with pytest.raises(ValueError, match="deterministic is True, and this algorithm's adapt does not take it"):
        mrl.evaluation.evaluate(own, toys.walk(), KEY, theta, num_tasks=2, deterministic=True)


def test_at_mode_is_for_rollouts_too():
    env = toys.walk()
    policy = toys.small_policy(env)
    phi, task = policy.init(KEY), env.sample_task(KEY)
    data = mrl.rollout.rollout(KEY, env, mrl.policies.at_mode(policy), phi, task, 3, 4)
    means = jax.vmap(jax.vmap(lambda o: policy.apply(phi, o).mean))(data.observation)
    np.testing.assert_allclose(data.action, means, rtol=1e-6)
