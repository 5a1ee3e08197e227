"""Critics against numpy, step by step: values, losses, fits to earlier data, and what must not influence them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metarl_jax import inner
from metarl_jax.inner import critics
from tests import data
from tests.data import random_trajectory
from tests.inner import numpy_fit

DISCOUNT, HORIZON, SIZE = 0.9, 9, 3
SCALE = 7.0


def compiled(critic):
    """Each function of it as one program in place of many small ones."""
    functions = {name: getattr(critic, name) for name in ("values", "loss", "refit")}
    jitted = {name: jax.jit(function, static_argnums=2) for name, function in functions.items() if function}
    return critic._replace(init=jax.jit(critic.init), **jitted)


@pytest.fixture(scope="module")
def network():
    """A small value network whose parameters, the last layer's too, are of size 1."""
    critic = compiled(critics.value_network(SIZE, HORIZON, hidden=(8, 4), scale=SCALE, residual=False))
    w = critic.init(jax.random.key(0))
    return critic, jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), w)


@pytest.fixture(scope="module")
def trajectory():
    return random_trajectory(0)


def poisoned(trajectory):
    """NaN and infinity wherever no step was taken."""
    mask = trajectory.valid
    return trajectory.replace(
        observation=jnp.where(mask[..., None], trajectory.observation, jnp.nan),
        next_observation=jnp.where(mask[..., None], trajectory.next_observation, jnp.inf),
        reward=jnp.where(mask, trajectory.reward, jnp.nan),
        truncated=trajectory.truncated | ~mask,
    )


def numpy_values(w, observation, time):
    hidden = np.append(np.asarray(observation), time / HORIZON)
    for index in range(3):
        layer = w[f"Dense_{index}"]
        hidden = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        hidden = np.tanh(hidden) if index < 2 else hidden
    return SCALE * hidden[0]


def exact_rewards(trajectory, values, following, discount):
    """Rewards that make V the discounted return of every step, bootstrapped where an episode was cut."""
    valid, truncated = np.asarray(trajectory.valid), np.asarray(trajectory.truncated)
    last = valid & ~np.pad(valid[:, 1:], ((0, 0), (0, 1)))
    return jnp.where(valid, values - discount * np.where(last & ~truncated, 0, following), 0)


def test_values_are_the_networks_of_observation_and_time(network, trajectory):
    critic, w = network
    values, following = critic.values(w, trajectory, DISCOUNT)
    expected = np.zeros((2, *trajectory.valid.shape))
    for n, t in np.argwhere(trajectory.valid):
        expected[0, n, t] = numpy_values(w, trajectory.observation[n, t], t)
        expected[1, n, t] = numpy_values(w, trajectory.next_observation[n, t], t + 1)
    np.testing.assert_allclose(values, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(following, expected[1], rtol=1e-4, atol=1e-5)


def test_the_loss_is_zero_only_where_values_are_the_returns(network, trajectory):
    critic, w = network
    values = critic.values(w, trajectory, DISCOUNT)
    exact = trajectory.replace(reward=exact_rewards(trajectory, *values, DISCOUNT))
    assert critic.loss(w, exact, DISCOUNT) < 1e-10
    # One more unit at the third step of a full episode: its G and the two before it are off by γ^k.
    n = int(np.argmax(trajectory.valid.sum(1) == HORIZON))
    surplus = critic.loss(w, exact.replace(reward=exact.reward.at[n, 2].add(1.0)), DISCOUNT)
    expected = (1 + DISCOUNT**2 + DISCOUNT**4) / SCALE**2 / trajectory.valid.size
    np.testing.assert_allclose(surplus, expected, rtol=1e-4)


def test_the_target_is_data(network, trajectory):
    """The gradient is that of the distance to fixed targets, although these hold V of a cut episode's end."""
    critic, w = network
    following = critic.values(w, trajectory, DISCOUNT)[1]
    bootstrapped = DISCOUNT * jnp.where(trajectory.truncated & trajectory.valid, following, 0)
    targets = inner.reward_to_go(trajectory.replace(reward=trajectory.reward + bootstrapped), DISCOUNT)

    def distance(w):
        error = (critic.values(w, trajectory, DISCOUNT)[0] - targets) / SCALE
        return jnp.where(trajectory.valid, error**2, 0).sum() / trajectory.valid.size

    assert (trajectory.truncated & trajectory.valid).any()
    gradients = jax.grad(critic.loss)(w, trajectory, DISCOUNT), jax.jit(jax.grad(distance))(w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)


def test_padding_harms_neither_values_nor_loss_nor_gradient(network, trajectory):
    critic, w = network
    both = jax.value_and_grad(critic.loss)
    jax.tree.map(
        np.testing.assert_array_equal,
        (both(w, poisoned(trajectory), DISCOUNT), critic.values(w, poisoned(trajectory), DISCOUNT)),
        (both(w, trajectory, DISCOUNT), critic.values(w, trajectory, DISCOUNT)),
    )


def test_the_gradient_reaches_every_parameter_from_the_first_step_on(trajectory):
    critic = compiled(critics.value_network(SIZE, HORIZON, residual=False))
    gradient = jax.grad(critic.loss)(critic.init(jax.random.key(0)), trajectory, DISCOUNT)
    norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient)]
    assert len(norms) == 6
    assert min(norms) > 0


