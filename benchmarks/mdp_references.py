"""Returns of planners that know the prior in the random MDPs of Duan et al. (2016), as references for `rl2`.

python benchmarks/mdp_references.py                  # 10,000 MDPs of 10 states and 5 actions, ten episodes of ten steps

All know that P(·|x, a) ~ Dirichlet(1) and R(x, a) ~ N(1, 1), with unit noise, and use the exact posterior. At the
start of an episode, each plans for its ten steps by dynamic programming: posterior sampling (Strens 2000; Osband et al.
2013, arXiv:1306.0940) in a sample of the posterior, the greedy planner in its mean, the informed one in the true MDP.
NumPy only, no library code.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tyro

States = np.ndarray
"""[M] current state of each of M MDPs"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    mdps: int = 10_000
    """how many MDPs"""
    episodes: int = 10
    """of a trial"""
    horizon: int = 10
    """steps of an episode"""
    states: int = 10
    """of an MDP"""
    actions: int = 5
    """of an MDP"""
    seed: int = 0
    """of MDPs and planners"""


def plan(transition: np.ndarray, reward: np.ndarray, horizon: int) -> np.ndarray:
    """Optimal actions [T, M, X] per step, by backward induction; P [M, X, A, X], R [M, X, A]."""
    value, chosen = np.zeros(reward.shape[:2]), []
    for _ in range(horizon):
        worth = reward + np.einsum("mxay,my->mxa", transition, value)
        chosen.append(worth.argmax(-1))
        value = worth.max(-1)
    return np.array(chosen[::-1])


def dirichlet(random: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    weight = random.gamma(counts)
    return weight / weight.sum(-1, keepdims=True)


def returns(arguments: Arguments, planner: str) -> np.ndarray:
    """[M, H] return of each episode."""
    a, random = arguments, np.random.default_rng(arguments.seed)
    shape, every = (a.mdps, a.states, a.actions), np.arange(a.mdps)
    transition, mean = dirichlet(random, np.ones((*shape, a.states))), 1 + random.normal(size=shape)
    counts, seen, paid = np.ones((*shape, a.states)), np.zeros(shape), np.zeros(shape)
    # (P, R) that an episode is planned in; the posterior of a mean reward is N((1 + Σ r) / (1 + n), 1 / (1 + n)).
    views: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "random": lambda: (transition, np.zeros(shape)),
        "greedy": lambda: (counts / counts.sum(-1, keepdims=True), (1 + paid) / (1 + seen)),
        "posterior sampling": lambda: (
            dirichlet(random, counts),
            (1 + paid) / (1 + seen) + random.normal(size=shape) / np.sqrt(1 + seen),
        ),
        "informed": lambda: (transition, mean),
    }
    earned = np.zeros((a.mdps, a.episodes))
    for episode in range(a.episodes):
        chosen, state = plan(*views[planner](), a.horizon), np.zeros(a.mdps, int)
        for step in range(a.horizon):
            action = chosen[step, every, state]
            if planner == "random":
                action = random.integers(a.actions, size=a.mdps)
            reward = mean[every, state, action] + random.normal(size=a.mdps)
            cumulative = transition[every, state, action].cumsum(-1)
            following = np.minimum((random.random((a.mdps, 1)) > cumulative).sum(-1), a.states - 1)
            counts[every, state, action, following] += 1
            seen[every, state, action] += 1
            paid[every, state, action] += reward
            earned[:, episode] += reward
            state = following
    return earned


def main(arguments: Arguments) -> None:
    for planner in ("random", "greedy", "posterior sampling", "informed"):
        earned = returns(arguments, planner)
        total = earned.sum(-1)
        error = total.std(ddof=1) / np.sqrt(arguments.mdps)
        print(f"{planner:20} {total.mean():6.1f} ± {error:.1f}; by episode {earned.mean(0).round(1)}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
