"""The residual of a value network: what it leaves of the returns of a task's other episodes, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import inner
from metarl_jax.inner import critics
from tests.data import random_trajectory
from tests.inner import numpy_fit

DISCOUNT, HORIZON, SIZE = 0.9, 9, 3
SCALE = 7.0


def numpy_residual(trajectory, values, following, features, ridge=1e-5):
    """By numpy: the fit for each episode to G − V of the others, [2, N, T]; it is 0 on padding."""
    valid, truncated = np.asarray(trajectory.valid), np.asarray(trajectory.truncated)
    last = valid & ~np.pad(valid[:, 1:], ((0, 0), (0, 1)))
    ends = np.where(last & ~truncated, 0, np.asarray(trajectory.discount))
    errors = np.where(valid, np.asarray(trajectory.reward) + DISCOUNT * ends * following - values, 0)
    left = trajectory.replace(reward=jnp.asarray(errors))
    episodes = range(len(valid))
    fits = [
        numpy_fit.Fit(left, DISCOUNT, ridge, features, [m for m in episodes if m != n]).values(left, n)
        for n in episodes
    ]
    return np.stack(fits, axis=1)


@pytest.mark.parametrize(
    ("episodes", "features"),
    [(12, numpy_fit.all_features), (3, numpy_fit.time_features), (1, None)],
)
def test_the_residual_is_a_fit_to_the_other_episodes(episodes, features):
    with jax.enable_x64():
        trajectory = jax.tree.map(lambda leaf: leaf[:episodes], random_trajectory(3))
        alone = critics.value_network(SIZE, HORIZON, hidden=(8,), scale=SCALE, residual=False)
        critic = critics.value_network(SIZE, HORIZON, hidden=(8,), scale=SCALE)
        w = alone.init(jax.random.key(0))
        values, following = jax.jit(alone.values, static_argnums=2)(w, trajectory, DISCOUNT)
        expected = np.stack([values, following])
        if features is not None:
            expected = expected + numpy_residual(trajectory, values, following, features)
        found = jax.jit(critic.values, static_argnums=2)(w, trajectory, DISCOUNT)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
        # The fit is data, and what w learns from is V alone.
        for of_values in (
            lambda c: lambda w: c.values(w, trajectory, DISCOUNT)[0].sum(),
            lambda c: lambda w: c.loss(w, trajectory, DISCOUNT),
        ):
            slopes = [jax.jit(jax.grad(of_values(c)))(w) for c in (critic, alone)]
            jax.tree.map(np.testing.assert_array_equal, *slopes)


def test_what_a_task_pays_at_every_step_tells_nothing_of_its_actions():
    """A critic of all tasks does not know it; with the residual the advantages are the same."""
    with jax.enable_x64():
        trajectory = random_trajectory(4, 12)
        whole = jnp.ones_like(trajectory.valid)
        trajectory = trajectory.replace(valid=whole, truncated=~whole, discount=jnp.ones_like(trajectory.discount))
        richer = trajectory.replace(reward=trajectory.reward + 3.0)
        apart = {}
        for residual in (True, False):
            critic = critics.value_network(SIZE, HORIZON, hidden=(8,), scale=SCALE, residual=residual)
            w = critic.init(jax.random.key(0))

            @jax.jit
            def advantage(one, critic=critic, w=w):
                return inner.estimate(one, critic.values(w, one, 1.0), 1.0, 1.0, True)[0]

            both = [advantage(trajectory), advantage(richer)]
            apart[residual] = np.abs(both[1] - both[0]).max()
    assert apart[True] < 1e-2 < 0.5 < apart[False]  # but for the ridge, which holds the level of 27 back
