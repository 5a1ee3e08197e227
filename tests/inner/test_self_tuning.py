"""What θ means, and an agent that takes actor-critic steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import inner
from metarl_jax.inner.self_tuning import ROOM, normalized_smoothly

START = inner.Hyperparameters(0.95, 0.9, 0.01, 0.5, 0.1)


def test_theta_is_zero_where_the_starts_are():
    with jax.enable_x64():
        tuning = inner.tuning(START)
        assert all(value == 0 for value in tuning.init().values())
        np.testing.assert_allclose(tuning.read(tuning.init()), START, rtol=1e-12)


def test_a_step_multiplies_the_effective_horizon():
    """ρ = 0.001 adds 0.01 to the logit of γ: γ/(1 − γ) grows by exp(0.01), for γ = 0.95 as for γ = 0.999."""
    with jax.enable_x64():
        for gamma in (0.95, 0.999):
            tuning = inner.tuning(START._replace(discount=gamma))
            moved = tuning.read({**tuning.init(), "discount": 0.001}).discount
            np.testing.assert_allclose(moved / (1 - moved), gamma / (1 - gamma) * np.exp(0.01), rtol=1e-9)


def test_weights_and_rate_stay_positive_and_bounded():
    tuning = inner.tuning(START)
    for raw, share in ((100.0, ROOM), (-100.0, 0.0)):
        now = tuning.read(dict.fromkeys(inner.HYPERPARAMETERS, raw))
        np.testing.assert_allclose(now[2:], share * np.array(START[2:]), rtol=1e-6)
        np.testing.assert_allclose(now[:2], [min(share, 1.0)] * 2, rtol=1e-6)


def test_what_is_not_tuned_stays():
    start = START._replace(lambda_=1.0, entropy_weight=0.0)  # where no sigmoid could start
    tuning = inner.tuning(start, ("discount",))
    assert tuning.init().keys() == {"discount"}
    assert inner.tuning(start, ()).init() == {}
    now = tuning.read({"discount": jnp.asarray(1.0)})
    np.testing.assert_allclose(now[1:], start[1:], rtol=1e-6)
    assert now.discount > 0.99


@pytest.mark.parametrize(
    ("start", "tuned", "message"),
    [
        ({}, ("gamma",), "unknown hyperparameter in tuned 'gamma'"),
        ({}, "discount", "it must be a sequence of names"),
        ({}, ("discount", "discount"), "name each hyperparameter once"),
        ({"discount": 1.0}, ("discount",), "discount is 1.0, where a sigmoid cannot move"),
        ({"lambda_": 1.5}, (), "lambda_ is 1.5"),
        ({"entropy_weight": 0.0}, ("entropy_weight",), "entropy_weight is 0.0; it must be a positive number"),
        ({"value_weight": -1.0}, (), "value_weight is -1.0"),
        ({"learning_rate": 0.0}, (), "learning_rate is 0.0"),
    ],
)
def test_refusals(start, tuned, message):
    with pytest.raises(ValueError, match=message) as refusal:
        inner.tuning(START._replace(**start), tuned)
    assert "\n" not in str(refusal.value)


def test_an_optimizer_that_learns_itself_is_refused():
    env = mrl.envs.make("gaussian-bandit")
    agent = inner.make_actor_critic(env, mrl.policies.mlp(env, hidden=(4,)), START)
    with pytest.raises(ValueError, match="'parameter_rates', whose rates are learned too"):
        inner.self_tuning(agent, inner.tuning(START), "parameter_rates")


def test_normalized_advantages():
    with jax.enable_x64():
        random = np.random.default_rng(0)
        advantage, valid = random.normal(3, 2, (4, 5)), random.random((4, 5)) < 0.7
        normalized = normalized_smoothly(jnp.asarray(advantage), jnp.asarray(valid))
        kept = advantage[valid]
        np.testing.assert_allclose(normalized[valid], (kept - kept.mean()) / kept.std(), rtol=1e-7)
        assert (normalized[~valid] == 0).all()
        # The derivative exists where nothing differs, and where nothing is valid.
        for mask in (jnp.ones((4, 5), bool), jnp.zeros((4, 5), bool)):
            slope = jax.grad(lambda x, mask=mask: (normalized_smoothly(x, mask) ** 2).sum())(jnp.zeros((4, 5)))
            assert np.isfinite(slope).all()
