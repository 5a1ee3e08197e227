"""Surrogates against numpy, and inner steps against hand-made updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import inner
from tests.data import random_trajectory

SIZES = (3, 2)


@pytest.fixture(scope="module")
def problem():
    """A linear-Gaussian policy, whose log-probabilities and scores fit on a line of numpy."""
    random = np.random.default_rng(5)
    params = {
        "weight": jnp.asarray(random.normal(size=SIZES), jnp.float32),
        "log_std": jnp.asarray(random.normal(size=2) * 0.2, jnp.float32),
    }
    policy = mrl.Policy(
        init=lambda key: params,
        apply=lambda p, observation: mrl.policies.DiagonalGaussian(observation @ p["weight"], p["log_std"]),
    )
    advantage = jnp.asarray(random.normal(size=(12, 9)), jnp.float32)
    return policy, params, random_trajectory(0), advantage


def numpy_log_prob(params, trajectory):
    mean = np.asarray(trajectory.observation, np.float64) @ np.asarray(params["weight"], np.float64)
    log_std = np.asarray(params["log_std"], np.float64)
    standardized = (np.asarray(trajectory.action) - mean) / np.exp(log_std)
    return (-0.5 * standardized**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)


@pytest.mark.parametrize("average", ["horizon", "valid"])
def test_surrogate_values(problem, average):
    policy, params, trajectory, advantage = problem
    trajectory = trajectory.replace(average=average)
    log_prob, valid = numpy_log_prob(params, trajectory), np.asarray(trajectory.valid)
    divisor = {"horizon": 12 * 9, "valid": valid.sum()}[average]
    expected = {
        inner.score_function: log_prob,
        inner.likelihood_ratio: np.exp(log_prob - np.asarray(trajectory.log_prob)),
    }
    for surrogate, weight in expected.items():
        value = surrogate(policy, params, trajectory, advantage)
        np.testing.assert_allclose(value, -(weight * np.asarray(advantage))[valid].sum() / divisor, rtol=1e-4)


def test_surrogates_share_the_policy_gradient_at_the_behavior(problem):
    """∇ of all is −1/(N T) Σ A ∇log π over the steps taken, here by the closed-form score of the linear policy."""
    policy, params, trajectory, advantage = problem
    on_policy = trajectory.replace(log_prob=mrl.policies.log_prob(policy, params, trajectory))
    valid = np.asarray(trajectory.valid)
    standardized = np.asarray(trajectory.action) - np.asarray(trajectory.observation) @ np.asarray(params["weight"])
    variance = np.exp(2 * np.asarray(params["log_std"]))
    weighted = np.where(valid, np.asarray(advantage), 0) / valid.size
    expected = {
        "weight": -np.einsum("nt,nto,nta->oa", weighted, trajectory.observation, standardized / variance),
        "log_std": -np.einsum("nt,nta->a", weighted, standardized**2 / variance - 1),
    }
    for surrogate in inner.SURROGATES.values():
        gradient = jax.grad(lambda p, s=surrogate: s(policy, p, on_policy, advantage))(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, expected)


def test_padding_poisons_neither_value_nor_gradient(problem):
    policy, params, trajectory, advantage = problem
    mask = trajectory.valid
    poisoned = trajectory.replace(
        observation=jnp.where(mask[..., None], trajectory.observation, jnp.nan),
        action=jnp.where(mask[..., None], trajectory.action, jnp.inf),
    )
    for surrogate in inner.SURROGATES.values():
        loss = jax.value_and_grad(lambda p, d, s=surrogate: s(policy, p, d, advantage))
        jax.tree.map(np.testing.assert_array_equal, loss(params, poisoned), loss(params, trajectory))


@pytest.mark.parametrize("surrogate", inner.SURROGATES.values())
def test_zero_advantage_gives_a_finite_zero(problem, surrogate):
    policy, params, trajectory, _ = problem
    gradient = jax.grad(lambda p: surrogate(policy, p, trajectory, jnp.zeros((12, 9))))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_rates_per_step_and_the_last_repeats():
    optimizer = inner.sgd((0.5, 0.25))
    params, state = {"x": jnp.array(0.0)}, optimizer.init({"x": jnp.array(0.0)})
    for expected in (-0.5, -0.75, -1.0):
        params, state = optimizer.update({"x": jnp.array(1.0)}, state, params)
        np.testing.assert_allclose(params["x"], expected)


def test_first_order_takes_the_same_step_and_no_second_derivative():
    def one_step(optimizer, x):
        gradient = jax.grad(lambda y: y**3)(x)
        return optimizer.update(gradient, optimizer.init(x), x)[0]

    x = jnp.array(2.0)
    plain, first = inner.sgd(0.1), inner.first_order(inner.sgd(0.1))
    assert one_step(plain, x) == one_step(first, x)
    np.testing.assert_allclose(jax.grad(lambda y: one_step(plain, y))(x), 1 - 0.1 * 6 * 2, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda y: one_step(first, y))(x), 1.0)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), (), (0.1, -1.0), ("a",)])
def test_inner_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="inner_lr is"):
        inner.sgd(rate)
