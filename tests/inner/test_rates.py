"""Rates of the inner steps: sequences, schedules, and what follows the steps of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax import inner
from tests import rows, toys

GRADIENT = {"a": jnp.array([0.3, -2.0]), "b": jnp.array(0.7)}
START = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(-1.0)}


def path(optimizer, steps, gradient=GRADIENT, learned=()):
    """φ after 0, 1, … steps of the same gradient."""
    params, state, seen = START, optimizer.init(START), [START]
    for _ in range(steps):
        params, state = jax.jit(optimizer.update)(gradient, state, params, learned)
        seen.append(params)
    return seen


def equal(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 1e-6} | tolerance)), left, right)


# What each rule says, computed by hand: M = 2 steps at 0.4 and 0.2, then the rule.
AFTER_TWO = {
    "decay": [0.1, 0.05, 0.025],
    "inverse_sqrt": [0.2 * (2 / 3) ** 0.5, 0.2 * (2 / 4) ** 0.5, 0.2 * (2 / 5) ** 0.5],
    "constant": [0.2, 0.2, 0.2],
}


@pytest.mark.parametrize("rule", AFTER_TWO)
def test_the_rates_beyond_the_given_ones(rule):
    rates = [0.4, 0.2, *AFTER_TWO[rule]]
    np.testing.assert_allclose(inner.taken((0.4, 0.2), 5, 1, rule), rates, rtol=1e-6)
    np.testing.assert_allclose(inner.taken((0.4, 0.2), 5, 2, rule), rates, rtol=1e-6)
    equal(path(inner.falling(inner.sgd((0.4, 0.2)), 2, rule), 5), path(inner.sgd(rates), 5))
    assert set(AFTER_TWO) == set(inner.BEYOND)


def test_rates_may_be_traced():
    """One rate, one per step, and an array of one per step."""
    firsts, seconds = jnp.array([0.1, 0.2]), jnp.array([0.3, 0.4])

    def of_steps(rate):
        return jax.vmap(inner.rates.schedule(rate))(jnp.arange(3))

    np.testing.assert_array_equal(jax.vmap(of_steps)(firsts), firsts[:, None] * jnp.ones(3))
    expected = jnp.stack([firsts, seconds, seconds], 1)
    np.testing.assert_array_equal(jax.vmap(of_steps)((firsts, seconds)), expected)
    np.testing.assert_array_equal(jax.vmap(of_steps)(jnp.stack([firsts, seconds], 1)), expected)


def test_the_steps_that_training_took_keep_their_rates():
    assert inner.taken(0.3, 5, 3) == [0.3, 0.3, 0.3, 0.15, 0.075]
    assert inner.taken(0.3, 2, 0) == [0.3, 0.15]  # trained without adaptation, as with L = 1
    assert inner.taken((0.4, 0.2, 0.1), 4, 1) == [0.4, 0.2, 0.1, 0.05]  # given rates come first
    jax.tree.map(  # to the last bit
        np.testing.assert_array_equal, path(inner.falling(inner.adam(0.3), 3, "decay"), 3), path(inner.adam(0.3), 3)
    )


BUILDERS = {
    "sgd": inner.sgd,
    "momentum": inner.momentum,
    "nesterov": lambda rate: inner.momentum(rate, nesterov=True),
    "adam": inner.adam,
    "rmsprop": inner.rmsprop,
    "clipped": lambda rate: inner.clipped(inner.sgd(rate), 0.5),
    "optax": lambda rate: inner.from_optax(optax.adamw(optax.piecewise_constant_schedule(rate[0], {1: 0.5, 2: 0.5}))),
    "parameter rates": inner.learned_rates,
    "curvature": inner.curvature,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_shortened_step_is_a_step_at_a_smaller_rate(name):
    # Of every optimiser, with its state: the whole step is proportional to the rate.
    build = BUILDERS[name]
    rates = (0.4, 0.2, 0.1)
    by_rates = build(rates)
    shortened = inner.from_optax(optax.adamw(0.4)) if name == "optax" else build((0.4,))
    learned = (
        () if by_rates.init_learned is None else jax.tree.map(lambda p: 0 * p + 0.01, by_rates.init_learned(START))
    )
    alike = learned
    if name == "parameter rates":
        alike = jax.tree.map(lambda rho: rho[:1], learned)
    equal(path(inner.falling(shortened, 1, "decay"), 3, learned=alike), path(by_rates, 3, learned=learned))


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "optax"])
def test_a_schedule_gives_the_rate_of_every_step(name):
    halving = optax.exponential_decay(0.4, 1, 0.5)
    build = BUILDERS[name]
    by_schedule, by_rates = build(halving), build((0.4, 0.2, 0.1))
    learned, single = (), ()
    if by_rates.init_learned is not None:
        learned, single = by_rates.init_learned(START), by_schedule.init_learned(START)
    equal(path(by_schedule, 3, learned=single), path(by_rates, 3, learned=learned))
    np.testing.assert_allclose(inner.taken(halving, 3, 1), [0.4, 0.2, 0.1], rtol=1e-6)  # and no rule beyond


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda step: -1.0, "inner_lr at step 0 is -1"),
        (lambda step: jnp.nan, "inner_lr at step 0 is nan"),
        (lambda step: jnp.array([0.1, 0.2]), "gives an array of shape \\(2,\\)"),
        (
            lambda step: 0.1 / (1 + float(step)),
            "inner_lr is a function that cannot be traced .*TypeError",
        ),
        (lambda step: np.array([0.1, 0.05])[step], "write it with jax.numpy, or take a schedule of optax"),
    ],
)
def test_a_schedule_that_is_none(schedule, message):
    with pytest.raises(ValueError, match=message):
        inner.sgd(schedule)


SIZES = {"tasks": 2, "episodes": 4, "horizon": 5, "policy": {"hidden": (4,)}}
STEPS = jax.jit(
    lambda adapt, *arguments, steps=None: adapt(*arguments, steps=steps), static_argnums=0, static_argnames="steps"
)


def adaptations(name, env, options, steps):
    """φ and returns of `adapt` with so many steps, and of an algorithm made for so many at the rates of each."""
    algorithm = mrl.algorithms.make(name, env, **SIZES | options)
    rates = inner.taken(options["inner_lr"], steps, options.get("adaptation_steps", 1))
    alone = mrl.algorithms.make(name, env, **SIZES | options | {"adaptation_steps": steps, "inner_lr": rates})
    theta, task = algorithm.init(jax.random.key(0)).params, env.sample_task(jax.random.key(1))
    key = jax.random.key(2)
    return STEPS(algorithm.adapt, key, theta, task, steps=steps), STEPS(alone.adapt, key, theta, task)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        rows.thorough("maml", {"inner_lr": (0.5, 0.25)}),
        ("promp", {"inner_lr": 0.3, "adaptation_steps": 2, "burn_in": 1, "inner_optimizer": "adam"}),
        rows.thorough("pretrain", {"inner_lr": 0.4}),
        ("maml", {"inner_lr": 0.4, "std_lr": 0.1}),
    ],
)
def test_adapt_takes_further_steps_at_falling_rates(name, options):
    if "std_lr" in options:  # each group falls from its own last rate
        env = toys.walk()
        algorithm = mrl.algorithms.make(name, env, **SIZES | options)
        rates = {"inner_lr": [0.4, 0.2, 0.1], "std_lr": [0.1, 0.05, 0.025], "adaptation_steps": 3}
        alone = mrl.algorithms.make(name, env, **SIZES | rates)
        theta, task = algorithm.init(jax.random.key(0)).params, env.sample_task(jax.random.key(1))
        found = STEPS(algorithm.adapt, jax.random.key(2), theta, task, steps=3)
        expected = STEPS(alone.adapt, jax.random.key(2), theta, task)
    else:
        found, expected = adaptations(name, toys.walk(), options, 4)
    equal(found.params, expected.params, rtol=1e-4, atol=1e-6)
    equal(found.returns, expected.returns, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "rates", "std_rates"),
    [
        ({"inner_lr": 0.1, "std_lr": (0.1, 0.05, 0.02)}, [0.1, 0.05, 0.025, 0.0125], [0.1, 0.05, 0.02, 0.01]),
        rows.thorough({"inner_lr": 0.1, "std_lr": optax.constant_schedule(0.2)}, [0.1, 0.05, 0.025, 0.0125], [0.2] * 4),
        rows.thorough({"inner_lr": optax.constant_schedule(0.2), "std_lr": 0.1}, [0.2] * 4, [0.1, 0.05, 0.025, 0.0125]),
    ],
)
def test_every_group_goes_on_from_its_own_last_rate(options, rates, std_rates):
    env = toys.walk()
    algorithm = mrl.algorithms.make("maml", env, **SIZES | options)
    sizes = SIZES | {"inner_lr": rates, "std_lr": std_rates, "adaptation_steps": len(rates)}
    alone = mrl.algorithms.make("maml", env, **sizes)
    theta, task = algorithm.init(jax.random.key(0)).params, env.sample_task(jax.random.key(1))
    found = STEPS(algorithm.adapt, jax.random.key(2), theta, task, steps=len(rates))
    expected = STEPS(alone.adapt, jax.random.key(2), theta, task)
    equal(found.params, expected.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(inner.taken(options["inner_lr"], len(rates), 1), rates, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("maml", 3),
        ("rl2", 6),
        ("lpg", 3),
        rows.thorough("reptile", 3),
        pytest.param("self-tuning", 3, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_trial_can_be_longer_and_shorter(name, stages):
    env = toys.walk()
    sizes = {option: value for option, value in (SIZES | {"episodes": 2}).items() if option != "policy"}
    algorithm = mrl.algorithms.make(name, env, **sizes)
    theta, task = algorithm.init(jax.random.key(0)).params, env.sample_task(jax.random.key(1))
    longer = STEPS(algorithm.adapt, jax.random.key(2), theta, task, steps=2)
    assert longer.returns.shape[0] == stages
    shorter = STEPS(algorithm.adapt, jax.random.key(2), theta, task, steps=0)
    assert shorter.returns.shape[0] == stages // 3
    # The same draws, stage by stage: what a longer trial begins with is the shorter one.
    np.testing.assert_allclose(longer.returns[: stages // 3], shorter.returns, rtol=1e-5)
    with pytest.raises(ValueError, match="steps is -1"):
        algorithm.adapt(jax.random.key(2), theta, task, steps=-1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maml", {"inner_lr_beyond": "decays"}, "inner_lr_beyond.*did you mean 'decay'"),
        ("lpg", {"inner_lr_beyond": "decay"}, "lpg learns all of the inner update"),
        ("self-tuning", {"inner_lr_beyond": "decay"}, "self-tuning has an actor-critic loss"),
        ("rl2", {"inner_lr_beyond": "decay"}, "unknown option of rl2 'inner_lr_beyond'"),
    ],
)
def test_rules_that_are_none(name, options, message):
    with pytest.raises(ValueError, match=message):
        mrl.algorithms.make(name, toys.walk(), **options)
    if name != "maml":
        assert "inner_lr_beyond" not in mrl.algorithms.options(name)


def test_an_evaluation_of_more_steps_takes_the_falling_rates():
    env = toys.walk()
    algorithm = mrl.algorithms.make("maml", env, **SIZES, inner_lr=0.4)
    alone = mrl.algorithms.make("maml", env, **SIZES, inner_lr=(0.4, 0.2, 0.1), adaptation_steps=3)
    theta = algorithm.init(jax.random.key(0)).params
    sizes = {"num_tasks": 3, "burn_in": 1}
    found = mrl.evaluation.evaluate(algorithm, env, jax.random.key(1), theta, steps=3, **sizes)
    expected = mrl.evaluation.evaluate(alone, env, jax.random.key(1), theta, **sizes)
    for name in found:
        np.testing.assert_allclose(found[name].per_task, expected[name].per_task, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name].counted_mean, found[name].mean[1:].mean(), rtol=1e-6)
