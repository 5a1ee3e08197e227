"""Distributions on [−1, 1]: against quadrature, scipy, finite differences and the Gaussian below one of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from metarl_jax.policies import Beta, DiagonalGaussian, SquashedGaussian

GAUSSIANS = [([0.3], [0.5]), ([-1.0], [1.0]), ([0.0], [1.5]), ([2.0], [0.2])]
BETAS = [([1.5], [1.5]), ([2.0], [7.0]), ([30.0], [4.0]), ([1.0], [1.0])]


def squashed(mean, std):
    return SquashedGaussian(jnp.asarray(mean, float), jnp.log(jnp.asarray(std, float)))


def beta(alpha, beta):
    return Beta(jnp.asarray(alpha, float), jnp.asarray(beta, float))


EVERY = [(squashed, pair) for pair in GAUSSIANS] + [(beta, pair) for pair in BETAS]
ids = [f"{make.__name__}{pair}" for make, pair in EVERY]


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def expectation(distribution, function):
    """∫ p(a) function(a) da over [−1, 1] by adaptive quadrature in t, a = tanh(t), where neither end is singular."""

    @jax.jit
    def integrand(t):
        a = jnp.tanh(t)
        # 1 − a² of a = tanh(t) without cancellation: the ends carry weight where the Gaussian is wide.
        return jnp.exp(distribution.log_prob(a[None]) - 2 * jnp.log(jnp.cosh(t))) * function(a[None])

    return scipy.integrate.quad(lambda t: float(integrand(t)), -18, 18, epsabs=1e-10, limit=400)[0]


@pytest.mark.parametrize(("make", "pair"), EVERY, ids=ids)
def test_the_density_integrates_to_1(make, pair):
    np.testing.assert_allclose(expectation(make(*pair), lambda a: 1.0), 1, rtol=1e-6)


@pytest.mark.parametrize(("make", "pair"), EVERY, ids=ids)
def test_the_kl_is_the_mean_of_the_log_ratio(make, pair):
    one, other = make(*pair), make(*([1.2 * number + 0.1 for number in part] for part in pair))
    expected = expectation(one, lambda a: one.log_prob(a) - other.log_prob(a))
    np.testing.assert_allclose(one.kl(other), expected, rtol=1e-5, atol=1e-9)
    assert one.kl(other) > 0
    assert one.kl(one) == 0


@pytest.mark.parametrize("pair", GAUSSIANS)
def test_a_squashed_gaussian_has_the_gaussian_kl_and_density(pair):
    """A bijection leaves the KL as it is, and changes the density by its slope."""
    mean, std = map(jnp.asarray, pair)
    gaussian, other = DiagonalGaussian(mean, jnp.log(std)), DiagonalGaussian(mean + 1, jnp.log(2 * std))
    assert squashed(*pair).kl(squashed(mean + 1, 2 * std)) == gaussian.kl(other)
    u = mean + std
    np.testing.assert_allclose(
        squashed(*pair).log_prob(jnp.tanh(u)), gaussian.log_prob(u) - jnp.log(1 - jnp.tanh(u) ** 2).sum(), rtol=1e-8
    )
    assert not hasattr(squashed(*pair), "entropy")


def test_log_prob_and_entropy_of_beta_against_scipy():
    alpha, other = np.array([1.5, 2.0, 30.0]), np.array([3.0, 1.0, 4.0])
    action = np.array([-0.3, 0.9, 0.5])
    expected = scipy.stats.beta(alpha, other, loc=-1, scale=2)
    np.testing.assert_allclose(beta(alpha, other).log_prob(action), expected.logpdf(action).sum(), rtol=1e-12)
    np.testing.assert_allclose(beta(alpha, other).entropy(), expected.entropy().sum(), rtol=1e-10)


@pytest.mark.parametrize("pair", BETAS)
def test_the_mode_of_beta_is_where_its_density_is_highest(pair):
    grid = np.linspace(-1, 1, 20_001)[:, None]
    density = np.asarray(beta(*pair).log_prob(grid))
    if pair == ([1.0], [1.0]):
        np.testing.assert_allclose(density, np.log(0.5), rtol=1e-12)
        assert beta(*pair).mode() == 0
        return
    np.testing.assert_allclose(beta(*pair).mode(), grid[density.argmax()], atol=1e-4)


@pytest.mark.parametrize("pair", GAUSSIANS)
def test_the_mode_of_a_squashed_gaussian_is_its_median(pair):
    one = squashed(*pair)
    below = expectation(one, lambda a: jnp.where(a[0] < one.mode()[0], 1.0, 0.0))
    np.testing.assert_allclose(below, 0.5, rtol=1e-5)


def test_the_mode_of_a_gaussian_is_its_mean_in_the_shape_of_an_action():
    one = DiagonalGaussian(jnp.array([0.5, -1.0]), jnp.zeros((4, 2)))
    np.testing.assert_array_equal(one.mode(), np.broadcast_to([0.5, -1.0], (4, 2)))
    assert (
        squashed([0.5, -1.0], np.ones((4, 2))).mode().shape == beta([2.0, 3.0], np.ones((4, 2))).mode().shape == (4, 2)
    )


SECOND = {
    "squashed, log_prob": (lambda p: SquashedGaussian(p[:2], p[2:]).log_prob(jnp.array([0.3, -0.99])), False),
    "squashed, kl": (lambda p: SquashedGaussian(p[:2], p[2:]).kl(SquashedGaussian(p[2:], p[:2] / 4)), False),
    "beta, log_prob": (lambda p: beta(p[:2], p[2:]).log_prob(jnp.array([0.3, -0.99])), True),
    "beta, kl": (lambda p: beta(p[:2], p[2:]).kl(beta(p[2:] + 1, p[:2] / 2 + 1)), True),
    "beta, entropy": (lambda p: beta(p[:2], p[2:]).entropy(), True),
}


@pytest.mark.parametrize("name", SECOND)
def test_first_and_second_derivatives_against_finite_differences(name):
    """Also where alpha = beta, at which a formula by min(alpha, beta) has another second derivative."""
    function, is_beta = SECOND[name]
    at = jnp.array([1.7, 2.5, 1.7, 4.0]) if is_beta else jnp.array([0.4, -1.2, 0.3, -0.5])
    gradient, step = jax.grad(function), 1e-5
    moved = [at + step * sign * row for row in np.eye(4) for sign in (1, -1)]
    values, slopes = (np.stack([part(p) for p in moved]) for part in (function, gradient))
    np.testing.assert_allclose(gradient(at), (values[::2] - values[1::2]) / (2 * step), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        jax.hessian(function)(at), (slopes[::2] - slopes[1::2]) / (2 * step), rtol=1e-6, atol=1e-8
    )


SAMPLED = [(squashed, ([0.3, -1.0, 0.0], [0.5, 1.0, 3.0])), (beta, ([1.5, 2.0, 30.0], [1.5, 7.0, 4.0]))]


@pytest.mark.parametrize(("make", "pair"), SAMPLED)
def test_samples_have_the_moments_of_the_density(make, pair):
    """Mean and mean square at 4 standard errors, drawn inside vmap, scan and jit."""
    draw = make(*pair).sample

    @jax.jit
    def drawn(key):
        keys = jax.random.split(key, 100)
        return jax.lax.scan(lambda _, k: (0, jax.vmap(draw)(jax.random.split(k, 200))), 0, keys)[1]

    samples = np.asarray(drawn(jax.random.key(0))).reshape(-1, 3)
    assert (np.abs(samples) < 1).all()
    for component, numbers in enumerate(samples.T):
        single = make(*([part[component]] for part in pair))
        for power in (1, 2):
            expected = expectation(single, lambda a, power=power: a[0] ** power)
            error = (numbers**power).std() / np.sqrt(len(numbers))
            assert abs((numbers**power).mean() - expected) < 4 * error, (component, power)


POLICIES = [
    lambda p: SquashedGaussian(p[:2], p[2:]),
    lambda p: Beta(1 + jnp.exp(p[:2]), 1 + jnp.exp(5 * p[2:])),
]
EXTREMES = [[0.0, 0.0, 0.0, 0.0], [9.0, -9.0, 1.0, 1.0], [0.0, 9.0, -9.0, -9.0], [8.0, -9.0, -9.0, -9.0]]


@pytest.mark.parametrize("numbers", EXTREMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", POLICIES, ids=["squashed", "beta"])
def test_values_and_derivatives_are_finite_up_to_the_ends(make, dtype, numbers):
    """Actions of ±1, policies at the ends, concentrations of 1 and of 8000, and what such policies sample."""
    p, ends = jnp.asarray(numbers, dtype), jnp.asarray([1.0, -1.0], dtype)
    sampled = make(p).sample(jax.random.key(0))
    assert sampled.dtype == dtype
    for action in (ends, -ends, sampled, make(p).mode()):
        assert (jnp.abs(action) <= 1).all()

        def log_prob(p, action=action):
            return make(p).log_prob(action)

        for derivative in (log_prob, jax.grad(log_prob), jax.hessian(log_prob)):
            assert np.isfinite(derivative(p)).all(), action

    def kl(p):
        return make(p).kl(make(p[::-1] / 2))

    for derivative in (kl, jax.grad(kl), jax.hessian(kl)):
        assert np.isfinite(derivative(p)).all()


def test_an_end_counts_as_the_nearest_number_inside():
    for one in (squashed([0.0], [1.0]), beta([2.0], [3.0])):
        inside = np.nextafter(np.float32(1), np.float32(0))[None]
        small = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), one)
        assert small.log_prob(jnp.ones(1, jnp.float32)) == small.log_prob(inside) != small.log_prob(inside - 1e-6)


@pytest.mark.parametrize(("make", "pair"), EVERY, ids=ids)
def test_leading_axes_broadcast(make, pair):
    one = make(np.broadcast_to(pair[0], (4, 3)), np.broadcast_to(pair[1], 3))
    assert one.sample(jax.random.key(0)).shape == one.mode().shape == (4, 3)
    assert one.log_prob(jnp.zeros((4, 3))).shape == one.kl(one).shape == (4,)
    np.testing.assert_allclose(one.log_prob(jnp.zeros((4, 3))), 3 * make(*pair).log_prob(jnp.zeros(1)), rtol=1e-12)
    doubled = jax.vmap(lambda _: one)(jnp.arange(2))
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(doubled))
