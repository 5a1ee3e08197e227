"""The planners beside which `rl2` is read in random MDPs: dynamic programming against enumeration, and known means."""

import itertools

import numpy as np

from benchmarks import mdp_references
from benchmarks.mdp_references import Arguments, plan, returns


def test_a_plan_is_the_best_of_all():
    """Every assignment of an action to (step, state), its return computed forwards: none beats the plan's."""
    random, mdps, states, actions, horizon = np.random.default_rng(0), 60, 2, 2, 3
    transition = random.dirichlet(0.3 * np.ones(states), (mdps, states, actions))
    reward = random.normal(size=(mdps, states, actions))

    def worth(mdp, chosen):
        occupancy, total = np.eye(states)[0], 0.0
        for step in range(horizon):
            total += sum(occupancy[x] * reward[mdp, x, chosen[step][x]] for x in range(states))
            occupancy = sum(occupancy[x] * transition[mdp, x, chosen[step][x]] for x in range(states))
        return total

    every = list(itertools.product(itertools.product(range(actions), repeat=states), repeat=horizon))
    planned = plan(transition, reward, horizon)
    for mdp in range(mdps):
        best = max(worth(mdp, chosen) for chosen in every)
        np.testing.assert_allclose(worth(mdp, planned[:, mdp]), best)


def test_means_that_are_known():
    """Random actions pay 1 a step; with one action all planners are that; who knows the MDP is ahead of who learns."""
    small = Arguments(mdps=2000, episodes=3, horizon=4)
    total = {name: returns(small, name).sum(-1) for name in ("random", "greedy", "posterior sampling", "informed")}
    error = total["random"].std() / np.sqrt(small.mdps)
    assert abs(total["random"].mean() - 12) < 4 * error
    assert total["informed"].mean() > total["greedy"].mean() > total["posterior sampling"].mean() > 12 + 4 * error
    alone = Arguments(mdps=500, episodes=2, horizon=3, actions=1)
    assert abs(returns(alone, "greedy").sum(-1).mean() - 6) < 4 * returns(alone, "greedy").sum(-1).std() / 500**0.5


def test_the_table_is_printed(capsys):
    mdp_references.main(Arguments(mdps=20, episodes=2, horizon=2))
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == [
        *("random", "greedy", "posterior sampling", "informed")
    ]
