"""Action distributions of one time step. Arrays may have leading batch axes; the last axis is that of the action.

Each has `sample`, `log_prob`, `kl` and `mode`, and `entropy` where it has a closed form.
"""

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import digamma, gammaln

from metarl_jax import checks


def _sum_components(values: jax.Array) -> jax.Array:
    """Sums over action components, for the joint density; a mean would scale each gradient by 1/A."""
    return values.sum(-1) if jnp.ndim(values) else values


def _inside(action: jax.Array) -> jax.Array:
    """The action as a number of the open interval (−1, 1): an end becomes the nearest number inside of it.

    In float32 that is 1 − 6e-8. So a density that is 0 or infinite at the ends has finite logarithms and derivatives.
    """
    action = jnp.asarray(action)
    action = action if jnp.issubdtype(action.dtype, jnp.inexact) else action.astype(float)
    most = 1 - jnp.finfo(action.dtype).epsneg
    return jnp.clip(action, -most, most)


@struct.dataclass
class DiagonalGaussian:
    """N(mean, diag(exp(2·log_std))) over a real action vector [..., A]; mean and log_std broadcast."""

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """One action [..., A]."""
        mean, log_std = jnp.broadcast_arrays(self.mean, self.log_std)
        return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log density [...] in nats: Σ_i −½((a_i − μ_i)/σ_i)² − log σ_i − ½ log 2π."""
        standardized = (action - self.mean) * jnp.exp(-self.log_std)
        return _sum_components(-0.5 * standardized**2 - self.log_std - 0.5 * jnp.log(2 * jnp.pi))

    def entropy(self) -> jax.Array:
        """Differential entropy [...] in nats: Σ_i log σ_i + ½ log 2πe."""
        log_std = jnp.broadcast_to(self.log_std, jnp.broadcast_shapes(jnp.shape(self.mean), jnp.shape(self.log_std)))
        return _sum_components(log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e))

    def kl(self, other: "DiagonalGaussian") -> jax.Array:
        """KL(self ‖ other) [...] in nats."""
        variance_ratio = jnp.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return _sum_components(0.5 * (variance_ratio + distance - 1) + other.log_std - self.log_std)

    def mode(self) -> jax.Array:
        """The action [..., A] of the highest density: the mean."""
        return jnp.broadcast_arrays(self.mean, self.log_std)[0]


@struct.dataclass
class SquashedGaussian:
    """tanh(u) with u ~ N(mean, diag(exp(2·log_std))): an action [..., A] in (−1, 1); mean and log_std broadcast.

    tanh is a bijection, so the KL is exactly that of the Gaussians. The entropy has no closed form, and there is no
    method for it: an entropy bonus takes `Beta` or `DiagonalGaussian`.

    Haarnoja, Zhou, Abbeel, Levine (2018, arXiv:1801.01290, appendix C).
    """

    mean: jax.Array
    log_std: jax.Array

    @property
    def gaussian(self) -> DiagonalGaussian:
        """The distribution of u."""
        return DiagonalGaussian(self.mean, self.log_std)

    def sample(self, key: jax.Array) -> jax.Array:
        """One action [..., A]."""
        return _inside(jnp.tanh(self.gaussian.sample(key)))

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log density [...] in nats: log N(u) − Σ_i log(1 − a_i²), u = artanh(a), log(1 − tanh²u) without cancellation.

        log(1 − tanh²u) = 2 (log 2 − u − softplus(−2u)). In float32 |a| is at most 1 − 6e-8, hence |u| at most 8.7: an
        action of ±1 counts as u = ±8.7, and so do all u beyond that were sampled. Near the ends u is known to the
        spacing of a over 1 − a², to 1 % at |u| = 7. So the mean of the score ∂ log π / ∂ mean, which is 0, is found as
        0.00 / 0.04 / 0.30 in units of 1/σ at a mean of 6 / 7 / 8 and σ = 0.5, and is useless beyond.
        """
        u = jnp.arctanh(_inside(action))
        log_slope = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
        return self.gaussian.log_prob(u) - _sum_components(log_slope)

    def kl(self, other: "SquashedGaussian") -> jax.Array:
        """KL(self ‖ other) [...] in nats: that of the Gaussians."""
        return self.gaussian.kl(other.gaussian)

    def mode(self) -> jax.Array:
        """tanh(mean) [..., A]: the image of the Gaussian's mode, which is the median of each component.

        It is not the mode of the density of a, which lies nearer to an end, or at both ends if the Gaussian is wide.
        """
        return _inside(jnp.tanh(self.gaussian.mode()))


