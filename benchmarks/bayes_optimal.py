"""What a learner can reach at best where the task is hidden: dynamic programming over what it knows, in NumPy.

The optimum of a meta-RL problem is the Bayes-optimal policy of the whole trial: it acts on the history, of which the
posterior is all that matters. Duff (2002, "Optimal learning"). Exact up to rounding, without code of the library.
"""

import functools
from collections.abc import Callable

import numpy as np

UNKNOWN, TREASURE, EMPTY = range(3)
"""what is known of a room"""


def bernoulli_bandit(arms: int, pulls: int) -> float:
    """The largest expected sum of rewards in n pulls of K Bernoulli arms, each with p ~ U(0, 1).

    V(counts) = max_k [p_k (1 + V(success at k)) + (1 − p_k) V(failure at k)], 0 once n pulls are done, with the
    posterior mean p_k = (s_k + 1)/(s_k + f_k + 2) of s_k successes and f_k failures. States number about
    n^(2K)/((2K)! K!): two arms and 50 pulls take a second.

    Args:
        arms: K.
        pulls: n.
    """
    return _bandit(arms, pulls, lambda options: max(value for _, value in options))


def greedy_bernoulli_bandit(arms: int, pulls: int) -> float:
    """The same for a policy that always pulls the arm of the highest posterior mean, of several any with equal odds."""

    def of_highest(options):
        highest = max(mean for mean, _ in options)
        values = [value for mean, value in options if mean == highest]
        return sum(values) / len(values)

    return _bandit(arms, pulls, of_highest)


def _bandit(arms: int, pulls: int, choose: Callable[[list[tuple[float, float]]], float]) -> float:
    """The value of a policy, given by what it makes of (posterior mean, value) of every arm."""

    @functools.cache
    def value(counts, left):
        if left == 0:
            return 0.0
        options = []
        for arm, (won, lost) in enumerate(counts):
            # Arms are alike but for their counts: sorted, they are one state where they are one up to order.
            success, failure = (
                value(tuple(sorted((*counts[:arm], outcome, *counts[arm + 1 :]))), left - 1)
                for outcome in ((won + 1, lost), (won, lost + 1))
            )
            mean = (won + 1) / (won + lost + 2)
            options.append((mean, mean * (1 + success) + (1 - mean) * failure))
        return choose(options)

    return value(((0, 0),) * arms, pulls)


def risky_rooms(
    episodes: int,
    burn_in: int,
    *,
    rooms: int = 4,
    safe_reward: float = 0.1,
    treasure_reward: float = 1.0,
    cost: float = 3.0,
    treasures: int = 1,
) -> float:
    """The largest expected sum of rewards in the counted episodes of a trial in `risky-rooms`, T = k steps each.

    V_t(b) = max{w_t safe + V_{t+1}(b), E[w_t r(chest) + V_{t+1}(b')]} over steps t of the trial, in room t mod k, with
    w_t = 0 in the burn-in and 1 after it. b says of every room whether it is unknown, has a treasure or is empty; what
    an unopened chest holds is a treasure with chance (treasures not found)/(rooms unknown).

    Args:
        episodes: H of the trial.
        burn_in: K, those of them that do not count.
        rooms: k; 3^k states are held.
        safe_reward: reward for passing.
        treasure_reward: reward for opening a chest with a treasure.
        cost: what opening an empty one costs.
        treasures: how many chests have one.
    """
    known = np.indices((3,) * rooms)
    unknown, found = (known == UNKNOWN).sum(0), (known == TREASURE).sum(0)
    # Clipped where b contradicts the number of treasures, which never happens.
    chance = np.clip((treasures - found) / np.maximum(unknown, 1), 0, 1)
    value = np.zeros(known.shape[1:])
    for step in reversed(range(episodes * rooms)):
        room, counts = step % rooms, step // rooms >= burn_in
        odds, now, following = (np.moveaxis(array, room, 0) for array in (chance, np.empty_like(value), value))
        treasure, empty = counts * treasure_reward + following[TREASURE], -counts * cost + following[EMPTY]
        now[TREASURE], now[EMPTY] = treasure, empty
        now[UNKNOWN] = odds[UNKNOWN] * treasure + (1 - odds[UNKNOWN]) * empty
        value = np.moveaxis(np.maximum(now, counts * safe_reward + following), 0, room)
    return float(value.flat[0])
