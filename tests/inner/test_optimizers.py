"""Inner update rules against NumPy, and the property that matters here: they can be differentiated, at zero too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import inner

RULES = {name: build(0.1) for name, build in inner.INNER_OPTIMIZERS.items()}
RULES["first_order"] = inner.first_order(inner.sgd(0.1))
RULES["frozen"] = inner.frozen()
RULES["by_label"] = inner.by_label(
    lambda params: {"a": "x", "b": "y", "c": "z"}, {"x": inner.sgd(0.1), "y": inner.learned_rates(0.2)}, inner.adam(0.3)
)
PARAMS = {"a": jnp.arange(6.0).reshape(2, 3) / 5, "b": jnp.array([0.3, -0.2]), "c": jnp.array(0.7)}
GRADIENT = {"a": jnp.ones((2, 3)).at[0].set(-2.0), "b": jnp.array([0.0, 1.5]), "c": jnp.array(-0.4)}


def learned_of(rule, params):
    return () if rule.init_learned is None else rule.init_learned(params)


def steps(rule, gradients, params=None, learned=None):
    params = PARAMS if params is None else params
    learned = learned_of(rule, params) if learned is None else learned
    state = rule.init(params)
    for gradient in gradients:
        params, state = rule.update(gradient, state, params, learned)
    return params


def equal(left, right, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), left, right)


@pytest.mark.parametrize("name", RULES)
def test_states_keep_their_types_so_that_steps_can_be_scanned(name):
    rule = RULES[name]
    learned = learned_of(rule, PARAMS)

    def step(carry, _):
        params, state = carry
        return rule.update(GRADIENT, state, params, learned), None

    (scanned, _), _ = jax.jit(lambda: jax.lax.scan(step, (PARAMS, rule.init(PARAMS)), None, length=3))()
    equal(scanned, steps(rule, [GRADIENT] * 3), rtol=1e-5)
    assert jax.tree.structure(scanned) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_every_rule_has_a_finite_derivative(name, scale):
    """At zero gradient too, where the usual Adam and clipping give NaN."""
    rule = RULES[name]

    def end(params, learned):
        state = rule.init(params)
        for _ in range(2):
            gradient = jax.tree.map(lambda p, g: scale * (g + 0.3 * p), params, GRADIENT)
            params, state = rule.update(gradient, state, params, learned)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(params))

    derivative = jax.grad(end, argnums=(0, 1))(PARAMS, learned_of(rule, PARAMS))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(derivative))
    if scale and rule.init_learned is not None:
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(derivative[1]))


def test_optax_adam_without_the_root_is_the_trap_that_ours_avoids():
    import optax

    def end(x, rule):
        moved, _ = rule.update(0.0 * x, rule.init(x), x)
        return moved.sum()

    x = jnp.ones(2)
    assert np.isnan(jax.grad(end)(x, inner.from_optax(optax.adam(0.1)))).any()
    assert np.isfinite(jax.grad(end)(x, inner.adam(0.1))).all()


def test_momentum_accumulates():
    moved = steps(inner.momentum(0.1, decay=0.5), [GRADIENT] * 3)
    equal(moved, jax.tree.map(lambda p, g: p - 0.1 * (1 + 1.5 + 1.75) * g, PARAMS, GRADIENT))
    equal(steps(inner.momentum(0.1, decay=0.0), [GRADIENT] * 3), steps(inner.sgd(0.1), [GRADIENT] * 3))


def test_adam_against_numpy():
    b1, b2, root = 0.8, 0.9, 1e-6
    random = np.random.default_rng(0)
    gradients = random.normal(size=(4, 5))
    x, m, v = np.ones(5), np.zeros(5), np.zeros(5)
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - 0.05 * (m / (1 - b1**t)) / np.sqrt(v / (1 - b2**t) + root)
    rule = inner.adam(0.05, b1, b2, root)
    np.testing.assert_allclose(steps(rule, list(jnp.asarray(gradients)), jnp.ones(5)), x, rtol=1e-5)


def test_learned_rates_start_at_the_given_ones_and_stay_positive():
    for per_parameter in (True, False):
        rule = inner.learned_rates((0.3, 0.1), per_parameter)
        gradients = [GRADIENT] * 4
        equal(steps(rule, gradients), steps(inner.sgd((0.3, 0.1)), gradients))
        learned = jax.tree.map(lambda rho: rho - 0.7, rule.init_learned(PARAMS))
        total = np.exp(-0.7 * inner.optimizers.RATE_GAIN) * (0.3 + 3 * 0.1)
        expected = jax.tree.map(lambda p, g, total=total: p - total * g, PARAMS, GRADIENT)
        equal(steps(rule, gradients, learned=learned), expected)


def test_learned_rates_have_the_shape_of_what_they_scale():
    assert inner.learned_rates(0.1).init_learned(PARAMS)["a"].shape == (1, 2, 3)
    assert inner.learned_rates((0.1, 0.2), per_parameter=False).init_learned(PARAMS)["a"].shape == (2,)


def test_curvature_is_a_kronecker_product():
    """vec(P_in G P_out) = (P_in ⊗ P_outᵀ) vec(G), rows first."""
    rule = inner.curvature(1.0)
    random = np.random.default_rng(1)
    learned = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape)), rule.init_learned(PARAMS))
    moved = steps(rule, [GRADIENT], learned=learned)
    factors = dict(zip("abc", learned, strict=True))
    p_in, p_out = map(np.asarray, factors["a"])
    kron = np.kron(p_in, p_out.T) @ np.asarray(GRADIENT["a"]).reshape(-1)
    np.testing.assert_allclose(PARAMS["a"] - moved["a"], kron.reshape(2, 3), rtol=1e-5)
    np.testing.assert_allclose(PARAMS["b"] - moved["b"], np.asarray(GRADIENT["b"]) @ factors["b"][0], rtol=1e-5)
    np.testing.assert_allclose(PARAMS["c"] - moved["c"], GRADIENT["c"] * factors["c"][0], rtol=1e-5)


def test_curvature_of_a_stack_treats_each_matrix_alike():
    rule, stack = inner.curvature(1.0), jnp.arange(12.0).reshape(2, 2, 3)
    learned = [[jnp.array([[1.0, 2.0], [0.0, 1.0]]), 2 * jnp.eye(3)]]
    moved = steps(rule, [stack], jnp.zeros_like(stack), learned)
    for index in range(2):
        alone = steps(rule, [stack[index]], jnp.zeros((2, 3)), learned)
        np.testing.assert_allclose(moved[index], alone)


def test_by_label_moves_each_group_by_its_own_rule():
    rule = inner.by_label(
        lambda params: {"a": "x", "b": "y", "c": "z"}, {"x": inner.sgd(0.1), "y": inner.frozen()}, inner.sgd(0.5)
    )
    moved = steps(rule, [GRADIENT] * 2)
    equal(moved["a"], PARAMS["a"] - 0.2 * GRADIENT["a"])
    np.testing.assert_array_equal(moved["b"], PARAMS["b"])
    equal(moved["c"], PARAMS["c"] - 1.0 * GRADIENT["c"])
    assert rule.init_learned is None


@pytest.mark.parametrize(
    ("build", "rate", "message"),
    [
        (inner.adam, 0.0, "inner_lr is 0.0; it must be a positive"),
        (inner.adam, (0.1, 0.2), "adam takes one rate for all inner steps"),
        (inner.momentum, -1.0, "inner_lr is -1"),
        (inner.learned_rates, 0.0, "inner_lr is 0.0; it must be a positive"),
        (inner.learned_rates, (), "at least one"),
        (inner.curvature, float("nan"), "inner_lr is nan"),
        (lambda rate: inner.momentum(rate, decay=2.0), 0.1, "decay is 2.0"),
        (lambda rate: inner.adam(rate, eps_root=0.0), 0.1, "eps_root is 0.0"),
        (lambda rate: inner.adam(rate, b1=-0.1), 0.1, "b1 is -0.1"),
    ],
)
def test_refusals(build, rate, message):
    with pytest.raises(ValueError, match=message):
        build(rate)
