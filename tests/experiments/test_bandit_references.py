"""The index rules beside which `rl2` is read on bandits: means that are known, and the exact optimum above them."""

import numpy as np

from benchmarks import bandit_references
from benchmarks.bandit_references import RULES, Arguments, returns


def test_means_that_are_known():
    """One arm pays half of the pulls, whatever the rule. Of two arms, in one pull, too; random pulls always."""
    for rule in RULES:
        for arguments in (Arguments(arms=1, pulls=8, bandits=4000), Arguments(arms=2, pulls=1, bandits=4000)):
            earned = returns(arguments, rule)
            error = earned.std() / np.sqrt(len(earned))
            assert abs(earned.mean() - arguments.pulls / 2) < 4 * error, rule


def test_two_pulls_of_two_arms_by_hand():
    """Stay after a success, which pays 2/3 then; after a failure the other arm pays 1/2: 1/2 + 7/12 = 13/12."""
    earned = returns(Arguments(arms=2, pulls=2, bandits=40_000), "posterior's mean")
    assert abs(earned.mean() - 13 / 12) < 4 * earned.std() / 200


def test_a_hundred_pulls_are_in_the_order_of_the_literature():
    small = Arguments(bandits=4000)
    mean = {rule: returns(small, rule).mean() for rule in RULES}
    assert mean["random"] < mean["Thompson sampling"] < mean["posterior's mean"] < mean["mean + 1.0 deviations"]


def test_the_table_is_printed(capsys):
    bandit_references.main(Arguments(bandits=10, pulls=3))
    assert [line[:22].strip() for line in capsys.readouterr().out.splitlines()] == list(RULES)