def _log_beta(alpha: jax.Array, beta: jax.Array) -> jax.Array:
    """log B(α, β). Not jax.scipy.special.betaln, whose min(α, β) has a wrong second derivative at α = β."""
    return gammaln(alpha) + gammaln(beta) - gammaln(alpha + beta)


@struct.dataclass
class Beta:
    """a = 2x − 1 with x_i ~ Beta(alpha_i, beta_i): an action [..., A] in (−1, 1), with all alpha_i, beta_i ≥ 1.

    The density is then bounded, with one mode, or flat at alpha = beta = 1. The affine map adds log ½ to each log
    density and nothing to the KL. In float32 the values, not their derivatives, lose digits as the parameters grow: the
    error of a log density is up to 2e-4 nats at 100 and 1e-3 at 1000.

    Chou, Maturana, Scherer (2017, ICML, "Improving stochastic policy gradients in continuous control with deep
    reinforcement learning using the Beta distribution").
    """

    alpha: jax.Array
    beta: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """One action [..., A]: x / (1 − x) is a ratio of gamma variates, and 2x − 1 = tanh(½ log(x / (1 − x)))."""
        alpha, beta = jnp.broadcast_arrays(self.alpha, self.beta)
        keys = jax.random.split(key)
        log_up, log_down = (
            jax.random.loggamma(k, shape, dtype=shape.dtype) for k, shape in zip(keys, (alpha, beta), strict=True)
        )
        return _inside(jnp.tanh(0.5 * (log_up - log_down)))

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log density [...] in nats: Σ_i (α_i − 1) log x_i + (β_i − 1) log(1 − x_i) − log B(α_i, β_i) − log 2.

        An action of ±1 counts as the nearest number inside, 1 − 6e-8 in float32: the logarithms are at least −17.
        """
        action = _inside(action)
        log_x, log_rest = jnp.log1p(action) - math.log(2), jnp.log1p(-action) - math.log(2)
        density = (self.alpha - 1) * log_x + (self.beta - 1) * log_rest - _log_beta(self.alpha, self.beta)
        return _sum_components(density - math.log(2))

    def entropy(self) -> jax.Array:
        """Differential entropy [...] in nats: Σ_i log B − (α−1) ψ(α) − (β−1) ψ(β) + (α+β−2) ψ(α+β) + log 2."""
        alpha, beta = self.alpha, self.beta
        expected = (alpha - 1) * digamma(alpha) + (beta - 1) * digamma(beta)
        expected -= (alpha + beta - 2) * digamma(alpha + beta)
        return _sum_components(_log_beta(alpha, beta) - expected + math.log(2))

    def kl(self, other: "Beta") -> jax.Array:
        """KL(self ‖ other) [...] in nats: Σ_i log B' − log B + (α−α') ψ(α) + (β−β') ψ(β) + (α'+β'−α−β) ψ(α+β)."""
        alpha, beta = self.alpha, self.beta
        more_alpha, more_beta = alpha - other.alpha, beta - other.beta
        expected = more_alpha * digamma(alpha) + more_beta * digamma(beta)
        expected -= (more_alpha + more_beta) * digamma(alpha + beta)
        return _sum_components(_log_beta(other.alpha, other.beta) - _log_beta(alpha, beta) + expected)

    def mode(self) -> jax.Array:
        """The action [..., A] of the highest density: (α − β) / (α + β − 2); 0 where the density is flat."""
        concentration = self.alpha + self.beta - 2
        flat = concentration <= 0
        return _inside(jnp.where(flat, 0, self.alpha - self.beta) / jnp.where(flat, 1, concentration))


@struct.dataclass
class Categorical:
    """Categorical over A discrete actions with unnormalised log-probabilities ``logits`` [..., A]; −inf: masked."""

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """One action index [...]."""
        return jax.random.categorical(key, self.logits)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log probability [...] in nats."""
        log_p = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(log_p, jnp.asarray(action)[..., None], axis=-1)[..., 0]

    def entropy(self) -> jax.Array:
        """Entropy [...] in nats; masked actions contribute 0."""
        log_p = jax.nn.log_softmax(self.logits)
        possible = jnp.isfinite(log_p)
        return -jnp.where(possible, jnp.exp(log_p) * jnp.where(possible, log_p, 0), 0).sum(-1)

    def kl(self, other: "Categorical") -> jax.Array:
        """KL(self ‖ other) [...] in nats; actions masked in self contribute 0."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        possible = jnp.isfinite(log_p)
        difference = jnp.where(possible, log_p, 0) - jnp.where(possible, log_q, 0)
        return jnp.where(possible, jnp.exp(log_p) * difference, 0).sum(-1)

    def mode(self) -> jax.Array:
        """The most probable action index [...]; the first of several."""
        return jnp.argmax(self.logits, axis=-1)


@struct.dataclass
class MultiCategorical:
    """n independent choices, the i-th of ``sizes[i]`` actions: an action int [..., n].

    ``logits`` [..., Σ_i sizes[i]] holds the unnormalised log-probabilities of all choices, one after the other.

    Raises:
        ValueError: (its methods) the logits are not as many as the sizes say.
    """

    logits: jax.Array
    sizes: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def choices(self) -> list[Categorical]:
        """The n distributions, in order."""
        sizes = [checks.integer("a size of MultiCategorical", size) for size in self.sizes]
        if not sizes:
            raise ValueError("sizes of MultiCategorical is (); there must be at least one choice")
        if self.logits.shape[-1] != sum(sizes):
            raise ValueError(
                f"logits has {self.logits.shape[-1]} components and sizes {self.sizes} has the sum {sum(sizes)}; they "
                "must be as many"
            )
        ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
        return [Categorical(self.logits[..., end - size : end]) for end, size in zip(ends, sizes, strict=True)]

    def _total(self, function: Callable[..., jax.Array], *others: list) -> jax.Array:
        """Σ_i function(choice_i, …)."""
        return functools.reduce(operator.add, map(function, self.choices, *others))

    def sample(self, key: jax.Array) -> jax.Array:
        """One action [..., n], by the Gumbel noise of one draw."""
        noise = jax.random.gumbel(key, self.logits.shape, self.logits.dtype)
        return MultiCategorical(noise + self.logits, self.sizes).mode()

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log probability [...] in nats: the sum over the choices."""
        if jnp.shape(action)[-1:] != (len(self.sizes),):
            raise ValueError(f"action has shape {jnp.shape(action)}; its last axis must hold {len(self.sizes)} choices")
        actions = jnp.moveaxis(jnp.asarray(action), -1, 0)
        return self._total(Categorical.log_prob, [actions[index] for index in range(len(self.sizes))])

    def entropy(self) -> jax.Array:
        """Entropy [...] in nats: the sum over the choices."""
        return self._total(Categorical.entropy)

    def kl(self, other: "MultiCategorical") -> jax.Array:
        """KL(self ‖ other) [...] in nats: the sum over the choices."""
        if self.sizes != other.sizes:
            raise ValueError(f"sizes are {self.sizes} and {other.sizes}; a KL is between equal ones")
        return self._total(Categorical.kl, other.choices)

    def mode(self) -> jax.Array:
        """The most probable action [..., n]: that of each choice."""
        return jnp.stack([choice.mode() for choice in self.choices], axis=-1)
