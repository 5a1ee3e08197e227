"""TRPO on a real meta-objective: the curvature is that of the KL AFTER adaptation, as a function of θ."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import metarl_jax as mrl
from metarl_jax import inner, outer
from tests import toys

MAX_KL, DAMPING = 0.01, 1e-5


def linear_policy():
    def init(key):
        return {"weight": 0.1 * jax.random.normal(key, (1, 1)), "bias": jnp.zeros(1), "log_std": jnp.zeros(1)}

    def apply(params, observation):
        return mrl.policies.DiagonalGaussian(observation @ params["weight"] + params["bias"], params["log_std"])

    return mrl.Policy(init, apply)


def test_the_step_is_the_dense_natural_gradient_through_the_adaptation():
    """In float64, against numpy's solve with the dense Hessian of the KL at φ(θ), two inner steps away."""
    with jax.enable_x64():
        env, policy = toys.walk(4), linear_policy()
        adapter = inner.policy_gradient(policy, inner.likelihood_ratio, inner.sgd(0.3))
        trial = mrl.Trial(tasks=3, episodes=6, adaptation_steps=2, burn_in=1, horizon=4)
        parts = outer.Parts(env, policy, adapter, toys.unscaled(inner.gae()), outer.ratio(), trial)
        theta = policy.init(jax.random.key(0))
        data = jax.jit(lambda key: outer.collect_tasks(key, parts, theta))(jax.random.key(5))
        objective = outer.meta_objective(parts)
        flat, unravel = ravel_pytree(theta)

        hessian = jax.jit(jax.hessian(lambda x: objective.kl(unravel(x), data)))(flat)
        before_adaptation = jax.jit(jax.hessian(lambda x: kl_without_adaptation(parts, unravel(x), data)))(flat)
        gradient = jax.jit(jax.grad(lambda x: objective.loss(unravel(x), data)[0]))(flat)
        update = jax.jit(lambda: outer.trust_region(MAX_KL, DAMPING).update(objective, theta, (), data))
        after, _, metrics = update()
        step = np.asarray(ravel_pytree(after)[0] - flat)

        def natural(curvature):
            damped = np.asarray(curvature) + DAMPING * np.eye(len(flat))
            direction = np.linalg.solve(damped, gradient)
            return -np.sqrt(2 * MAX_KL / (direction @ damped @ direction)) * direction

        assert metrics["step_fraction"] > 0
        np.testing.assert_allclose(step, metrics["step_fraction"] * natural(hessian), rtol=1e-5)
        np.testing.assert_allclose(metrics["kl_after"], objective.kl(after, data), rtol=1e-8)
        assert metrics["kl_after"] <= MAX_KL
        # The test can tell: a region measured before adaptation gives another step.
        wrong = metrics["step_fraction"] * natural(before_adaptation)
        assert np.linalg.norm(step - wrong) > 0.01 * np.linalg.norm(step)


def kl_without_adaptation(parts, theta, data):
    """The KL at θ itself, on the first stage."""

    def one_task(data):
        first = jax.tree.map(lambda leaf: leaf[0], data)
        kl = mrl.policies.kl_from_behavior(parts.policy, theta, first.params, first.trajectory)
        return mrl.policies.masked_mean(kl, first.trajectory.valid)

    return jax.vmap(one_task)(data).mean()
