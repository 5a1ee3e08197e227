"""How θ descends: rates, schedules, optimisers of optax and clipping, in every algorithm that takes gradient steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from tests import rows, toys

SIZES = {"tasks": 4, "episodes": 2, "horizon": 4, "policy": {"hidden": (4,)}}
DESCENDING = [name for name in mrl.algorithms.names() if name != "maml-trpo"]


def make(name, **options):
    accepted = mrl.algorithms.options(name)
    policy = {} if name.startswith("rl2") else {"policy": {"hidden": (4,)}}
    sizes = {option: value for option, value in SIZES.items() if option in accepted and option != "policy"}
    return mrl.algorithms.make(name, toys.walk(), **sizes | policy | options)


def path(algorithm, updates):
    """θ and metrics after each of so many updates."""
    state, update, seen = algorithm.init(jax.random.key(0)), jax.jit(algorithm.update), []
    for number in range(updates):
        state, metrics = update(jax.random.key(number), state)
        seen.append((state.params, metrics))
    return seen


def equal(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


@pytest.mark.parametrize("name", DESCENDING)
def test_every_algorithm_lists_and_takes_them(name):
    assert mrl.algorithms.options(name).keys() >= {"outer_lr", "outer_optimizer", "max_gradient_norm"}
    algorithm = make(name, outer_optimizer=optax.chain(optax.clip(0.1), optax.sgd(0.01, momentum=0.9)))
    assert jax.tree.leaves(jax.eval_shape(algorithm.init, jax.random.key(0)).opt_state)
    with pytest.raises(ValueError, match="outer_lr is 0.5, and outer_optimizer brings its own rate"):
        make(name, outer_optimizer=optax.sgd(0.01), outer_lr=0.5)


def test_the_rate_stands_for_adam():
    by_rate = path(make("maml", outer_lr=0.01), 2)
    by_optimizer = path(make("maml", outer_optimizer=optax.adam(0.01)), 2)
    jax.tree.map(np.testing.assert_array_equal, by_rate, by_optimizer)


def test_a_step_of_plain_descent_is_the_gradient():
    algorithm = make("maml", outer_optimizer=optax.sgd(0.1))
    state, key = algorithm.init(jax.random.key(0)), jax.random.key(0)
    ascent, _ = jax.jit(algorithm.gradient)(key, state.params)
    moved = path(algorithm, 1)[0][0]
    equal(moved, jax.tree.map(lambda p, g: p + 0.1 * g, state.params, ascent), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "per_update"),
    [
        *[("promp", 6), ("rl2", 4), ("es-maml", 1)],
        *[rows.thorough(name, 1) for name in ("maml", "reptile")],
        *[pytest.param(name, 1, marks=pytest.mark.slow) for name in toys.SLOW_TO_COMPILE],
    ],
)
def test_a_schedule_counts_outer_steps_and_is_among_the_metrics(name, per_update):
    """Of an update of 6 steps, ProMP's 3 epochs of 2 minibatches, the metric is the last one's rate."""
    options = {"promp": {"epochs": 3, "minibatches": 2}, "rl2": {"epochs": 2, "minibatches": 2}}.get(name, {})
    algorithm = make(name, outer_lr=lambda step: 0.01 / (1 + step), **options)
    rates = [float(metrics["outer_lr"]) for _, metrics in path(algorithm, 2)]
    np.testing.assert_allclose(rates, [0.01 / per_update, 0.01 / (2 * per_update)], rtol=1e-6)


@pytest.mark.thorough
def test_the_rate_of_a_schedule_is_the_rate_of_the_step():
    halved = path(make("maml", outer_lr=lambda step: 0.01 * 0.5**step), 2)
    first = path(make("maml", outer_lr=0.01), 1)
    equal(halved[0][0], first[0][0], rtol=1e-5, atol=1e-7)
    # Adam's steps are proportional to the rate: of the second, the same at both rates but for the factor.
    whole = path(make("maml", outer_lr=0.01), 2)
    step = jax.tree.map(jnp.subtract, whole[1][0], whole[0][0])
    equal(halved[1][0], jax.tree.map(lambda p, s: p + s / 2, first[0][0], step), rtol=1e-5, atol=1e-6)
    assert "outer_lr" not in whole[0][1]


@pytest.mark.parametrize("name", ["maml", rows.thorough("reptile"), rows.thorough("es-maml")])
def test_gradients_are_scaled_down_before_all_else(name):
    # At half the gradient a step tells what was clipped: the gradient, and not the step.
    bare = make(name, outer_optimizer=optax.sgd(0.5))
    clipped = make(name, outer_optimizer=optax.sgd(0.5), max_gradient_norm=1e-3)
    start = bare.init(jax.random.key(0)).params
    steps = [jax.tree.map(jnp.subtract, path(algorithm, 1)[0][0], start) for algorithm in (bare, clipped)]
    length = optax.tree.norm(steps[0])
    assert length > 2e-3
    equal(steps[1], jax.tree.map(lambda s: s * 0.5e-3 / length, steps[0]), rtol=1e-2, atol=1e-6)


def test_promps_minibatches_are_those_of_the_assembly():
    by_option = path(make("promp", epochs=2, minibatches=2), 1)
    composed = mrl.algorithms.compose(
        toys.walk(),
        objective=outer.add(outer.clipped(0.3), outer.inner_kl(5e-4)),
        outer_optimizer=outer.gradient_steps(optax.adam(1e-3), 2, 2),
        surrogate="likelihood_ratio",
        **SIZES,
    )
    jax.tree.map(np.testing.assert_array_equal, by_option, path(composed, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_lr": -1.0}, "outer_lr is -1"),
        ({"outer_lr": lambda step: -0.1}, "outer_lr at step 0 is -0.1"),
        ({"outer_lr": lambda step: np.sqrt(1e-6 / (step + 1))}, "outer_lr is a function that cannot be traced"),
        ({"outer_lr": lambda step: jnp.ones(2)}, "outer_lr is a schedule that gives an array of shape"),
        ({"outer_optimizer": 0.1}, "outer_optimizer is 0.1; it must be an optax.GradientTransformation"),
        ({"outer_optimizer": optax.adam}, "it must be an optax.GradientTransformation"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm is 0.0"),
    ],
)
@pytest.mark.parametrize("name", ["maml", "rl2", "es-maml"])
def test_bad_values(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def test_a_rate_may_be_an_array():
    paths = [path(make("maml", outer_lr=rate), 1) for rate in (jnp.float32(0.25), 0.25)]
    jax.tree.map(np.testing.assert_array_equal, *paths)


@pytest.mark.parametrize("name", ["promp", "rl2"])
def test_minibatches_that_do_not_divide_the_tasks(name):
    with pytest.raises(ValueError, match="minibatches is 3; it must divide the 4 tasks"):
        make(name, minibatches=3)


def test_a_trust_region_has_no_descent():
    with pytest.raises(ValueError, match="unknown option of maml-trpo 'outer_lr'"):
        mrl.algorithms.make("maml-trpo", toys.walk(), outer_lr=0.1)
