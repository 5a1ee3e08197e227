"""The report on estimators at a size that takes seconds: what it says of the bandit is true, and it is all written."""

import json

import numpy as np
import pytest

from benchmarks import estimator_problems, estimator_report, estimators
from benchmarks.estimator_report import EXPECTED, SAMPLED
from oracles import exact

CHOSEN = ("plain", "LVC", "DiCE", "plain + credit")  # each takes seconds to compile


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "folder" / "estimators.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimators, "ESTIMATORS", {name: estimators.ESTIMATORS[name] for name in CHOSEN})
        estimators.main(estimators.Arguments(problems=("bandit",), quick=True, repeats=1, output=path))
    return path


@pytest.mark.slow
def test_the_bandit_tells_the_biased_from_the_unbiased(written):
    found = json.loads(written.read_text())["problems"]["bandit"]["estimators"]
    assert set(found) == {*CHOSEN, "ES-MAML"}
    unbiased, plain = found["plain + credit"][SAMPLED], found["plain"][SAMPLED]
    assert not unbiased["distinguishable"]
    assert unbiased["relative_interval"][0] == 0
    assert unbiased["relative_interval"][1] < plain["relative_interval"][0]
    assert plain["distinguishable"]
    assert plain["cosine"] < 0.995 < unbiased["cosine"]
    # Episodes of one step have no past that DiCE could add.
    np.testing.assert_allclose(found["DiCE"][EXPECTED]["bias"], found["LVC"][EXPECTED]["bias"], rtol=1e-4)


@pytest.mark.slow
def test_everything_is_on_disk(written):
    results = json.loads(written.read_text())
    assert {"machine", "date", "command", "seed", "seconds"} <= set(results)
    assert results["problems"]["bandit"]["reference_error"] == {SAMPLED: 0, EXPECTED: 0}
    assert set(results["costs"]["estimators"]) == set(CHOSEN)
    assert min(row["milliseconds"] for row in results["costs"]["estimators"].values()) > 0
    assert written.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text = estimator_report.table(results["problems"]["bandit"])
    assert len(text.splitlines()) == 2 + len(CHOSEN) + 1


@pytest.mark.parametrize("name", ["bandit", "MDP"])
def test_the_enumeration_for_any_advantage_is_the_exact_one_without_baseline(name):
    problem = estimator_problems.make(name, quick=True)
    advantage = problem.parts(estimator_problems.ZERO).advantage
    truth, rate = problem.truth, problem.inner_lr
    found = estimator_problems.sampled_gradient(truth, rate, problem.episodes, lambda d: advantage({}, d)[0])
    known = exact.sampled_gradient(truth, truth.logits, (rate,), problem.episodes)
    np.testing.assert_allclose(found, known.ravel(), atol=1e-12)


def test_the_interval_of_a_bias_covers_it_and_does_not_grow_from_noise():
    random = np.random.default_rng(0)
    noise = random.normal(size=(60, 400, 20))
    for bias in (0.0, 0.1, 1.0):
        found = np.array([estimator_report.squared_norm(bias / np.sqrt(20) + n, replicates=200) for n in noise])
        value, low, high = found.T
        assert abs(value.mean() - bias**2) < 4 * value.std() / np.sqrt(len(value))
        assert np.mean((low <= bias**2) & (bias**2 <= high)) > 0.85
    paired = estimator_report.squared_norm(noise[0] - noise[0])
    assert paired == (0, 0, 0)


def test_independent_references_add_their_noise():
    random = np.random.default_rng(1)
    samples, reference = random.normal(size=(50, 3)), random.normal(size=(20, 3))
    value, low, high = estimator_report.squared_norm(samples, -reference)
    expected = ((samples.mean(0) - reference.mean(0)) ** 2).sum()
    expected -= samples.var(0, ddof=1).sum() / 50 + reference.var(0, ddof=1).sum() / 20
    assert value == pytest.approx(expected)
    assert low <= 0 < high


def test_unknown_problems_are_refused():
    with pytest.raises(ValueError, match="unknown problem 'cheetah'; there are bandit"):
        estimator_problems.make("cheetah", quick=True)
