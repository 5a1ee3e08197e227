"""Every estimator's mean, through the public interface, against its exact value by enumeration (`oracles.exact`).

On a bandit (one step, one inner step) and on an MDP of three states and at most three steps with two inner steps, where
credit over time and over stages matters. It is two tasks: in one, episodes mostly end early. Means are over many keys;
what is unbiased must meet the true gradient, what is biased its own expectation. MAML, its first-order version and
ProMP on the bandit are in `test_exact_gradients`; other sizes and discounts in `test_returns`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from oracles import exact, expectations
from tests import rows
from tests.finite import Setting, assert_agrees, assert_differs, make, mean_gradient, split_policy

SETTINGS = {
    "bandit": Setting((exact.BANDIT,), (0.7,), 3),
    "MDP": Setting(tuple(exact.ending(exact.MDP, goes_on) for goes_on in (1.0, 0.5)), (1.2, 0.8), 2),
}
EVERY_SETTING = [pytest.param(SETTINGS["MDP"], id="MDP"), rows.thorough(SETTINGS["bandit"], id="bandit")]


# Options and the burn-in of the true gradient J(θ) = E_D[R(f_θ(D))]. With few tasks a baseline that an episode's own
# consequences entered would show. With less than five it is a mean, from then on a line, of which the bandit's few
# rewards are a hard case: the tasks that it is fitted to often have the same return.
UNBIASED = {
    "mean": ({"tasks": 4}, None),
    "line": ({"tasks": 6}, None),
    "line, all stages counted": ({"tasks": 6, "burn_in": 0}, 0),
}


@pytest.mark.parametrize(
    ("case", "where"),
    [
        ("line, all stages counted", "MDP"),
        ("mean", "bandit"),
        rows.thorough("mean", "MDP"),
        rows.thorough("line", "MDP"),
        rows.thorough("line", "bandit"),
    ],
)
def test_with_credit_the_gradient_of_the_sampled_update_is_unbiased(case, where):
    setting, (options, burn_in) = SETTINGS[where], UNBIASED[case]
    mean, error = mean_gradient("e-maml", setting, **options)
    assert_agrees(mean, error, setting.exact(exact.sampled_gradient, burn_in))


@pytest.mark.thorough
def test_credit_without_other_tasks_has_no_baseline_and_is_unbiased_too():
    setting = SETTINGS["MDP"]
    mean, error = mean_gradient("maml", setting, tasks=1, credit=True)
    assert_agrees(mean, error, setting.exact(exact.sampled_gradient))


ONE_STEP = {
    "bandit": Setting((exact.BANDIT,), (1.5,), 3),
    "MDP": Setting((exact.ending(exact.MDP, 0.5),), (1.2,), 3),
}


@pytest.mark.parametrize("where", ["MDP", rows.thorough("bandit")])
def test_credit_by_influence_has_its_own_expectation(where):
    setting = ONE_STEP[where]
    problem, (rate,), episodes = setting.problems[0], setting.rates, setting.episodes
    expected = expectations.influenced(problem, setting.logits, rate, episodes)
    mean, error = mean_gradient("e-maml", setting, credit_estimator="influence")
    assert_agrees(mean, error, expected)
    # By much more than that it differs from what it would be without the term.
    assert_differs(mean, error, expectations.path_derivative(problem, setting.logits, (rate,), episodes, "plain"))


@pytest.mark.parametrize("where", ONE_STEP)
@pytest.mark.parametrize("centred", [True, False])
def test_the_bias_of_credit_by_influence_is_of_second_order(where, centred):
    """Half the rate leaves a quarter of its bias, and half of that without credit."""
    setting = ONE_STEP[where]
    problem, episodes = setting.problems[0], setting.episodes
    bias = {"influence": [], "none": []}
    for rate in (0.02, 0.01):
        true = exact.sampled_gradient(problem, setting.logits, (rate,), episodes)
        found = {
            "influence": expectations.influenced(problem, setting.logits, rate, episodes, centred),
            "none": expectations.path_derivative(problem, setting.logits, (rate,), episodes, "plain"),
        }
        for name, value in found.items():
            bias[name].append(np.linalg.norm(value - true))
    np.testing.assert_allclose(bias["influence"][0] / bias["influence"][1], 4, rtol=0.05)
    np.testing.assert_allclose(bias["none"][0] / bias["none"][1], 2, rtol=0.05)


def half_credited(*arguments):
    return (expectations.path_derivative(*arguments) + expectations.credited(*arguments)) / 2


# Name of the algorithm, options, its own expectation.
OWN = {
    "plain": ("maml", {}, (expectations.path_derivative, "plain")),
    "first order": ("fomaml", {}, (expectations.path_derivative, "first_order")),
    "likelihood ratio": ("promp", {}, (expectations.path_derivative, "likelihood_ratio")),
    "dice": ("dice", {}, (expectations.path_derivative, "dice")),
    "loaded dice": ("loaded-dice", {"dice_lambda": 0.5}, (expectations.path_derivative, "loaded_dice", None, 0.5)),
    "dice with half the credit": ("dice", {"credit": 0.5}, (half_credited, "dice")),
}
IN_THE_BANDIT = ("dice", "loaded dice")
CASES = [(case, "MDP") for case in OWN] + [(case, "bandit") for case in IN_THE_BANDIT]


# `test_returns` enumerates what the others are made of.
@pytest.mark.parametrize(
    ("case", "where"), rows.by_default(CASES, [("dice with half the credit", "MDP"), ("loaded dice", "MDP")])
)
def test_a_biased_estimator_has_its_own_expectation(case, where):
    setting, (name, options, (function, estimator, *arguments)) = SETTINGS[where], OWN[case]
    mean, error = mean_gradient(name, setting, **options)
    assert_agrees(mean, error, setting.exact(function, estimator, *arguments))
    if where == "MDP":  # In the bandit, without a past, these two are nearly unbiased, and one.
        assert_differs(mean, error, setting.exact(exact.sampled_gradient))
        for other in {"plain", "first_order", "likelihood_ratio", "dice"} - {estimator}:
            assert_differs(mean, error, setting.exact(function, other))


def test_dice_with_a_critic_as_control_variate_has_its_own_expectation():
    """TMAML with a V that nobody learns, and one of no use, so that a wrong sign or index would show."""
    setting, baseline = SETTINGS["MDP"], np.array([1.0, -2.0, 0.5])

    def values(w, trajectory, discount):
        return trajectory.observation @ w, trajectory.next_observation @ w

    mean, error = mean_gradient(
        "tmaml",
        setting,
        advantage="gae",
        discount=1.0,
        lambda_=1.0,
        normalized=False,
        baseline=mrl.inner.Critic(init=lambda key: jnp.array(baseline), values=values),
        leaf=lambda gradient: gradient.policy,
    )
    without = setting.exact(expectations.path_derivative, "dice")
    setting = setting.with_problems(baseline=baseline)
    assert_agrees(mean, error, setting.exact(expectations.path_derivative, "dice"))
    assert_differs(mean, error, without)


def test_evolution_strategies_follow_the_smoothed_objective():
    setting, sigma = SETTINGS["bandit"], 0.5
    mean, error = mean_gradient("es-maml", setting, sigma=sigma)
    assert_agrees(mean, error, setting.exact(exact.smoothed_gradient, sigma))
    assert_differs(mean, error, setting.exact(exact.sampled_gradient))


@pytest.mark.parametrize("setting", EVERY_SETTING)
def test_pretraining_follows_the_return_without_adaptation(setting):
    true = np.mean([exact.return_gradient(problem, problem.logits) for problem in setting.problems], 0)
    assert_agrees(*mean_gradient("pretrain", setting), true)


@pytest.mark.parametrize("setting", EVERY_SETTING)
def test_reptile_follows_the_mean_shift(setting):
    assert_agrees(*mean_gradient("reptile", setting), setting.exact(expectations.mean_shift))


# What equals MAML at the start of training: name, options, and where its gradient has MAML's.
AS_MAML: dict[str, tuple[str, dict[str, Any], list[Callable[[Any], Any]]]] = {
    "meta-sgd": ("meta-sgd", {}, [lambda gradient: gradient.policy]),
    "rates per tensor": ("meta-sgd", {"inner_optimizer": "tensor_rates"}, [lambda gradient: gradient.policy]),
    "meta-curvature": ("meta-curvature", {}, [lambda gradient: gradient.policy]),
    "anil": ("anil", {"policy": "head"}, [lambda gradient: gradient["body"], lambda gradient: gradient["head"]]),
    "cavia": (
        "cavia",
        {"policy": "context"},
        [lambda gradient: gradient["body"], lambda gradient: gradient["context"]],
    ),
}


@pytest.fixture(scope="module")
def same_draws():
    """Algorithm → its gradients [K, ...] for the same keys, with two inner steps of different rates and early ends."""
    setting = SETTINGS["MDP"]

    @functools.cache
    def draw(case):
        name, options, _ = ("maml", {}, None) if case == "maml" else AS_MAML[case]
        options = {
            key: split_policy(setting.logits, value) if key == "policy" else value for key, value in options.items()
        }
        algorithm = make(name, setting, tasks=2, **options)
        theta = algorithm.init(jax.random.key(0)).params
        keys = jax.random.split(jax.random.key(3), 8)
        over_keys = jax.vmap(lambda key: algorithm.gradient(key, theta)[0])
        return jax.jit(over_keys, compiler_options={"xla_backend_optimization_level": 0})(keys)

    return draw


@pytest.mark.parametrize("case", rows.by_default(AS_MAML, ["meta-sgd", "anil"]))
def test_at_the_start_its_gradient_is_that_of_maml_draw_by_draw(same_draws, case):
    expected = same_draws("maml")
    assert np.abs(expected).max(0).min() > 1e-4
    for leaf in AS_MAML[case][2]:
        np.testing.assert_allclose(leaf(same_draws(case)), expected, rtol=1e-4, atol=1e-6)
