"""The exact values that estimators are compared with, against published figures, differences and identities."""

import dataclasses
import itertools
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from oracles import exact, expectations
from oracles.exact import BANDIT, MDP

PULLS, RATES = 3, (0.7,)
EPISODES, TWO_RATES = 2, (1.0, 0.6)
# Of no use as a baseline, so that it cannot do harm unseen.
WITH_BASELINE = dataclasses.replace(MDP, baseline=np.array([1.0, -2.0, 0.5]))

# The bandit's figures: an enumeration of its own, in float64, older than this file.
PUBLISHED = {
    "sampled update": (0.30139517, -0.07253798, -0.22885719),
    "expected update": (0.30354846, -0.07363078, -0.22991768),
    "plain": (0.26833665, -0.04344665, -0.22489000),
    "likelihood_ratio": (0.30155856, -0.07231705, -0.22924152),
    "dice": (0.30155856, -0.07231705, -0.22924152),
    "first_order": (0.29107726, -0.04735341, -0.24372385),
}


def norm(values):
    return np.linalg.norm(np.ravel(values))


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_bandit_has_the_published_gradients(case):
    if case == "sampled update":
        gradient = exact.sampled_gradient(BANDIT, BANDIT.logits, RATES, PULLS)
    elif case == "expected update":
        gradient = exact.expected_gradient(BANDIT, BANDIT.logits, RATES)
    else:
        gradient = expectations.path_derivative(BANDIT, BANDIT.logits, RATES, PULLS, case)
    np.testing.assert_allclose(gradient[0], PUBLISHED[case], atol=2e-8)


def test_episodes_are_all_that_can_happen():
    every = exact.all_episodes(MDP)
    odds = expectations._probabilities(every, expectations._policy(MDP.logits[None]))[0]
    assert odds.sum() == pytest.approx(1, abs=1e-14)
    assert len(np.unique(np.concatenate([every.states, every.actions], 1), axis=0)) == len(odds)
    # By hand: 2 actions lead to 3 pairs of action and next state, then 2 · 2 actions without chance.
    assert len(odds) == 12
    assert odds @ every.returns / MDP.horizon == pytest.approx(exact.mean_return(MDP, MDP.logits), abs=1e-14)


def test_data_sets_are_multisets_with_their_orderings():
    counts, orderings = exact.data_sets(3, 4)
    ordered = Counter(tuple(np.bincount(members, minlength=3)) for members in itertools.product(range(3), repeat=4))
    assert dict(zip(map(tuple, counts), orderings, strict=True)) == ordered


def test_the_policy_gradient_of_both_ways_is_the_same():
    autodiff = exact.return_gradient(MDP, MDP.logits)
    assert norm(autodiff) > 0.1
    np.testing.assert_allclose(
        expectations.path_derivative(MDP, MDP.logits, (), EPISODES, "plain"), autodiff, atol=1e-14
    )


def test_the_sampled_objective_is_that_of_ordered_data_written_out():
    """One inner step from two episodes, each pair of episodes in turn."""
    every, rate = exact.all_episodes(MDP), TWO_RATES[0]
    policy = np.exp(MDP.logits) / np.exp(MDP.logits).sum(-1, keepdims=True)
    total = 0.0
    for pair in itertools.product(range(len(every.chance)), repeat=2):
        gradient, odds = np.zeros_like(policy), 1.0
        for episode in pair:
            odds *= every.chance[episode]
            for t in range(MDP.horizon):
                state, action = every.states[episode, t], every.actions[episode, t]
                odds *= policy[state, action]
                score = np.eye(2)[action] - policy[state]
                gradient[state] += every.rewards[episode, t:].sum() * score / (2 * MDP.horizon)
        total += odds * exact.mean_return(MDP, MDP.logits + rate * gradient)
    assert exact.sampled_objective(MDP, MDP.logits, (rate,), 2) == pytest.approx(total, abs=1e-13)


