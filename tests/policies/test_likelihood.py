"""A policy on the steps of a trajectory: what is known of it need not be computed again, and changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.compose import build_parts
from metarl_jax.policies import likelihood
from metarl_jax.rollout import rollout
from tests import rows, toys

KEY = jax.random.key(0)


class Opaque:
    """A distribution that is no tree of arrays: none of them can hold those of many steps."""

    def __init__(self, own):
        self.own = own

    def __getattr__(self, name):
        return getattr(self.own, name)

    def kl(self, other):
        return self.own.kl(other.own)


def opaque(policy):
    return mrl.Policy(policy.init, lambda params, observation: Opaque(policy.apply(params, observation)))


def episodes_of(env, policy, theta):
    return jax.jit(lambda theta: rollout(KEY, env, policy, theta, env.sample_task(KEY), 3, 4))(theta)


KINDS = {
    "Gaussian": (toys.walk, {}),
    "squashed": (toys.walk, {"distribution": "squashed"}),
    "beta": (toys.walk, {"distribution": "beta"}),
    "categorical": (toys.bandit, {}),
}


@pytest.mark.parametrize("kind", rows.by_default(KINDS, ["squashed", "categorical"]))
def test_known_distributions_give_the_same_numbers(kind):
    make, options = KINDS[kind]
    with jax.enable_x64():  # a KL near 0 is the difference of numbers of size 1
        env = make()
        policy = toys.small_policy(env, **options)
        theta = policy.init(KEY)
        phi = jax.tree.map(lambda leaf: leaf + 0.1, theta)
        data = episodes_of(env, policy, theta)
        seen = jax.jit(lambda phi: likelihood.distributions(policy, phi, data))(phi)
        for function in (
            likelihood.log_prob,
            likelihood.probability_ratio,
            lambda policy, params, data, *known: likelihood.kl_from_behavior(policy, params, theta, data, *known),
        ):
            known = jax.jit(lambda phi, function=function: function(policy, phi, data, seen))(phi)
            computed = jax.jit(lambda phi, function=function: function(policy, phi, data))(phi)
            np.testing.assert_allclose(known, computed, rtol=1e-9, atol=1e-12)


def test_distributions_that_hold_no_arrays_are_computed_where_they_are_asked_for():
    env = toys.walk()
    policy = toys.small_policy(env)
    theta = policy.init(KEY)
    data = episodes_of(env, policy, theta)
    assert likelihood.distributions(opaque(policy), theta, data) is None
    found = jax.eval_shape(lambda: likelihood.log_prob(opaque(policy), theta, data))
    assert found.shape == data.reward.shape
    algorithm = mrl.algorithms.make("promp", env, policy=opaque(policy), tasks=2, episodes=3)
    ascent, metrics = jax.jit(algorithm.gradient)(KEY, algorithm.init(KEY).params)
    assert np.isfinite(metrics["inner_kl"])
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(ascent))


@pytest.mark.parametrize("wrapped", [lambda policy: policy, opaque], ids=["arrays", "opaque"])
def test_the_kl_is_that_from_the_behaviour(wrapped):
    """KL(N(0, 1) ‖ N(1, 2²)) = log 2 + (1 + 1) / 8 − 1 / 2, the other way round 2 − log 2."""
    env = toys.walk()
    policy = wrapped(
        mrl.Policy(
            init=lambda key: {"mean": jnp.zeros(1), "std": jnp.ones(1)},
            apply=lambda params, _: mrl.policies.DiagonalGaussian(params["mean"], jnp.log(params["std"])),
        )
    )
    theta = policy.init(KEY)
    data = episodes_of(env, policy, theta)
    phi = {"mean": jnp.ones(1), "std": jnp.full(1, 2.0)}
    np.testing.assert_allclose(likelihood.kl_from_behavior(policy, phi, theta, data), np.log(2) + 0.25 - 0.5, rtol=1e-5)


OBJECTIVES = {
    "ratio": outer.ratio(),
    "clipped, with a penalty and credit": outer.add(outer.clipped(), outer.inner_kl(0.5), outer.credit(0.5)),
}


@pytest.mark.parametrize(
    ("kind", "surrogate"),
    [
        ("ratio", "dice"),
        ("clipped, with a penalty and credit", "likelihood_ratio"),
        rows.thorough("ratio", "likelihood_ratio"),
        rows.thorough("clipped, with a penalty and credit", "dice"),
    ],
)
def test_what_is_known_is_as_a_function_of_theta_what_the_objective_would_compute(kind, surrogate):
    """π of the inner step's policies, and of the behaviours."""
    with jax.enable_x64(True):
        sizes = {"tasks": 3, "episodes": 3, "adaptation_steps": 2, "burn_in": 0, "policy": {"hidden": (4,)}}
        parts = build_parts(toys.walk(), objective=OBJECTIVES[kind], surrogate=surrogate, **sizes)
        theta = parts.adapter.init_meta(KEY)
        data = jax.jit(lambda theta: outer.collect_tasks(KEY, parts, theta))(theta)
        theta = jax.tree.map(lambda leaf: leaf + 0.05, theta)  # as in a second outer step on the same data

        def loss(theta, known):
            def of_task(data):
                path = outer.replay(parts, theta, data)
                assert path.seen is not None
                path = path if known else path.replace(seen=None)
                return parts.objective(parts.policy, path)[0]

            return jax.vmap(of_task)(data).mean()

        known, plain = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(theta, which) for which in (True, False))
        data = jax.jit(lambda data: outer.with_behaviors(parts, data))(data)
        assert data.behavior is not None
        acted = jax.jit(jax.value_and_grad(loss), static_argnums=1)(theta, True)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), acted, plain)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), known, plain)
