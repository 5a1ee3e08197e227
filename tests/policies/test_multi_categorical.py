"""Products of choices: against the joint distribution, enumerated, and against a single choice."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from metarl_jax.policies import Categorical, MultiCategorical

SIZES = (3, 2, 4)
ACTIONS = np.array(list(itertools.product(*map(range, SIZES))))
LOGITS, OTHER = np.random.default_rng(0).normal(size=(2, sum(SIZES)))


def joint(logits):
    """Probability of each of the 24 actions."""
    parts = np.split(logits, np.cumsum(SIZES)[:-1])
    return np.array(
        [np.prod([scipy.special.softmax(part)[a] for part, a in zip(parts, row, strict=True)]) for row in ACTIONS]
    )


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def test_it_is_the_product_of_its_choices():
    one, other = MultiCategorical(jnp.asarray(LOGITS), SIZES), MultiCategorical(jnp.asarray(OTHER), SIZES)
    np.testing.assert_allclose(jax.vmap(one.log_prob)(ACTIONS), np.log(joint(LOGITS)), rtol=1e-12)
    np.testing.assert_allclose(one.entropy(), scipy.stats.entropy(joint(LOGITS)), rtol=1e-12)
    np.testing.assert_allclose(one.kl(other), scipy.stats.entropy(joint(LOGITS), joint(OTHER)), rtol=1e-10)
    assert one.kl(one) == 0
    np.testing.assert_array_equal(one.mode(), ACTIONS[joint(LOGITS).argmax()])


def test_samples_have_the_joint_probabilities():
    one = MultiCategorical(jnp.asarray(LOGITS), SIZES)
    samples = np.asarray(jax.jit(jax.vmap(one.sample))(jax.random.split(jax.random.key(0), 40_000)))
    counts = np.array([(samples == row).all(-1).sum() for row in ACTIONS])
    assert counts.sum() == len(samples)
    probabilities = joint(LOGITS)
    error = np.sqrt(probabilities * (1 - probabilities) / len(samples))
    np.testing.assert_array_less(np.abs(counts / len(samples) - probabilities), 4 * error)


def test_one_choice_is_a_categorical_bit_for_bit():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(7, 5)), jnp.float32)
    one, single = MultiCategorical(logits, (5,)), Categorical(logits)
    action = single.sample(jax.random.key(0))
    sampled = one.sample(jax.random.key(0))
    assert sampled.shape == (7, 1)
    assert sampled.dtype == action.dtype
    np.testing.assert_array_equal(sampled[:, 0], action)
    np.testing.assert_array_equal(one.mode()[:, 0], single.mode())
    np.testing.assert_array_equal(single.mode(), np.asarray(logits).argmax(-1))
    np.testing.assert_array_equal(one.log_prob(sampled), single.log_prob(action))
    np.testing.assert_array_equal(one.entropy(), single.entropy())
    np.testing.assert_array_equal(one.kl(MultiCategorical(2 * logits, (5,))), single.kl(Categorical(2 * logits)))


def test_derivatives_are_finite_with_a_forbidden_action_and_right_without():
    functions = (
        lambda x: MultiCategorical(x, SIZES).entropy(),
        lambda x: MultiCategorical(x, SIZES).kl(MultiCategorical(2 * x, SIZES)),
        lambda x: MultiCategorical(x, SIZES).log_prob(jnp.array([2, 0, 3])),
    )
    step = 1e-6
    for function in functions:
        forbidden = jnp.asarray(LOGITS).at[1].set(-jnp.inf)
        assert np.isfinite(function(forbidden))
        assert np.isfinite(jax.grad(function)(forbidden)).all()
        at, gradient = jnp.asarray(LOGITS), jax.grad(function)
        moved = [at + step * sign * row for row in np.eye(len(LOGITS)) for sign in (1, -1)]
        values, slopes = (np.stack([part(x) for x in moved]) for part in (function, gradient))
        np.testing.assert_allclose(gradient(at), (values[::2] - values[1::2]) / (2 * step), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(
            jax.hessian(function)(at), (slopes[::2] - slopes[1::2]) / (2 * step), rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 2), "logits has 9 components and sizes .3, 2. has the sum 5"),
        ((9, 0), "a size of MultiCategorical is 0"),
        ((4.5, 4.5), "a size of MultiCategorical is 4.5"),
        ((), r"sizes of MultiCategorical is \(\); there must be at least one choice"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        MultiCategorical(jnp.asarray(LOGITS), sizes).entropy()


def test_actions_and_others_that_do_not_fit_are_refused():
    pair = MultiCategorical(jnp.zeros(5), (3, 2))
    for action in (jnp.zeros(3, int), jnp.zeros((), int)):
        with pytest.raises(ValueError, match="its last axis must hold 2 choices"):
            pair.log_prob(action)
    with pytest.raises(ValueError, match=r"sizes are \(3, 2\) and \(2, 3\); a KL is between equal ones"):
        pair.kl(MultiCategorical(jnp.zeros(5), (2, 3)))