@pytest.mark.parametrize("burn_in", [None, 0])
def test_objectives_on_the_mdp_have_their_gradients_by_finite_differences(burn_in):
    size = 1e-4
    for objective, gradient, settings in (
        (exact.sampled_objective, exact.sampled_gradient, (TWO_RATES, EPISODES, burn_in)),
        (exact.expected_objective, exact.expected_gradient, (TWO_RATES, burn_in)),
    ):
        differences = np.zeros_like(MDP.logits)
        for index in np.ndindex(*MDP.logits.shape):
            shift = np.zeros_like(MDP.logits)
            shift[index] = size
            ahead, behind = (objective(MDP, MDP.logits + sign * shift, *settings) for sign in (1, -1))
            differences[index] = (ahead - behind) / (2 * size)
        np.testing.assert_allclose(gradient(MDP, MDP.logits, *settings), differences, atol=1e-8)


def test_what_counts_all_stages_is_the_mean_over_trials_of_every_length():
    shorter = [TWO_RATES[:steps] for steps in range(3)]
    for objective, settings in ((exact.sampled_objective, (EPISODES,)), (exact.expected_objective, ())):
        values = [objective(MDP, MDP.logits, rates, *settings) for rates in shorter]
        assert objective(MDP, MDP.logits, TWO_RATES, *settings, 0) == pytest.approx(np.mean(values), abs=1e-14)
        assert objective(MDP, MDP.logits, TWO_RATES, *settings, 1) == pytest.approx(np.mean(values[1:]), abs=1e-14)
        assert min(np.diff(values)) > 0.05


@pytest.mark.parametrize("problem", [BANDIT, MDP, WITH_BASELINE], ids=["bandit", "MDP", "baseline"])
@pytest.mark.parametrize("burn_in", [None, 0, 1])
def test_the_credited_plain_estimator_is_the_true_gradient(problem, burn_in):
    settings = problem, problem.logits, TWO_RATES, EPISODES
    true = exact.sampled_gradient(*settings, burn_in)
    np.testing.assert_allclose(expectations.credited(*settings, "plain", burn_in), true, atol=1e-12)
    assert norm(expectations.path_derivative(*settings, "plain", burn_in) - true) > 0.01


