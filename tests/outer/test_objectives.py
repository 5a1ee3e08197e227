"""Objectives against numpy, away from the collection point where ratios are 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.policies.likelihood import distributions
from metarl_jax.types import Path, Stage
from tests import toys
from tests.data import random_trajectory

STAGES = 3


@pytest.fixture(scope="module")
def problem():
    """A path of three stages under a state-independent Gaussian with parameters (mean, log_std)."""
    random = np.random.default_rng(0)
    trajectories = [random_trajectory(seed) for seed in range(STAGES)]
    trajectory = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trajectories)
    params = {
        "mean": jnp.asarray(random.normal(size=(STAGES, 2)) * 0.3, jnp.float32),
        "log_std": jnp.asarray(random.normal(size=(STAGES, 2)) * 0.1, jnp.float32),
    }
    advantage = jnp.asarray(random.normal(size=trajectory.reward.shape), jnp.float32)
    policy = mrl.Policy(
        init=lambda key: params, apply=lambda p, _: mrl.policies.DiagonalGaussian(p["mean"], p["log_std"])
    )
    behavior = jax.tree.map(lambda leaf: leaf + jnp.asarray(random.normal(size=leaf.shape) * 0.2, leaf.dtype), params)
    stages = Stage(trajectory, advantage, behavior, jnp.ones(len(advantage)), jnp.zeros(advantage.shape[:2]))
    return policy, Path(params=params, data=stages, burn_in=1)


def numpy_ratio(path, stage):
    mean, std = np.asarray(path.params["mean"][stage]), np.exp(np.asarray(path.params["log_std"][stage]))
    action = np.asarray(path.data.trajectory.action[stage], np.float64)
    log_prob = (-0.5 * ((action - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)
    return np.exp(log_prob - np.asarray(path.data.trajectory.log_prob[stage]))


def stage_data(path, stage):
    return np.asarray(path.data.trajectory.valid[stage]), np.asarray(path.data.advantage[stage])


def averaged(path, average):
    """The path, and what a stage's sums are divided by."""
    valid = path.data.trajectory.valid
    divisors = np.full(STAGES, valid[0].size) if average == "horizon" else valid.sum((1, 2))
    return path.replace(data=path.data.replace(trajectory=path.data.trajectory.replace(average=average))), divisors


@pytest.mark.parametrize("average", ["horizon", "valid"])
def test_ratio(problem, average):
    policy, (path, divisors) = problem[0], averaged(problem[1], average)
    loss, metrics = outer.ratio()(policy, path)
    values, extremes = [], []
    for stage in (1, 2):
        valid, advantage = stage_data(path, stage)
        ratio = numpy_ratio(path, stage)
        values.append(-(ratio * advantage)[valid].sum() / divisors[stage])
        extremes.append((ratio[valid].min(), ratio[valid].max()))
    np.testing.assert_allclose(loss, np.mean(values), rtol=1e-4)
    np.testing.assert_allclose(metrics["ratio_min"], min(low for low, _ in extremes), rtol=1e-4)
    np.testing.assert_allclose(metrics["ratio_max"], max(high for _, high in extremes), rtol=1e-4)


@pytest.mark.parametrize(("clip", "average"), [(0.1, "horizon"), (0.3, "horizon"), (0.3, "valid")])
def test_clipped(problem, clip, average):
    policy, (path, divisors) = problem[0], averaged(problem[1], average)
    values = []
    for stage in (1, 2):
        valid, advantage = stage_data(path, stage)
        ratio = numpy_ratio(path, stage)
        gain = np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage)
        values.append(-gain[valid].sum() / divisors[stage])
    np.testing.assert_allclose(outer.clipped(clip)(policy, path)[0], np.mean(values), rtol=1e-4)


@pytest.mark.parametrize("average", ["horizon", "valid"])
def test_inner_kl_is_from_the_behavior_on_the_stages_learned_from(problem, average):
    policy, (path, divisors) = problem[0], averaged(problem[1], average)
    values = []
    for stage in (0, 1):
        valid, _ = stage_data(path, stage)
        old = path.data.params
        old_mean, old_std = np.asarray(old["mean"][stage]), np.exp(np.asarray(old["log_std"][stage]))
        mean, std = np.asarray(path.params["mean"][stage]), np.exp(np.asarray(path.params["log_std"][stage]))
        kl = np.log(std / old_std) + (old_std**2 + (old_mean - mean) ** 2) / (2 * std**2) - 0.5
        values.append(kl.sum() * valid.sum() / divisors[stage])  # one distribution in all states
    loss, metrics = outer.inner_kl(0.25)(policy, path)
    np.testing.assert_allclose(metrics["inner_kl"], np.mean(values), rtol=1e-4)
    np.testing.assert_allclose(loss, 0.25 * np.mean(values), rtol=1e-4)


