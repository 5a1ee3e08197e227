"""Numbers among the options may be traced: a grid of hyperparameters in one program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from tests import rows, toys

KEY = jax.random.key(0)
SIZES = {"tasks": 2, "episodes": 3, "policy": {"hidden": (4,)}}
# What is not there, or off, by default.
SET = {
    "credit": 0.5,
    "discount": 0.9,
    "entropy_weight": 0.1,
    "lambda_": 0.8,
    "max_agent_gradient_norm": 2.0,
    "max_gradient_norm": 0.5,
    "return_scale": 2.0,
    "std_lr": 0.2,
    "value_clip": 0.3,
}


def numbers(name):
    """The options of an algorithm that take a number that is no integer, with values."""

    options = mrl.algorithms.options(name)
    values = {option: SET.get(option, options[option]) for option in mrl.algorithms.numbers(name)}
    if name == "cavia":  # which moves the context alone
        del values["std_lr"]
    return {option: float(value) for option, value in values.items() if value is not None}


def updated(name, values, key=KEY):
    algorithm = mrl.algorithms.make(name, toys.walk(), **(SIZES | values))
    state = algorithm.init(key)
    return algorithm.update(jax.random.key(1), state)


RUN = ("promp", "rl2")
OTHERS = [
    pytest.param(
        name, marks=[] if name in ("es-maml", "lpg", "loaded-dice", "maml-trpo", "self-tuning") else pytest.mark.slow
    )
    for name in mrl.algorithms.names()
    if name not in RUN
]


@pytest.mark.parametrize("name", rows.by_default(RUN, ["promp"]))
def test_traced_numbers_give_the_update_of_constants(name):
    values = numbers(name)
    assert len(values) >= 6, values
    traced, _ = jax.jit(functools.partial(updated, name))(values)
    expected, _ = jax.jit(lambda: updated(name, values))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), traced.params, expected.params)


@pytest.mark.parametrize("name", OTHERS)
def test_every_number_of_every_algorithm_may_be_traced(name):
    jax.eval_shape(functools.partial(updated, name), numbers(name))


@pytest.mark.parametrize("name", ["maml", rows.thorough("rl2")])
def test_a_traced_discount_weights_states(name):
    def update(discount):
        return updated(name, {"discount": discount, "discount_states": True})[0].params

    traced, constant = jax.jit(update)(0.7), jax.jit(lambda: update(0.7))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), traced, constant)


def test_a_grid_trains_in_one_program():
    """inner_lr × outer_lr under vmap, iterations in a scan, against one run after the other."""
    inner, outer = (grid.ravel() for grid in jnp.meshgrid(jnp.array([0.05, 0.3]), jnp.array([1e-3, 1e-2])))

    def train(inner_lr, outer_lr):
        algorithm = mrl.algorithms.maml(toys.walk(), inner_lr=inner_lr, outer_lr=outer_lr, **SIZES)
        keys = jax.random.split(jax.random.key(1), 3)
        state, metrics = jax.lax.scan(lambda state, key: algorithm.update(key, state), algorithm.init(KEY), keys)
        return state.params, metrics["return"]

    thetas, returns = jax.jit(jax.vmap(train))(inner, outer)
    one = jax.jit(train)
    for number, rates in enumerate(zip(inner, outer, strict=True)):
        theta, expected = one(*rates)
        np.testing.assert_allclose(returns[number], expected, rtol=1e-4)
        jax.tree.map(lambda a, b, i=number: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-5), thetas, theta)
    assert one._cache_size() == 1, "a loop over the grid compiles once"
    assert len({float(value) for value in returns[:, -1, -1]}) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": 3.0}, "tasks is traced by JAX, .* must be a Python integer"),
        ({"inner_lr": jnp.ones((2, 2))}, "inner_lr is"),
        ({"discount": jnp.ones(2)}, "discount is .* must lie in"),
        ({"outer_lr": 1e-3, "outer_optimizer": optax.sgd(0.1)}, "brings its own rate"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_words(options, words):
    """A traced array where one number is wanted, a size, and a rate beside an optimiser."""
    arrays = {name: value for name, value in options.items() if not isinstance(value, optax.GradientTransformation)}
    rest = {name: value for name, value in options.items() if name not in arrays}
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda given: updated("maml", given | rest), arrays)