def test_loaded_dice_lies_between_likelihood_ratio_and_dice():
    settings = MDP, MDP.logits, TWO_RATES, EPISODES
    ratio, half, dice = (
        expectations.path_derivative(*settings, "loaded_dice", lambda_=value) for value in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(ratio, expectations.path_derivative(*settings, "likelihood_ratio"), atol=1e-14)
    np.testing.assert_allclose(dice, expectations.path_derivative(*settings, "dice"), atol=1e-14)
    assert min(norm(half - ratio), norm(half - dice), norm(dice - ratio) / 2) > 0.03


def test_one_step_episodes_have_no_past_to_tell_dice_from_likelihood_ratio():
    settings = BANDIT, BANDIT.logits, TWO_RATES, EPISODES
    ratio = expectations.path_derivative(*settings, "likelihood_ratio")
    for estimator, lambda_ in (("dice", 1.0), ("loaded_dice", 1.0), ("loaded_dice", 0.5)):
        other = expectations.path_derivative(*settings, estimator, lambda_=lambda_)
        np.testing.assert_allclose(other, ratio, atol=1e-14)


@pytest.mark.parametrize("problem", [MDP, WITH_BASELINE], ids=["MDP", "baseline"])
def test_dice_has_the_expected_updates_hessian_and_the_others_have_not(problem):
    """To first order in α the path derivative is ∇R + α (E[M] + ∇²R) ∇R, where the true one has E[M] = ∇²R."""
    rate = 1e-6
    true = exact.expected_gradient(problem, problem.logits, (rate,))
    error = {
        estimator: norm(expectations.path_derivative(problem, problem.logits, (rate,), 1, estimator) - true) / rate
        for estimator in expectations.ESTIMATORS
    }
    assert error["dice"] < 1e-5
    assert min(error["plain"], error["likelihood_ratio"], error["first_order"]) > 0.03


def test_a_baseline_changes_the_spread_of_updates_and_not_their_mean():
    rate = TWO_RATES[:1]
    shifts = [expectations.mean_shift(problem, MDP.logits, rate, EPISODES) for problem in (MDP, WITH_BASELINE)]
    np.testing.assert_allclose(*shifts, atol=1e-14)
    values = [exact.sampled_objective(problem, MDP.logits, rate, EPISODES) for problem in (MDP, WITH_BASELINE)]
    assert abs(values[0] - values[1]) > 0.003


def test_with_many_episodes_dice_becomes_the_expected_updates_gradient():
    true = exact.expected_gradient(BANDIT, BANDIT.logits, RATES)
    few, many = (norm(expectations.path_derivative(BANDIT, BANDIT.logits, RATES, n, "dice") - true) for n in (6, 60))
    assert many == pytest.approx(few / 10, rel=0.1)


def test_the_mean_shift_adds_up_the_mean_policy_gradients():
    first, second = TWO_RATES
    before = exact.return_gradient(MDP, MDP.logits)
    after = expectations.path_derivative(MDP, MDP.logits, (first,), EPISODES, "first_order")
    shift = expectations.mean_shift(MDP, MDP.logits, TWO_RATES, EPISODES)
    np.testing.assert_allclose(shift, first * before + second * after, atol=1e-14)


def test_the_smoothed_gradient_is_the_mean_of_return_times_noise():
    """∇J_σ = E[J(θ + σ ε) ε]/σ, here without an inner step and with a quadrature of its own."""
    sigma = 0.5
    points, weights = np.polynomial.hermite.hermgauss(20)
    noise = np.sqrt(2) * np.stack(np.meshgrid(points, points, points), -1).reshape(-1, 3)
    odds = np.einsum("i,j,k->jik", weights, weights, weights).reshape(-1) / np.pi**1.5
    values = expectations._policy(BANDIT.logits + sigma * noise) @ BANDIT.reward[0]
    smoothed = exact.smoothed_gradient(BANDIT, BANDIT.logits, (), 1, sigma)
    np.testing.assert_allclose(smoothed[0], (odds * values) @ noise / sigma, atol=1e-9)
    assert norm(smoothed - exact.return_gradient(BANDIT, BANDIT.logits)) > 0.01


def test_the_smoothed_gradient_reaches_through_the_inner_step():
    narrow = exact.smoothed_gradient(BANDIT, BANDIT.logits, RATES, PULLS, sigma=1e-3)
    np.testing.assert_allclose(narrow, exact.sampled_gradient(BANDIT, BANDIT.logits, RATES, PULLS), atol=1e-6)
    wide = [exact.smoothed_gradient(BANDIT, BANDIT.logits, RATES, PULLS, 0.3, nodes=nodes) for nodes in (8, 12)]
    np.testing.assert_allclose(*wide, atol=1e-9)


def test_the_callers_arrays_stay_float32_in_jax():
    problem = dataclasses.replace(BANDIT, transition=BANDIT.transition.copy(), reward=BANDIT.reward.copy())
    exact.sampled_gradient(problem, problem.logits, RATES, PULLS)
    exact.expected_gradient(problem, problem.logits, RATES)
    for array in (problem.transition, problem.reward, problem.logits):
        assert jnp.array(array).dtype == jnp.float32


def test_unknown_estimators_and_stages_are_refused():
    with pytest.raises(ValueError, match="unknown estimator 'lvc'; there are plain"):
        expectations.path_derivative(BANDIT, BANDIT.logits, RATES, PULLS, "lvc")
    with pytest.raises(ValueError, match="burn_in is 2; with 1 inner steps"):
        exact.sampled_gradient(BANDIT, BANDIT.logits, RATES, PULLS, burn_in=2)
