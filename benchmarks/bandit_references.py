"""Returns of index rules with the exact posterior on Bernoulli bandits, as references for `rl2`.

python benchmarks/bandit_references.py                     # 5 arms, 100 pulls
python benchmarks/bandit_references.py --arms 10

Arms pay with p ~ U(0, 1), so the posterior after s successes and f failures is Beta(1 + s, 1 + f). Each rule pulls the
arm with the highest index: a sample of the posterior (Thompson 1933), its mean, or its mean plus c standard deviations
times √(fraction of remaining pulls), which reduces exploration towards the end. NumPy only, no library code.
"""

import dataclasses

import numpy as np
import tyro

RULES = ("random", "posterior's mean", "Thompson sampling", "mean + 1.0 deviations", "mean + 1.5 deviations")


@dataclasses.dataclass(frozen=True)
class Arguments:
    arms: int = 5
    """K"""
    pulls: int = 100
    """of a trial"""
    bandits: int = 20_000
    """how many"""
    seed: int = 0
    """of bandits and rules"""


def returns(arguments: Arguments, rule: str) -> np.ndarray:
    """[bandits] reward of a trial."""
    a, random = arguments, np.random.default_rng(arguments.seed)
    shape, every = (a.bandits, a.arms), np.arange(a.bandits)
    pays, won, lost, earned = random.random(shape), np.ones(shape), np.ones(shape), np.zeros(a.bandits)
    for pull in range(a.pulls):
        mean, ties = won / (won + lost), 1e-9 * random.random(shape)
        deviation = np.sqrt(mean * (1 - mean) / (won + lost + 1))
        left = np.sqrt((a.pulls - pull) / a.pulls)
        index = {
            "random": lambda: random.random(shape),
            "posterior's mean": lambda mean=mean: mean,
            "Thompson sampling": lambda: random.beta(won, lost),
            "mean + 1.0 deviations": lambda mean=mean, extra=deviation * left: mean + extra,
            "mean + 1.5 deviations": lambda mean=mean, extra=deviation * left: mean + 1.5 * extra,
        }[rule]()
        arm = (index + ties).argmax(1)
        paid = random.random(a.bandits) < pays[every, arm]
        won[every, arm] += paid
        lost[every, arm] += ~paid
        earned += paid
    return earned


def main(arguments: Arguments) -> None:
    for rule in RULES:
        earned = returns(arguments, rule)
        error = earned.std(ddof=1) / np.sqrt(arguments.bandits)
        print(f"{rule:22} {earned.mean():6.2f} ± {error:.2f} of {arguments.pulls} pulls pay", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
