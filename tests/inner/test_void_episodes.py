"""What is estimated from the other episodes is as if void ones had not been: deleting them changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import inner
from metarl_jax.inner.advantages import estimate
from metarl_jax.inner.critics import previous_fit, value_network
from metarl_jax.policies.likelihood import pad_with_first
from tests.data import random_trajectory
from tests.fragile import take

DISCOUNT = 0.9
KEPT = np.array([0, 1, 3, 4, 6, 7, 9, 11])


def some_void(seed):
    """A trajectory in which all but eight of twelve episodes are void, and one of those eight alone."""
    trajectory = random_trajectory(seed)
    void = np.ones(12, bool)
    void[KEPT] = False
    padded = pad_with_first(trajectory, jnp.zeros((12, 9), bool))
    padded = padded.replace(valid=jnp.zeros((12, 9), bool), reward=jnp.zeros((12, 9)))
    mixed = jax.tree.map(lambda a, b: jnp.where(void.reshape(-1, *[1] * (a.ndim - 1)), b, a), trajectory, padded)
    return mixed, take(trajectory, KEPT)


BASELINES = {
    "zero": inner.zero(),
    "linear_feature": inner.linear_feature(),
    "linear_time": inner.linear_time(),
    "leave_one_out": inner.leave_one_out(),
    "leave_one_out of time": inner.leave_one_out(inner.linear_time()),
    "value_network": value_network(3, 9, hidden=(8,)),
    "previous_fit": previous_fit(3),
}


@pytest.mark.parametrize("name", BASELINES)
def test_advantages_of_the_others_are_as_if_void_episodes_had_not_been(name):
    baseline = BASELINES[name]
    with jax.enable_x64():
        mixed, alone = some_void(5)
        np.testing.assert_array_equal(np.flatnonzero(~mixed.void), KEPT)

        def scored(trajectory):
            if not isinstance(baseline, inner.Critic):
                return baseline(trajectory, DISCOUNT), 0.0
            w = baseline.init(jax.random.key(0))
            w = baseline.refit(w, trajectory, DISCOUNT) if baseline.refit else w
            loss = baseline.loss(w, trajectory, DISCOUNT) if baseline.loss else 0.0
            return baseline.values(w, trajectory, DISCOUNT), loss

        @jax.jit
        def advantages(trajectory):
            values, loss = scored(trajectory)
            normalized, scale = estimate(trajectory, values, DISCOUNT, 0.9, True)
            plain, _ = estimate(trajectory, values, DISCOUNT, 0.9, False)
            return (plain, normalized), (scale, loss)

        found, numbers = advantages(mixed)
        expected, expected_numbers = advantages(alone)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a[KEPT], b, rtol=1e-6, atol=1e-9)
        assert not np.delete(a, KEPT, 0).any()
    np.testing.assert_allclose(numbers, expected_numbers, rtol=1e-9)


def test_a_fit_to_void_episodes_alone_keeps_the_previous_one():
    critic = previous_fit(3)
    refit = jax.jit(critic.refit, static_argnums=2)
    w = refit(critic.init(jax.random.key(0)), random_trajectory(0), DISCOUNT)
    void = random_trajectory(1).replace(valid=jnp.zeros((12, 9), bool))
    jax.tree.map(np.testing.assert_array_equal, refit(w, void, DISCOUNT), w)
