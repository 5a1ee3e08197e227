"""Baselines by size: a fit with many features for its steps takes the gradient away, so it is not made."""

import pytest

import metarl_jax as mrl
from metarl_jax import inner
from metarl_jax.inner import critics

# (given, observation, N, T) → the baseline: with at most half as many features as steps the usual one, T = 1 having no
# features of time.
CHOSEN = {
    (None, 2, 20, 10): "linear_feature",
    (None, 48, 20, 10): "linear_feature",
    (None, 49, 20, 10): "linear_time",
    (None, 400, 4, 2): "linear_time",
    (None, 400, 2, 1): "linear_time",
    (None, 1, 6, 1): "linear_feature",
    (None, 3, 1, 5): "zero",
    (None, 3, 1, 1): "zero",
    ("linear_feature", 97, 20, 10): "linear_feature",
    ("leave_one_out", 92, 20, 10): "leave_one_out",
    ("previous_fit", 797, 20, 10): "previous_fit",  # of four tasks and two stages
    ("value_network", 400, 1, 1): "value_network",
    ("zero", 400, 1, 1): "zero",
    ("linear_feature", 98, 20, 10): "which fits 200 features to 200 steps",
    ("leave_one_out", 93, 20, 10): "which fits 190 features to 190 steps",
    ("previous_fit", 798, 20, 10): "which fits 1600 features to 1600 steps",
    ("linear_time", 2, 1, 4): "which fits 4 features to 4 steps",
}


@pytest.mark.parametrize("given", CHOSEN, ids=str)
def test_a_baseline_is_one_that_the_sizes_bear(given, caplog):
    name, size, episodes, horizon = given
    trial, expected = mrl.Trial(tasks=4, episodes=episodes, horizon=horizon), CHOSEN[given]
    critics._say_once.cache_clear()
    if "features" in expected:
        with pytest.raises(ValueError, match=f"baseline is {name!r}, {expected}.*value_network"):
            inner.choose_baseline(name, size, trial)
        return
    assert [inner.choose_baseline(name, size, trial) for _ in range(2)] == [expected] * 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (name is None and expected != "linear_feature"), "once"
    assert all(
        f"baseline is {expected!r}: 'linear_feature' would fit {2 * size + 1}" in line for line in said if horizon == 1
    )


def test_an_algorithm_says_which_baseline_it_took(caplog):
    critics._say_once.cache_clear()
    env = mrl.envs.reveal_task(mrl.envs.make("tabular-mdp", horizon=10))  # 560 numbers in an observation
    mrl.algorithms.make("maml", env, episodes=20)
    assert "baseline is 'linear_time': 'linear_feature' would fit" in caplog.text
    with pytest.raises(ValueError, match="baseline is 'linear_feature', which fits"):
        mrl.algorithms.make("promp", env, episodes=20, baseline="linear_feature")
    caplog.clear()
    mrl.algorithms.make("self-tuning", env, episodes=2)
    assert not caplog.text, "it has critics of its own"


@pytest.mark.parametrize("name", [None, "leave_one_out", "previous_fit"])
@pytest.mark.parametrize("size", [2, 49, 92, 93, 97])
def test_a_budget_of_steps_bears_what_as_many_whole_episodes_bear(name, size):
    sizes = {"tasks": 1, "adaptation_steps": 0, "horizon": 10}
    chosen = []
    for trial in (mrl.Trial(**sizes, episodes=20), mrl.Trial(**sizes, episodes=50, stage_steps=200)):
        try:
            chosen.append(inner.choose_baseline(name, size, trial))
        except ValueError as refusal:
            chosen.append(str(refusal))
    assert chosen[0] == chosen[1]
    assert (name, size) != ("leave_one_out", 93) or "190 features to 190 steps" in chosen[0]
