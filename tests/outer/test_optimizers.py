"""Outer optimisers on problems with a closed form, and objectives against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.base import MetaObjective, OuterOptimizer
from metarl_jax.types import Stage
from tests import toys

CURVATURE = jnp.array([[3.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.0, 0.3, 1.0]])
SLOPE = jnp.array([1.0, -2.0, 0.5])


def quadratic(loss_scale=1.0):
    """Linear loss ⟨g, θ⟩ and KL ½ θᵀHθ around 0: TRPO's model is exact."""
    return MetaObjective(
        loss=lambda theta, data: (loss_scale * SLOPE @ theta["x"], {"seen": theta["x"].sum()}),
        kl=lambda theta, data: 0.5 * theta["x"] @ CURVATURE @ theta["x"],
    )


def test_conjugate_gradient_solves_in_as_many_steps_as_dimensions():
    x = outer.conjugate_gradient(lambda v: CURVATURE @ v, SLOPE, 3)
    np.testing.assert_allclose(x, np.linalg.solve(CURVATURE, SLOPE), rtol=1e-4)
    longer = outer.conjugate_gradient(lambda v: CURVATURE @ v, SLOPE, 30)
    np.testing.assert_allclose(longer, x, rtol=1e-4)


def test_conjugate_gradient_of_zero_is_zero():
    assert (outer.conjugate_gradient(lambda v: CURVATURE @ v, jnp.zeros(3), 5) == 0).all()


def test_trust_region_takes_the_natural_gradient_step():
    max_kl = 0.01
    theta, _, metrics = outer.trust_region(max_kl, damping=0.0).update(quadratic(), {"x": jnp.zeros(3)}, (), None)
    natural = np.linalg.solve(CURVATURE, SLOPE)
    step = np.sqrt(2 * max_kl / (natural @ CURVATURE @ natural)) * natural
    # Float rounding may put the full step just outside the region; then one backtrack of 0.8 follows.
    np.testing.assert_allclose(theta["x"], -step * metrics["step_fraction"], rtol=1e-4)
    assert metrics["step_fraction"] in (1.0, np.float32(0.8))
    assert metrics["kl_after"] <= max_kl
    assert metrics["improvement"] > 0


def test_trust_region_backtracks_until_the_true_kl_holds():
    """A KL that grows faster than its curvature at θ: the full step is too long."""
    steep = MetaObjective(
        loss=quadratic().loss, kl=lambda theta, data: quadratic().kl(theta, data) + 1e4 * (theta["x"] ** 4).sum()
    )
    _, _, metrics = outer.trust_region(0.01).update(steep, {"x": jnp.zeros(3)}, (), None)
    assert 0 < metrics["step_fraction"] < 1
    assert metrics["kl_after"] <= 0.01


def test_trust_region_stays_where_nothing_improves():
    """A loss that is least at θ but for a misleading slope there: every trial is worse."""
    kinked = MetaObjective(
        loss=lambda theta, data: (SLOPE @ theta["x"] + 1e3 * jnp.abs(theta["x"]).sum(), {}), kl=quadratic().kl
    )
    theta, _, metrics = outer.trust_region(0.01).update(kinked, {"x": jnp.zeros(3)}, (), None)
    assert (theta["x"] == 0).all()
    assert metrics["step_fraction"] == 0


def test_trust_region_at_zero_gradient_is_finite():
    theta, _, metrics = outer.trust_region(0.01).update(quadratic(0.0), {"x": jnp.zeros(3)}, (), None)
    assert (theta["x"] == 0).all()
    assert all(np.isfinite(value) for value in metrics.values())


