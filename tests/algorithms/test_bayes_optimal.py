"""Dynamic programming over what is known, against enumeration of policies that depend on the whole history."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from oracles import bayes_optimal

SMALL = {"rooms": 2, "safe_reward": 0.1, "treasure_reward": 1.0, "cost": 3.0}


# --- Bernoulli arms --------------------------------------------------------------------------------------------------


def integral(s, f):
    """The chance of a given order of s successes and f failures of an arm: ∫ p^s (1 − p)^f dp."""
    return Fraction(math.factorial(s) * math.factorial(f), math.factorial(s + f + 1))


def enumerated_bandit(arms, pulls):
    """The best of all maps from outcomes so far to arms; a map meets every sequence of outcomes once."""
    histories = [h for length in range(pulls) for h in itertools.product((0, 1), repeat=length)]
    best = Fraction(0)
    for choice in itertools.product(range(arms), repeat=len(histories)):
        policy = dict(zip(histories, choice, strict=True))
        value = Fraction(0)
        for outcomes in itertools.product((0, 1), repeat=pulls):
            counts = np.zeros((arms, 2), int)
            for t, outcome in enumerate(outcomes):
                counts[policy[outcomes[:t]], 1 - outcome] += 1
            value += math.prod(integral(*pair) for pair in counts.tolist()) * sum(outcomes)
        best = max(best, value)
    return float(best)


@pytest.mark.parametrize(("arms", "pulls"), [(1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_no_policy_beats_the_bandits_optimum_and_one_reaches_it(arms, pulls):
    assert bayes_optimal.bernoulli_bandit(arms, pulls) == pytest.approx(enumerated_bandit(arms, pulls), abs=1e-14)


def test_two_arms_by_hand():
    assert bayes_optimal.bernoulli_bandit(2, 1) == 1 / 2
    # A success is followed by the same arm, of mean 2/3 now, a failure by the other one.
    assert bayes_optimal.bernoulli_bandit(2, 2) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2, abs=1e-15)


def enumerated_greedy(arms, pulls):
    """Over all sequences of arms and outcomes, of arms that tie any with equal odds."""
    value = Fraction(0)
    for sequence in itertools.product(itertools.product(range(arms), (0, 1)), repeat=pulls):
        counts, odds = [(0, 0)] * arms, Fraction(1)
        for arm, outcome in sequence:
            means = [Fraction(s + 1, s + f + 2) for s, f in counts]
            odds *= Fraction(means[arm] == max(means), means.count(max(means)))
            s, f = counts[arm]
            counts[arm] = (s + outcome, f + 1 - outcome)
        value += odds * math.prod(integral(s, f) for s, f in counts) * sum(outcome for _, outcome in sequence)
    return float(value)


@pytest.mark.parametrize(("arms", "pulls"), [(1, 2), (2, 3), (2, 6), (3, 4)])
def test_the_greedy_value_is_that_of_enumeration(arms, pulls):
    assert bayes_optimal.greedy_bernoulli_bandit(arms, pulls) == pytest.approx(
        enumerated_greedy(arms, pulls), abs=1e-14
    )


def test_more_arms_and_foresight_are_worth_something():
    for pulls in range(1, 8):
        by_arms = [bayes_optimal.bernoulli_bandit(arms, pulls) for arms in (1, 2, 3)]
        assert by_arms[0] == pytest.approx(pulls / 2, abs=1e-14)
        assert by_arms == sorted(by_arms)
        # Told p, one would pull the best of two arms, of mean 2/3.
        assert by_arms[1] < 2 / 3 * pulls
        assert bayes_optimal.greedy_bernoulli_bandit(2, pulls) <= by_arms[1] + 1e-14
    assert bayes_optimal.greedy_bernoulli_bandit(2, 10) < bayes_optimal.bernoulli_bandit(2, 10)


# --- Risky rooms -----------------------------------------------------------------------------------------------------


@functools.cache
def plans(steps):
    """All ways to act in so many steps: None, (plan after passing,), or (plan after a treasure, plan after none)."""
    if steps == 0:
        return [None]
    rest = plans(steps - 1)
    return [*((plan,) for plan in rest), *itertools.product(rest, repeat=2)]


def worth(plan, treasures, episodes, burn_in, options):
    """What a plan is paid in one task: a walk through the trial, step by step."""
    total = 0.0
    for episode, room in itertools.product(range(episodes), range(options["rooms"])):
        reward = options["safe_reward"]
        if len(plan) == 1:
            (plan,) = plan
        elif room in treasures:
            reward, plan = options["treasure_reward"], plan[0]
        else:
            reward, plan = -options["cost"], plan[1]
        total += reward if episode >= burn_in else 0.0
    return total


@pytest.mark.parametrize(
    ("episodes", "burn_in", "treasures", "options"),
    [
        (1, 0, 1, SMALL),
        (1, 1, 1, SMALL),
        (2, 0, 1, SMALL),
        (2, 1, 1, SMALL),
        (2, 0, 1, SMALL | {"cost": 0.5}),  # it pays to open one now
        (2, 0, 1, SMALL | {"cost": 0.05, "safe_reward": 0.45}),
        (1, 0, 1, SMALL | {"rooms": 4, "cost": 0.1, "safe_reward": 0.2}),  # one that was found spares the others
        (1, 0, 2, SMALL | {"rooms": 3, "cost": 1.5, "safe_reward": 0.1}),
        (1, 0, 3, SMALL | {"rooms": 4, "cost": 1.8, "safe_reward": 0.3}),
    ],
)
def test_no_plan_beats_the_rooms_optimum_and_one_reaches_it(episodes, burn_in, treasures, options):
    tasks = [set(places) for places in itertools.combinations(range(options["rooms"]), treasures)]
    best = max(
        np.mean([worth(plan, task, episodes, burn_in, options) for task in tasks])
        for plan in plans(episodes * options["rooms"])
    )
    optimum = bayes_optimal.risky_rooms(episodes, burn_in, treasures=treasures, **options)
    assert optimum == pytest.approx(best, abs=1e-13)


def test_exploring_pays_only_where_it_is_free():
    """The defaults of the family: 4 rooms that pay 0.4 by passing, and 1.3 to whoever knows where the treasure is."""
    for episodes in (2, 4):
        for burn_in in range(episodes):
            counted = episodes - burn_in
            expected = (1.3 if burn_in else 0.4) * counted
            assert bayes_optimal.risky_rooms(episodes, burn_in) == pytest.approx(expected, abs=1e-13)
        # Not for want of a little: at a cost of 2.8 nobody would open a chest either, so opening one loses for sure.
        assert bayes_optimal.risky_rooms(episodes, 0, cost=2.8) == pytest.approx(0.4 * episodes, abs=1e-13)


def test_long_trials_pay_for_their_search():
    values = [bayes_optimal.risky_rooms(episodes, 0) / episodes for episodes in range(1, 40)]
    assert all(later >= now - 1e-13 for now, later in itertools.pairwise(values))
    # To open rooms in order until the treasure is known costs 3/4 + 2/4 + 1/4 failures of 3.1 each, and finds it in
    # the first episode, or knows it in the second at the latest.
    assert values[-1] > 1.3 - (1.5 * 3.1 + 0.9) / 39
    assert values[-1] < 1.3


def test_the_price_of_a_failure_and_a_free_episode_count():
    by_cost = [bayes_optimal.risky_rooms(6, 0, cost=cost) for cost in (0.0, 1.0, 2.0, 3.0)]
    assert by_cost == sorted(by_cost, reverse=True)
    assert by_cost[0] > by_cost[-1]
    free = [bayes_optimal.risky_rooms(3 + burn_in, burn_in) for burn_in in range(3)]
    assert free[0] < free[1] == free[2]