def test_a_fresh_network_is_nearly_no_baseline(trajectory):
    critic = compiled(critics.value_network(SIZE, HORIZON, scale=100.0, residual=False))
    values = critic.values(critic.init(jax.random.key(0)), trajectory, DISCOUNT)
    assert 0 < np.abs(np.stack(values)).max() < 5


def test_with_rewards_and_scale_both_larger_only_the_values_are_larger(network, trajectory):
    critic, w = network
    larger = compiled(critics.value_network(SIZE, HORIZON, hidden=(8, 4), scale=50 * SCALE, residual=False))
    loss, larger_loss = jax.value_and_grad(critic.loss), jax.value_and_grad(larger.loss)
    richer = trajectory.replace(reward=50 * trajectory.reward)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        larger_loss(w, richer, DISCOUNT),
        loss(w, trajectory, DISCOUNT),
    )
    values, larger_values = critic.values(w, trajectory, DISCOUNT), larger.values(w, richer, DISCOUNT)
    np.testing.assert_allclose(np.stack(larger_values), 50 * np.stack(values), rtol=1e-5)


def test_it_learns_returns_of_size_a_hundred_that_only_time_tells(trajectory):
    """A reward of 11 per step, and observations that say nothing: V = 11 (9 − t), which is 99 at the start."""
    full = trajectory.replace(
        reward=jnp.full((12, HORIZON), 11.0),
        valid=jnp.ones((12, HORIZON), bool),
        truncated=jnp.zeros((12, HORIZON), bool),
        observation=jnp.zeros((12, HORIZON, SIZE)),
        next_observation=jnp.zeros((12, HORIZON, SIZE)),
    )
    critic = critics.value_network(SIZE, HORIZON, scale=100.0, residual=False)
    optimizer = optax.adam(3e-3)

    def step(carry, _):
        w, state = carry
        loss, gradient = jax.value_and_grad(critic.loss)(w, full, 1.0)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(w, change), state), loss

    w = critic.init(jax.random.key(0))
    (w, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=200))((w, optimizer.init(w)))
    assert 0.1 < losses[0] < 1
    values, following = critic.values(w, full, 1.0)
    np.testing.assert_allclose(values[0], 11.0 * (HORIZON - np.arange(HORIZON)), atol=3)
    np.testing.assert_allclose(following[0, :-1], values[0, 1:], rtol=1e-6)


# --- fitted to the previous meta-iteration ---------------------------------------------------------------------------