def test_add_sums_losses_and_unites_metrics(problem):
    policy, path = problem
    parts = (outer.clipped(0.3), outer.inner_kl(0.5))
    loss, metrics = outer.add(*parts)(policy, path)
    np.testing.assert_allclose(loss, sum(part(policy, path)[0] for part in parts), rtol=1e-6)
    assert metrics.keys() == {"ratio_min", "ratio_max", "inner_kl"}


def test_padding_poisons_no_gradient(problem):
    policy, path = problem
    mask = path.data.trajectory.valid
    trajectory = path.data.trajectory.replace(
        observation=jnp.where(mask[..., None], path.data.trajectory.observation, jnp.nan),
        action=jnp.where(mask[..., None], path.data.trajectory.action, jnp.inf),
    )
    poisoned = path.replace(data=path.data.replace(trajectory=trajectory))
    for objective in (outer.ratio(), outer.clipped(), outer.inner_kl()):
        gradients = [
            jax.grad(lambda p, q=q, o=objective: o(policy, q.replace(params=p))[0])(path.params)
            for q in (path, poisoned)
        ]
        jax.tree.map(np.testing.assert_array_equal, *gradients)


def test_the_behavior_is_data_so_that_the_kls_curvature_is_fishers(problem):
    """With 1/σ² for a mean and 2 for a log σ, where the behaviour is the policy itself."""
    policy, path = problem

    def penalty(params):
        moved = path.replace(params=params, data=path.data.replace(params=params))
        return outer.inner_kl(1.0)(policy, moved)[0]

    curvature = jax.hessian(penalty)(path.params)
    share = np.asarray(path.data.trajectory.valid).mean((1, 2))[: STAGES - 1, None] / (STAGES - 1)
    fisher = {"mean": np.exp(-2 * np.asarray(path.params["log_std"]))[:-1], "log_std": 2.0}
    for name, expected in fisher.items():
        whole = np.asarray(curvature[name][name])
        found = np.stack([np.diagonal(whole[stage, :, stage]) for stage in range(STAGES - 1)])
        np.testing.assert_allclose(found, share * expected * np.ones_like(found), rtol=1e-4)


@pytest.mark.parametrize("average", ["horizon", "valid"])
def test_entropy_bonus(problem, average):
    policy, (path, divisors) = problem[0], averaged(problem[1], average)
    values = []
    for stage in range(STAGES):
        valid = np.asarray(path.data.trajectory.valid[stage])
        of_step = (0.5 * np.log(2 * np.pi * np.e) + np.asarray(path.params["log_std"][stage])).sum()
        values.append(of_step * valid.sum() / divisors[stage])
    loss, metrics = outer.entropy_bonus(0.5)(policy, path)
    np.testing.assert_allclose(loss, -0.5 * np.mean(values), rtol=1e-5)
    assert metrics == {}
    seen = jax.vmap(lambda params, data: distributions(policy, params, data.trajectory))(path.params, path.data)
    np.testing.assert_allclose(outer.entropy_bonus(0.5)(policy, path.replace(seen=seen))[0], loss, rtol=1e-6)


def test_the_option_adds_the_bonus_to_the_gradient():
    """Where σ depends on nothing, that of w·H in every log σ: w, or less where steps were not taken."""
    found = {}
    for weight in (0.0, 0.3):
        algorithm = mrl.algorithms.make(
            "maml", toys.walk(), tasks=2, episodes=2, inner_lr=0.0, policy={"hidden": (4,)}, entropy_weight=weight
        )
        found[weight] = jax.jit(algorithm.gradient)(jax.random.key(1), algorithm.init(jax.random.key(0)).params)[0]
    added = jax.tree.map(lambda a, b: np.asarray(a - b), found[0.3], found[0.0])
    for name, leaf in jax.tree_util.tree_leaves_with_path(added):
        if "log_std" in jax.tree_util.keystr(name):
            assert (leaf > 0).all()
            assert (leaf <= 0.3 + 1e-6).all()
        else:
            np.testing.assert_allclose(leaf, 0, atol=1e-5)


def test_promps_clip_bounds_its_credit_too(monkeypatch):
    asked, real = [], outer.credit
    monkeypatch.setattr(outer, "credit", lambda *arguments: asked.append(arguments) or real(*arguments))
    mrl.algorithms.make("promp", toys.walk(), clip=0.125, credit=0.25)
    mrl.algorithms.make("e-maml", toys.walk())
    assert asked == [(0.25, 0.125), (1.0, 0.3)]
