"""Inner update rules against NumPy, and the property that matters here: they can be differentiated, at zero too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metarl_jax import inner
from tests import rows

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
    for gradient in gradients:  # operation by operation: fused they round otherwise, and some tests compare bits
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

    derivative = jax.jit(jax.grad(end, argnums=(0, 1)))(PARAMS, learned_of(rule, PARAMS))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(derivative))
    if scale and rule.init_learned is not None:
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(derivative[1]))


OPTAX = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adam, all in the root": optax.adam(0.1, eps=0.0, eps_root=1e-6),
    "amsgrad": optax.amsgrad(0.1),
    "adamw": optax.adamw(0.1),
    "adamax": optax.adamax(0.1),
    "nadam": optax.nadam(0.1),
    "radam": optax.radam(0.1),
    "adabelief": optax.adabelief(0.1, eps_root=0.0),
    "yogi": optax.yogi(0.1),
    "lamb": optax.lamb(0.1),
    "lars": optax.lars(0.1),
    "lion": optax.lion(0.1),
    "adan": optax.adan(0.1),
    "novograd": optax.novograd(0.1),
    "fromage": optax.fromage(0.1),
    "sm3": optax.sm3(0.1),
    "sign": optax.sign_sgd(0.1),
    "rmsprop": optax.rmsprop(0.1),
    "rmsprop, centred": optax.rmsprop(0.1, centered=True),
    "rmsprop, eps outside": optax.rmsprop(0.1, eps_in_sqrt=False),
    "adagrad": optax.adagrad(0.1, initial_accumulator_value=0.0),
    "adadelta": optax.adadelta(0.1),
    "adafactor": optax.adafactor(0.1),
    "rss": optax.chain(optax.scale_by_rss(0.0), optax.scale(-0.1)),
    "clipped by norm": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "clipped by block": optax.chain(optax.clip_by_block_rms(1.0), optax.sgd(0.1)),
    "clipped by φ": optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)),
    "clipped, then adam": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "normalized": optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)),
    "a schedule": optax.adam(optax.linear_schedule(0.1, 0.0, 3)),
}
# Of three tasks one pays nothing, in one a component does not matter; in all an array of φ starts at 0, as biases do.
PAYS = jnp.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])


def meta_gradient(rule, start):
    """Of the batch: two steps on ½ p_i (x_i − 1)² and ½ p_0 ‖z − 1‖²."""

    def end(start, pays):
        params, state = start, rule.init(start)
        for _ in range(2):
            gradient = {"x": pays * (params["x"] - 1), "z": pays[0] * (params["z"] - 1)}
            params, state = rule.update(gradient, state, params)
        return sum(((leaf - 2) ** 2).sum() for leaf in jax.tree.leaves(params))

    return jax.jit(jax.grad(lambda start: jax.vmap(end, (None, 0))(start, PAYS).mean()))(start)


START = {"x": jnp.array([0.3, -0.5]), "z": jnp.zeros(3)}


@pytest.mark.parametrize(
    "name",
    rows.by_default(
        OPTAX,
        ["sgd", "adam", "adam, all in the root", "lamb", "rmsprop, centred", "adadelta", "clipped by φ"],
    ),
)
def test_a_task_that_pays_nothing_is_no_nan_for_the_others(name):
    """Whatever the rule; nor does a component, or an array of φ that is 0."""
    for leaf in jax.tree.leaves(meta_gradient(inner.from_optax(OPTAX[name]), START)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() < 1e3


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam, all in the root", "a schedule"])
def test_from_optax_is_the_rule_itself(name):
    """Its steps are optax's to the bit, and so is a derivative that exists: where the rule is smooth, at zero too."""

    def plain(gradient, state, params, learned=()):
        updates, state = OPTAX[name].update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    bare, rule = inner.sgd(0.1)._replace(init=OPTAX[name].init, update=plain), inner.from_optax(OPTAX[name])
    sparse = GRADIENT | {"a": jnp.zeros((2, 3))}
    jax.tree.map(np.testing.assert_array_equal, *(steps(r, [GRADIENT, sparse, GRADIENT]) for r in (rule, bare)))
    if name != "a schedule":  # which is Adam with its root alone
        equal(*(meta_gradient(r, START) for r in (rule, bare)), rtol=1e-4)


def test_what_optax_rules_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"optax.GradientTransformation, such as optax.sgd\(0.1\)"):
        inner.from_optax(optax.adam)
    for line_search in (optax.lbfgs(), optax.polyak_sgd()):
        rule = inner.from_optax(line_search)
        with pytest.raises(ValueError, match="it asks for more than a gradient and parameters.*value"):
            rule.update(GRADIENT, rule.init(PARAMS), PARAMS)


def test_rmsprop_against_numpy():
    random = np.random.default_rng(0)
    x, v, gradients = np.ones(5), np.zeros(5), random.normal(size=(4, 5))
    for g in gradients:
        v = 0.8 * v + 0.2 * g**2
        x = x - 0.05 * g / np.sqrt(v + 1e-5)
    found = steps(inner.rmsprop(0.05, 0.8, 1e-5), list(jnp.asarray(gradients)), jnp.ones(5))
    np.testing.assert_allclose(found, x, rtol=1e-5)


def test_clipping_shortens_the_whole_gradient_and_no_short_one():
    norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(GRADIENT)))
    for most in (norm / 4, 2 * norm):
        factor = min(1, most / norm)
        expected = jax.tree.map(lambda p, g, factor=factor: p - 0.1 * factor * g, PARAMS, GRADIENT)
        equal(steps(inner.clipped(inner.sgd(0.1), float(most)), [GRADIENT]), expected)


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
        (inner.adam, (0.1, 0.0), "inner_lr is 0.0; it must be a positive"),
        (inner.momentum, -1.0, "inner_lr is -1"),
        (inner.learned_rates, 0.0, "inner_lr is 0.0; it must be a positive"),
        (inner.learned_rates, (), "at least one"),
        (inner.curvature, float("nan"), "inner_lr is nan"),
        (lambda rate: inner.momentum(rate, decay=2.0), 0.1, "decay is 2.0"),
        (lambda rate: inner.momentum(rate, nesterov="no"), 0.1, "nesterov is 'no'"),
        (lambda rate: inner.rmsprop(rate, eps_root=0.0), 0.1, "eps_root is 0.0"),
        (lambda rate: inner.clipped(inner.sgd(rate), 0.0), 0.1, "max_norm is 0.0"),
        (lambda rate: inner.adam(rate, eps_root=0.0), 0.1, "eps_root is 0.0"),
        (lambda rate: inner.adam(rate, b1=-0.1), 0.1, "b1 is -0.1"),
        (lambda rate: inner.adam(rate, b1=1.0), 0.1, "b1 is 1; it must be below"),
        (lambda rate: inner.adam(rate, b2=1), 0.1, "b2 is 1; it must be below"),
    ],
)
def test_refusals(build, rate, message):
    with pytest.raises(ValueError, match=message):
        build(rate)
