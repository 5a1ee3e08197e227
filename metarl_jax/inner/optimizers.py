"""Inner optimisers: update rules for the fast parameters, differentiable also at zero gradients.

Learned rates and preconditioners are part of θ; see `metarl_jax.base.InnerOptimizer`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import checks
from metarl_jax.base import InnerOptimizer
from metarl_jax.inner.optax_rules import smooth
from metarl_jax.inner.rates import Rate, listed, schedule
from metarl_jax.types import PyTree

RATE_GAIN = 10.0
"""κ of α = α_0 exp(κ ρ). An outer Adam step moves ρ by the outer rate, about 1e-3; with κ = 10 this changes α by 1 %,
as the same step would change a raw rate of 0.1."""


def _of_optax(learning_rate: Rate) -> Any:
    """The rate in the form that optax takes: a number, or a schedule."""
    rates = listed(learning_rate, checks.positive)
    return rates[0] if rates is not None and len(rates) == 1 else schedule(learning_rate, checks.positive)


def sgd(learning_rate: Rate) -> InnerOptimizer:
    """φ ← φ − α_s ∇φ.

    Args:
        learning_rate: α, one rate per inner step, or a schedule, see `metarl_jax.inner.rates.Rate`; 0 keeps φ = θ.

    Raises:
        ValueError: a rate is negative or not finite, or there is none.
    """
    rate_of = schedule(learning_rate)

    def update(gradient, step, params, learned=()):
        rate = rate_of(step)
        return jax.tree.map(lambda p, g: p - rate.astype(p.dtype) * g, params, gradient), step + 1

    return InnerOptimizer(lambda params: jnp.zeros((), jnp.int32), update)


def momentum(learning_rate: Rate, decay: float = 0.9, nesterov: bool = False) -> InnerOptimizer:
    """Heavy ball: m ← decay·m + ∇φ, φ ← φ − α m.

    Args:
        learning_rate: α > 0, one per inner step, or a schedule.
        decay: in [0, 1]; 0 is `sgd`.
        nesterov: φ ← φ − α (decay·m + ∇φ) instead.

    Raises:
        ValueError: an argument is out of range.
    """
    rate = _of_optax(learning_rate)
    return smooth(optax.sgd(rate, momentum=checks.share("decay", decay), nesterov=checks.boolean("nesterov", nesterov)))


def adam(learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, eps_root: float = 1e-6) -> InnerOptimizer:
    """Adam with a derivative at zero gradients: φ ← φ − α m̂ / √(v̂ + eps_root).

    The derivative of the root is at most of order 1/√eps_root; with the usual ε outside the root it is infinite at
    v̂ = 0, and the meta-gradient NaN. The first step is about α in each parameter whose gradient exceeds √eps_root.

    Kingma, Ba (2015, arXiv:1412.6980).

    Args:
        learning_rate: α > 0, one per inner step, or a schedule.
        b1: decay of m, in [0, 1).
        b2: decay of v, in [0, 1).
        eps_root: added under the root, > 0.

    Raises:
        ValueError: an argument is out of range.
    """
    rate = _of_optax(learning_rate)
    b1, b2 = checks.share("b1", b1), checks.share("b2", b2)
    for name, decay in (("b1", b1), ("b2", b2)):
        if not checks.traced(decay) and decay == 1:  # the mean would never see a gradient
            raise ValueError(f"{name} is 1; it must be below")
    return smooth(optax.adam(rate, b1, b2, eps=0.0, eps_root=checks.positive("eps_root", eps_root)))


def rmsprop(learning_rate: Rate, decay: float = 0.9, eps_root: float = 1e-6) -> InnerOptimizer:
    """φ ← φ − α ∇φ / √(v + eps_root), v ← decay·v + (1 − decay) ∇φ², with a derivative at zero gradients.

    Tieleman, Hinton (2012, "Lecture 6.5: rmsprop", Coursera).

    Args:
        learning_rate: α > 0, one per inner step, or a schedule.
        decay: decay of v, in [0, 1].
        eps_root: added under the root, > 0.

    Raises:
        ValueError: an argument is out of range.
    """
    rate, decay = _of_optax(learning_rate), checks.share("decay", decay)
    return smooth(optax.rmsprop(rate, decay, checks.positive("eps_root", eps_root), eps_in_sqrt=True))


def clipped(optimizer: InnerOptimizer, max_norm: float = 1.0) -> InnerOptimizer:
    """The optimiser applied to min(1, max_norm / ‖∇φ‖₂)·∇φ, with the global norm over all parameters.

    Args:
        optimizer: the optimiser to wrap.
        max_norm: > 0.

    Raises:
        ValueError: `max_norm` is not positive.
    """
    max_norm = checks.positive("max_norm", max_norm)

    def update(gradient, state, params, learned=()):
        square = optax.tree.norm(gradient, squared=True)
        large = square > max_norm**2
        # Mask inside the root too: the unselected branch would have an infinite derivative at 0.
        factor = jnp.where(large, max_norm * jax.lax.rsqrt(jnp.where(large, square, 1)), 1)
        shorter = jax.tree.map(lambda g: g * factor.astype(g.dtype), gradient)
        return optimizer.update(shorter, state, params, learned)

    return optimizer._replace(update=update)


def first_order(optimizer: InnerOptimizer) -> InnerOptimizer:
    """The same steps as constant shifts of θ: no second derivatives in the meta-gradient."""

    def update(gradient, state, params, learned=()):
        return optimizer.update(jax.lax.stop_gradient(gradient), state, params, learned)

    return optimizer._replace(update=update)


def learned_rates(learning_rate: Rate, per_parameter: bool = True) -> InnerOptimizer:
    """φ ← φ − α ∘ ∇φ with α = α_0 exp(κ ρ), where ρ is meta-learned and starts at 0; κ is `RATE_GAIN`.

    α stays positive. One ρ per parameter is Meta-SGD, a diagonal preconditioner (Li et al. 2017, arXiv:1707.09835,
    whose rates may change sign); one per tensor and step is MAML++'s (Antoniou et al. 2019, arXiv:1810.09502).

    Args:
        learning_rate: α_0 > 0. With one rate or a schedule, all inner steps share ρ. With a sequence each step has its
            own ρ, and further steps use the last one.
        per_parameter: one ρ per parameter; otherwise one per array of the policy.

    Raises:
        ValueError: a rate is not positive, or there is none.
    """
    rate_of, rates = schedule(learning_rate, checks.positive), listed(learning_rate, checks.positive)
    learned_steps = 1 if rates is None else len(rates)

    def init_learned(params):
        return jax.tree.map(lambda p: jnp.zeros((learned_steps, *(p.shape if per_parameter else ())), p.dtype), params)

    def update(gradient, step, params, learned):
        def move(p, g, rho):
            # Evaluation may take further steps; they use the last learned ρ.
            scale = jnp.exp(RATE_GAIN * rho[jnp.minimum(step, len(rho) - 1)])
            return p - rate_of(step).astype(p.dtype) * scale * g

        return jax.tree.map(move, params, gradient, learned), step + 1

    return InnerOptimizer(lambda params: jnp.zeros((), jnp.int32), update, init_learned)


def curvature(learning_rate: Rate) -> InnerOptimizer:
    """φ ← φ − α_s P_in ∇φ P_out for a matrix φ [I, O], with learned P_in [I, I] and P_out [O, O], initially identities.

    A Kronecker-factored preconditioner (P_in ⊗ P_outᵀ). A vector has only P_out, a scalar a single factor, and an array
    with more axes is treated as a stack of matrices over its last two axes. Meta-curvature, Park, Oliva (2019,
    arXiv:1902.03356).

    Args:
        learning_rate: α, one rate per inner step, or a schedule.

    Raises:
        ValueError: a rate is negative or not finite, or there is none.
    """
    steps = sgd(learning_rate)

    def identities(p):
        return [jnp.eye(size, dtype=p.dtype) for size in p.shape[-2:]] if p.ndim else [jnp.ones((), p.dtype)]

    def precondition(g, factors):
        if g.ndim == 0:
            return g * factors[0]
        g = g @ factors[-1]
        return g if len(factors) == 1 else jnp.einsum("ij,...jo->...io", factors[0], g)

    def update(gradient, step, params, learned):
        leaves, tree = jax.tree.flatten(gradient)
        leaves = [precondition(g, factors) for g, factors in zip(leaves, learned, strict=True)]
        return steps.update(tree.unflatten(leaves), step, params)

    def init_learned(params):
        return [identities(p) for p in jax.tree.leaves(params)]

    return InnerOptimizer(steps.init, update, init_learned)


def frozen() -> InnerOptimizer:
    """No update: φ stays equal to θ."""
    return InnerOptimizer(lambda params: (), lambda gradient, state, params, learned=(): (params, state))


def by_label(
    labels: Callable[[PyTree], PyTree], optimizers: Mapping[str, InnerOptimizer], otherwise: InnerOptimizer
) -> InnerOptimizer:
    """Selects each parameter's optimiser by label; states and learned parts are dictionaries by label.

    Args:
        labels: ``φ → a tree like φ`` of strings, such as `metarl_jax.base.Policy.labels`.
        optimizers: label → optimiser.
        otherwise: the optimiser for all other labels.
    """
    all_optimizers = dict(optimizers) | {"": otherwise}

    def split(tree, params):
        names = [label if label in optimizers else "" for label in jax.tree.leaves(labels(params))]
        parts = {name: [] for name in all_optimizers}
        for name, leaf in zip(names, jax.tree.leaves(tree), strict=True):
            parts[name].append(leaf)
        return parts, names

    def init(params):
        parts, _ = split(params, params)
        return {name: optimizer.init(parts[name]) for name, optimizer in all_optimizers.items()}

    def init_learned(params):
        parts, _ = split(params, params)
        return {
            name: optimizer.init_learned(parts[name])
            for name, optimizer in all_optimizers.items()
            if optimizer.init_learned is not None
        }

    def update(gradient, state, params, learned=()):
        (gradients, names), (parts, _) = split(gradient, params), split(params, params)
        learned_parts = learned or {}
        new_parts, new_state = {}, {}
        for name, optimizer in all_optimizers.items():
            new_parts[name], new_state[name] = optimizer.update(
                gradients[name], state[name], parts[name], learned_parts.get(name, ())
            )
        leaves_of = {name: iter(part) for name, part in new_parts.items()}
        return jax.tree.unflatten(jax.tree.structure(params), [next(leaves_of[name]) for name in names]), new_state

    learns = any(optimizer.init_learned is not None for optimizer in all_optimizers.values())
    return InnerOptimizer(init, update, init_learned if learns else None)


INNER_OPTIMIZERS: dict[str, Callable[[Rate], InnerOptimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": adam,
    "rmsprop": rmsprop,
    "clipped_sgd": lambda learning_rate: clipped(sgd(learning_rate)),
    "parameter_rates": learned_rates,
    "tensor_rates": lambda learning_rate: learned_rates(learning_rate, per_parameter=False),
    "curvature": curvature,
}
"""Inner optimisers by name: ``inner_lr → InnerOptimizer``."""
