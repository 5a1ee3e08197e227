"""Action distributions of one time step. Arrays may have leading batch axes; the last axis is that of the action."""

import jax
import jax.numpy as jnp
from flax import struct


def _sum_components(values: jax.Array) -> jax.Array:
    """Sums over action components, for the joint density; a mean would scale each gradient by 1/A."""
    return values.sum(-1) if jnp.ndim(values) else values


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
