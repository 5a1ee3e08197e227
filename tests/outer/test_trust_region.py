"""TRPO on a real meta-objective: the curvature is that of the KL AFTER adaptation, as a function of θ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.flatten_util import ravel_pytree

import metarl_jax as mrl
from metarl_jax import inner, outer
from metarl_jax.base import MetaObjective
from metarl_jax.compose import build_parts
from tests import rows, toys

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


def drawn_counts():
    """A policy whose distribution holds an integer beside its mean, as a mixture's might."""

    @struct.dataclass
    class Counted:
        mean: jax.Array
        count: jax.Array

        def sample(self, key):
            return self.mean + jax.random.normal(key, self.mean.shape)

        def log_prob(self, action):
            return -0.5 * ((action - self.mean) ** 2).sum()

        def kl(self, other):
            return 0.5 * ((self.mean - other.mean) ** 2).sum()

    policy = linear_policy()

    def apply(params, observation):
        return Counted(policy.apply(params, observation).mean, (observation > 0).sum())

    return mrl.Policy(policy.init, apply)


def hidden_arrays():
    """A policy whose distribution is no tree of arrays."""
    policy = linear_policy()

    class Boxed:
        def __init__(self, inside):
            self.inside, self.sample, self.log_prob = inside, inside.sample, inside.log_prob

        def kl(self, other):
            return self.inside.kl(other.inside)

    return mrl.Policy(policy.init, lambda params, observation: Boxed(policy.apply(params, observation)))


def reversed_alone():
    """A policy with a derivative of its own, in reverse mode only."""

    @jax.custom_vjp
    def same(x):
        return x

    same.defvjp(lambda x: (x, None), lambda _, gradient: (gradient,))
    policy = linear_policy()
    return mrl.Policy(policy.init, lambda params, o: policy.apply(jax.tree.map(same, params), o))


POLICIES = {
    "a network": lambda: toys.small_policy(toys.walk()),
    "linear": linear_policy,
    "with a count": drawn_counts,
    "in a box": hidden_arrays,
    "in reverse alone": reversed_alone,
    "squashed": lambda: toys.small_policy(toys.walk(), distribution="squashed"),
    "beta": lambda: toys.small_policy(toys.walk(), distribution="beta"),
}


@pytest.mark.parametrize(
    ("kind", "chunk"),
    [
        ("a network", 2),
        ("with a count", None),
        ("in reverse alone", None),
        rows.thorough("a network", None),
        rows.thorough("linear", 1),
        rows.thorough("in a box", 1),
        rows.thorough("squashed", None),
        rows.thorough("beta", 2),
    ],
)
def test_the_curvature_is_the_second_derivative_of_the_kl(kind, chunk):
    """Two inner steps away, over two counted stages of episodes of different lengths, whole and chunk by chunk."""
    with jax.enable_x64(True):
        parts = build_parts(
            toys.walk(5),
            objective=outer.ratio(),
            policy=POLICIES[kind](),
            **{"tasks": 4, "episodes": 3, "adaptation_steps": 2, "burn_in": 1, "task_chunk": chunk},
        )
        objective = outer.meta_objective(parts)

        def both(key):
            theta = parts.adapter.init_meta(key)
            data = outer.with_behaviors(parts, outer.collect_tasks(key, parts, theta))
            direction = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape, leaf.dtype), theta)
            gradient = jax.grad(objective.kl)
            expected = jax.jvp(lambda theta: gradient(theta, data), (theta,), (direction,))[1]
            return objective.kl_curvature(theta, data)(direction), expected

        found, expected = jax.jit(both)(jax.random.key(2))
        assert max(abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-2
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), found, expected)


def test_theta_stays_where_the_curvature_is_not_a_number():
    objective = MetaObjective(lambda theta, data: ((theta**2).sum(), {}), lambda theta, data: (theta**2).sum())
    objective = objective._replace(kl_curvature=lambda theta, data: lambda vector: vector * jnp.nan)
    theta, _, metrics = outer.trust_region().update(objective, jnp.ones(2), (), ())
    np.testing.assert_array_equal(theta, jnp.ones(2))
    assert metrics["step_fraction"] == 0
