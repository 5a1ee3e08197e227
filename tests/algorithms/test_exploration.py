"""Who learns to explore in `risky-rooms`, every seed against the optimum of dynamic programming."""

import functools

import numpy as np
import pytest

from experiments import exploration
from experiments.exploration import Arguments

# Algorithms that are to explore where it is free, and not to where it is not; with what they need to learn it.
EXPLORERS = {
    "e-maml": Arguments(seeds=3, iterations=150),
    "rl2": Arguments(
        seeds=3,
        episodes=1,
        tasks=200,
        iterations=250,
        # Who never opens a chest never learns what it is good for, so all is tried at first.
        option=("outer_lr=0.003", "discount=1.0", "lambda_=1.0", "entropy_weight=0.5", "entropy_half_life=40"),
    ),
}
NAMES = ["e-maml", pytest.param("rl2", marks=pytest.mark.slow)]


@functools.cache
def learned(name, burn_in):
    """The mean return per counted episode of every seed, and the share of rooms opened [seeds, H]."""
    arguments = EXPLORERS.get(name, EXPLORERS["e-maml"])
    row = exploration.run(name, burn_in, arguments)
    returns, opened = np.asarray(row["returns"]), np.asarray(row["opened"])
    assert returns.shape == opened.shape == (3, 2 * arguments.episodes)
    return returns[:, burn_in:].mean(1), opened


@pytest.mark.parametrize("name", NAMES)
def test_free_episodes_are_explored_and_the_others_live_on_it(name):
    free = EXPLORERS[name].episodes  # the first half of the trial
    returns, opened = learned(name, free)
    best = exploration.optimum(free, 2 * free)  # what an episode pays who knows the task, so that none pays more
    assert ((returns > 0.9 * best) & (returns < best + 1e-4)).all()
    assert (opened[:, :free] > 0.6).all()  # who remembers stops at the treasure, after 62.5 % of the rooms on average
    assert (np.abs(opened[:, free:] - 0.25) < 0.05).all()  # the treasure's room, and hardly another


@pytest.mark.parametrize("name", NAMES)
def test_where_every_episode_counts_nothing_is_opened(name):
    returns, opened = learned(name, 0)
    assert (returns > 0.9 * exploration.optimum(0, 2 * EXPLORERS[name].episodes)).all()
    assert (opened < 0.02).all()


def test_plain_maml_does_not_see_what_the_free_episodes_are_for():
    """Its path derivative takes the data as given, so the one thing left to improve is the rooms that nobody opened.

    There φ = d − (2αs/T)·σ(d) with the difference d of a room's logits and the safe reward s, which rises with d as
    long as α < 2T/s = 80, and opening an unknown chest does not pay: θ goes down to where nothing is explored.
    """
    assert EXPLORERS["e-maml"].inner_lr < 80
    returns, opened = learned("maml", EXPLORERS["e-maml"].episodes)
    assert (np.abs(returns - exploration.optimum(0, 4)) < 0.03).all()
    assert (opened < 0.02).all()