def pooled(count=3):
    """Episodes of several stages with all kinds of endings, [E, T, ...]."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(random_trajectory(seed) for seed in range(count)))


def test_previous_fit_scores_new_episodes_by_a_fit_to_the_old_ones():
    ridge = 1e-3
    with jax.enable_x64():
        old, new = pooled(), random_trajectory(9)
        critic = compiled(critics.previous_fit(SIZE, ridge))
        w = critic.refit(critic.init(jax.random.key(0)), poisoned(old), DISCOUNT)
        values, following = critic.values(w, new, DISCOUNT)
        fit = numpy_fit.Fit(old, DISCOUNT, ridge)
    for n in range(12):
        np.testing.assert_allclose((values[n], following[n]), fit.values(new, n), rtol=1e-8, atol=1e-8)


def test_previous_fit_is_zero_before_its_first_fit(trajectory):
    critic = compiled(critics.previous_fit(SIZE))
    for values in critic.values(critic.init(jax.random.key(0)), trajectory, DISCOUNT):
        np.testing.assert_array_equal(values, np.zeros((12, HORIZON)))


def test_previous_fit_keeps_its_types_so_that_a_loop_can_carry_it():
    critic = compiled(critics.previous_fit(SIZE))
    assert critic.loss is None
    batches = jax.tree.map(lambda leaf: leaf.reshape(3, 12, *leaf.shape[1:]), pooled())
    carried, _ = jax.lax.scan(  # a scan refuses a carry that changes its structure, dtypes or weak types
        lambda w, batch: (critic.refit(w, batch, DISCOUNT), None), critic.init(jax.random.key(0)), batches
    )
    last = critic.refit(carried, random_trajectory(2), DISCOUNT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), carried, last)


# --- names and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", critics.BASELINES)
def test_every_name_makes_a_baseline(name, trajectory):
    baseline = critics.make_baseline(name, SIZE, HORIZON)
    if isinstance(baseline, critics.Critic):
        baseline = compiled(baseline)
        values = baseline.values(baseline.init(jax.random.key(0)), trajectory, DISCOUNT)
        assert (baseline.loss is None) != (baseline.refit is None), "a critic has one way to learn"
    else:
        values = data.compiled(baseline)(trajectory, DISCOUNT)
    assert [value.shape for value in values] == [(12, HORIZON)] * 2
    assert all((np.asarray(value)[~np.asarray(trajectory.valid)] == 0).all() for value in values)


def test_own_baselines_are_taken_as_they_are(trajectory):
    own = [lambda trajectory, discount: (trajectory.reward, trajectory.reward), critics.previous_fit(SIZE)]
    for baseline in own:
        assert critics.make_baseline(baseline, SIZE, HORIZON) is baseline
    pair = (critics.make_baseline(None, SIZE, HORIZON), inner.linear_feature())
    default, by_name = (data.compiled(baseline)(trajectory, DISCOUNT) for baseline in pair)
    jax.tree.map(np.testing.assert_array_equal, default, by_name)


@pytest.mark.parametrize("name", ["linear", "LINEAR_FEATURE"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"unknown baseline .* choose from leave_one_out, linear_feature"):
        critics.make_baseline(name, SIZE, HORIZON)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation_size": 0}, "observation_size is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"hidden": (0,)}, "hidden is 0"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"scale": 0.0}, "scale is 0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"outer_weight": -1.0}, "outer_weight is -1"),
        ({"inner_weight": float("inf")}, "inner_weight is inf"),
        ({"outer_weight": 0.0}, "outer_weight and inner_weight are both 0"),
    ],
)
def test_bad_options_of_the_value_network(options, message):
    with pytest.raises(ValueError, match=message):
        critics.value_network(**{"observation_size": SIZE, "horizon": HORIZON, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"observation_size": -1}, "observation_size is -1"), ({"ridge": 0.0}, "ridge is 0")],
)
def test_bad_options_of_the_previous_fit(options, message):
    with pytest.raises(ValueError, match=message):
        critics.previous_fit(**{"observation_size": SIZE, **options})


@pytest.mark.parametrize("build", [critics.previous_fit, lambda size: critics.value_network(size, HORIZON)])
def test_another_observation_size_is_refused(build, trajectory):
    critic = build(SIZE + 1)
    with pytest.raises(ValueError, match="an observation has 3 components .* make it with observation_size=3"):
        critic.values(critic.init(jax.random.key(0)), trajectory, DISCOUNT)


def test_a_critic_without_time_sees_the_state_alone(trajectory):
    """The same state has the same value wherever it stands in its row, as a row's last successor too."""
    state = trajectory.observation[:1, :1]
    everywhere = jnp.broadcast_to(state, trajectory.observation.shape)
    same = trajectory.replace(observation=everywhere, next_observation=everywhere)
    for timed in (False, True):
        critic = compiled(critics.value_network(SIZE, HORIZON, hidden=(8,), scale=SCALE, timed=timed, residual=False))
        now, following = critic.values(critic.init(jax.random.key(0)), same, DISCOUNT)
        spread = np.ptp(np.concatenate([now[same.valid], following[same.valid]]))
        assert spread > 1e-4 if timed else spread < 1e-6
