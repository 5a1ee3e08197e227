"""No product of matrices is left to the platform's default, which on an accelerator has 7 to 10 bits of mantissa."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.precision import full_precision
from tests import rows, toys

KEY = jax.random.key(0)


def precisions(function, *arguments):
    """The precision that each product of two matrices asks the compiler for, in a program for any platform."""
    text = jax.jit(function).lower(*arguments).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line or "convolution" in line]
    return [found[1] if (found := re.search(r"precision = \[(\w+), \1\]", line)) else "unsaid" for line in products]


def programs(name, functions=("update", "adapt")):
    """Functions of an algorithm that have matrices to multiply in them; `update` has the products of `gradient`."""
    options = {"tasks": 2, "episodes": 2, "adaptation_steps": 1, "horizon": 3}
    algorithm = mrl.algorithms.make(name, mrl.envs.make("point-nav"), policy={"hidden": (4,)}, **options)
    state = jax.eval_shape(algorithm.init, KEY)
    task = mrl.envs.make("point-nav").sample_task(KEY)
    arguments = {"update": (state,), "gradient": (state.params,), "adapt": (state.params, task), "init": ()}
    for function in functions:
        yield function, precisions(getattr(algorithm, function), KEY, *arguments[function])


@pytest.mark.parametrize("name", rows.by_default(mrl.algorithms.names(), ["es-maml", "lpg", "maml-trpo", "rl2"]))
def test_every_product_of_an_algorithm_is_a_float32_product(name):
    found = dict(programs(name))
    assert {asked for products in found.values() for asked in products} == {"HIGHEST"}
    assert all(found.values())


# Each kind of gradient.
@pytest.mark.parametrize("name", ["maml", "rl2", *map(rows.thorough, ["es-maml", "reptile", "lpg"])])
def test_so_is_every_product_of_a_gradient(name):
    found = dict(programs(name, ("gradient", "init")))
    assert found["gradient"]
    assert {asked for products in found.values() for asked in products} == {"HIGHEST"}


@pytest.mark.parametrize("name", ["maml-trpo", "rl2", *map(rows.thorough, ["promp", "lpg"])])
def test_whoever_asks_for_less_gets_it(name):
    with jax.default_matmul_precision("tensorfloat32"):
        # The update of a trust region is long to trace, and its products are those of the others.
        found = dict(programs(name, ("adapt",) if name == "maml-trpo" else ("update",)))
    assert {asked for products in found.values() for asked in products} == {"HIGH"}


def test_the_platforms_own_precision_can_be_asked_for():
    with jax.default_matmul_precision("default"):
        assert set(dict(programs("promp", ("adapt",)))["adapt"]) == {"DEFAULT"}


@pytest.mark.parametrize("function", ["reset", "step"])
def test_physics_too(recording, function):
    """Brax's rotations are products of matrices on an accelerator."""
    seen = recording("reacher-goal")
    env, task = seen.env, jax.tree.map(lambda leaf: leaf[0], seen.tasks)
    state = jax.tree.map(lambda leaf: leaf[0, 0], seen.states)
    arguments = (KEY, task) if function == "reset" else (task, state, jnp.zeros(env.action_size))
    found = precisions(getattr(env, function), *arguments)
    assert found
    assert set(found) == {"HIGHEST"}


def test_a_policy_by_itself():
    policy = mrl.policies.mlp(toys.walk())
    params = policy.init(KEY)
    found = precisions(lambda params: policy.apply(params, jnp.zeros(toys.walk().observation_size)).mean, params)
    assert set(found) == {"HIGHEST"}


def test_derivatives_taken_outside_have_the_precision_of_the_product():
    def energy(x):
        return full_precision(lambda x: jnp.sin(x @ x).sum())(x)

    found = precisions(jax.hessian(energy), jnp.ones((3, 3)))
    assert len(found) > 3
    assert set(found) == {"HIGHEST"}


def test_it_changes_neither_values_nor_signature():
    @full_precision
    def scaled(x, *, by: float = 2.0):
        """Says what it does."""
        return by * x

    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "Says what it does."
    np.testing.assert_array_equal(scaled(jnp.ones(2), by=3.0), [3, 3])
    assert jax.config.jax_default_matmul_precision is None