def test_gradient_steps_are_optax_steps():
    transformation = optax.adam(0.1)
    objective = MetaObjective(
        loss=lambda theta, data: ((theta - data) @ (theta - data), {}), kl=lambda theta, data: 0.0
    )
    optimizer = outer.gradient_steps(transformation, epochs=4)
    data, theta = jnp.array([1.0, -1.0]), jnp.zeros(2)
    got, state, metrics = optimizer.update(objective, theta, optimizer.init(theta), data)
    expected, expected_state, gradient = theta, transformation.init(theta), theta
    for _ in range(4):
        gradient = 2 * (expected - data)
        steps, expected_state = transformation.update(gradient, expected_state, expected)
        expected = optax.apply_updates(expected, steps)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, expected_state)
    np.testing.assert_allclose(metrics["meta_gradient_norm"], np.linalg.norm(gradient), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: outer.gradient_steps(optax.sgd(1.0), 0), "epochs is 0"),
        (lambda: outer.gradient_steps(optax.sgd(1.0), 1.5), "epochs is 1.5"),
        (lambda: outer.trust_region(0.0), "max_kl is 0"),
        (lambda: outer.trust_region(damping=-1.0), "damping is -1"),
        (lambda: outer.trust_region(shrink=1.0), "shrink is 1"),
        (lambda: outer.trust_region(backtracks=0), "backtracks"),
        (lambda: outer.clipped(0.0), "clip is 0"),
        (lambda: outer.clipped(float("nan")), "clip is nan"),
        (lambda: outer.inner_kl(-1.0), "inner_kl_weight is -1"),
        (lambda: outer.descent(outer_lr=-1.0), "outer_lr is -1"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_minibatch_is_every_so_many_th_task():
    objective = MetaObjective(lambda theta, tasks: ((theta * tasks).sum(), {"seen": tasks}), None)
    steps = outer.gradient_steps(optax.sgd(0.5), epochs=1, minibatches=2)
    theta, _, metrics = steps.update(objective, jnp.zeros(()), steps.init(jnp.zeros(())), jnp.arange(6.0))
    np.testing.assert_array_equal(metrics["seen"], [1, 3, 5])  # of the last step
    assert theta == -0.5 * 15


def test_the_penalty_is_doubled_and_halved_as_the_kl_leaves_its_target():
    """Steps of known length: θ = 1, 2, 3 …, a KL of 1, 4, 9 …, whose target is 5."""
    seen = []
    steps = OuterOptimizer(lambda theta: 0, lambda objective, theta, state, data: (theta + 1, state + 1, {}))
    adaptive = outer.adaptive_penalty(steps, weight=0.4, target=5.0)

    def loss(theta, data):
        seen.append(np.asarray(data.penalty))
        return jnp.zeros(()), {"inner_kl_of_steps": theta**2}

    theta, state, weights = jnp.zeros(()), adaptive.init(jnp.zeros(())), []
    data = Stage(None, None, None, None, credit=jnp.zeros((3, 2, 4)))  # type: ignore
    for _ in range(4):
        theta, state, metrics = adaptive.update(MetaObjective(loss), theta, state, data)
        weights.append(float(metrics["inner_kl_weight"]))
        assert metrics["inner_kl_of_steps"] == theta**2  # at the new θ, where the step's own metrics stood before it
    # 1 is below 5/1.5, 4 is near, 9 and 16 are above 7.5.
    np.testing.assert_allclose(weights, [0.4, 0.2, 0.2, 0.4])
    np.testing.assert_allclose(state[1], 0.8)
    assert state[0] == 4
    np.testing.assert_allclose([penalty.mean() for penalty in seen], weights)
    assert all(penalty.shape == (3, 2) for penalty in seen)


def test_a_penalty_comes_back_from_however_long_it_was_too_large():
    steps = OuterOptimizer(lambda theta: 0, lambda objective, theta, state, data: (theta, state, {}))
    adaptive = outer.adaptive_penalty(steps, weight=0.4, target=5.0)
    data = Stage(None, None, None, None, credit=jnp.zeros((3, 2, 4)))  # type: ignore
    of_kl = MetaObjective(lambda theta, data: (jnp.zeros(()), {"inner_kl_of_steps": theta}))
    for kl, bound in [(0.0, 0.4 / 1024), (9.0, 0.4 * 1024)]:
        state = adaptive.init(kl)
        for _ in range(300):
            _, state, _ = adaptive.update(of_kl, jnp.asarray(kl), state, data)
        np.testing.assert_allclose(state[1], bound, rtol=1e-6)


def test_the_kl_that_is_steered_by_is_one_of_steps_taken():
    """Episodes that end early leave room, by which the loss's own mean is smaller."""
    env = toys.walk(horizon=30)
    sizes = {"tasks": 4, "episodes": 8, "horizon": 30, "policy": {"hidden": (4,)}, "outer_lr": 0.01}
    algorithm = mrl.algorithms.make("promp", env, inner_kl_target=0.01, **sizes)
    _, metrics = jax.jit(algorithm.update)(jax.random.key(1), algorithm.init(jax.random.key(0)))
    assert metrics["valid_share"] < 1
    assert metrics["inner_kl_of_steps"] > metrics["inner_kl"]


def test_promp_at_a_penalty_that_has_doubled_is_promp_at_twice_the_penalty():
    env = mrl.envs.make("point-robot")
    common = {"tasks": 3, "episodes": 4, "horizon": 5, "policy": {"hidden": (8,)}, "epochs": 3, "outer_lr": 0.01}
    adaptive = mrl.algorithms.make("promp", env, inner_kl_weight=20.0, inner_kl_target=1e-9, **common)

    @jax.jit
    def update(weight, key, state):
        return mrl.algorithms.make("promp", env, inner_kl_weight=weight, **common).update(key, state)

    state = mrl.algorithms.make("promp", env, inner_kl_weight=20.0, **common).init(jax.random.key(0))
    other = adaptive.init(jax.random.key(0))
    first, _ = update(20.0, jax.random.key(1), state)
    other, metrics = jax.jit(adaptive.update)(jax.random.key(1), other)
    assert metrics["inner_kl_of_steps"] > 1.5e-9
    assert metrics["inner_kl_weight"] == 20

    def equal(left, right):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), left, right)

    equal(other.params, first.params)
    second, _ = update(40.0, jax.random.key(2), first)
    held, _ = update(20.0, jax.random.key(2), first)
    other, metrics = jax.jit(adaptive.update)(jax.random.key(2), other)
    assert metrics["inner_kl_weight"] == 40
    equal(other.params, second.params)
    with pytest.raises(AssertionError):  # the weight matters here
        equal(other.params, held.params)
