"""Optimal expected returns with a hidden task: dynamic programming over beliefs, in NumPy.

The optimum of a meta-RL problem is the Bayes-optimal policy of the whole trial; the posterior is a sufficient statistic
of the history. Duff (2002, "Optimal learning"). Exact up to rounding, without library code.
"""

import functools
from collections.abc import Callable

import numpy as np

UNKNOWN, TREASURE, EMPTY = range(3)
"""belief about a room"""


def bernoulli_bandit(arms: int, pulls: int) -> float:
    """The optimal expected sum of rewards in n pulls of K Bernoulli arms, each with p ~ U(0, 1).

    V(counts) = max_k [p_k (1 + V(success at k)) + (1 − p_k) V(failure at k)], 0 once n pulls are done, with the
    posterior mean p_k = (s_k + 1)/(s_k + f_k + 2) of s_k successes and f_k failures. The number of states is about
    n^(2K)/((2K)! K!): two arms and 50 pulls take a second.

    Args:
        arms: K.
        pulls: n.
    """
    return _bandit(arms, pulls, lambda options: max(value for _, value in options))


def greedy_bernoulli_bandit(arms: int, pulls: int) -> float:
    """The same for a policy that always pulls an arm with the highest posterior mean, with ties broken uniformly."""

    def of_highest(options):
        highest = max(mean for mean, _ in options)
        values = [value for mean, value in options if mean == highest]
        return sum(values) / len(values)

    return _bandit(arms, pulls, of_highest)


def _bandit(arms: int, pulls: int, choose: Callable[[list[tuple[float, float]]], float]) -> float:
    """The value of a policy, defined by how it combines the (posterior mean, value) pairs of the arms."""

    @functools.cache
    def value(counts, left):
        if left == 0:
            return 0.0
        options = []
        for arm, (won, lost) in enumerate(counts):
            # Arms are exchangeable, so states are sorted.
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
    """The optimal expected sum of rewards in the counted episodes of a trial in `risky-rooms`, T = k steps each.

    V_t(b) = max{w_t safe + V_{t+1}(b), E[w_t r(chest) + V_{t+1}(b')]} over steps t of the trial, in room t mod k, with
    w_t = 0 in the burn-in and 1 after it. b is the belief: each room is unknown, has a treasure or is empty. An
    unopened chest holds a treasure with probability (remaining treasures)/(unknown rooms).

    Args:
        episodes: H, episodes per trial.
        burn_in: K, initial episodes that do not count.
        rooms: k; there are 3^k beliefs.
        safe_reward: reward for passing.
        treasure_reward: reward for opening a chest with a treasure.
        cost: cost of opening an empty chest.
        treasures: number of chests with a treasure.
    """
    known = np.indices((3,) * rooms)
    unknown, found = (known == UNKNOWN).sum(0), (known == TREASURE).sum(0)
    # Clipped for beliefs that contradict the number of treasures, which cannot occur.
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
