"""J(θ): objectives along the adaptation path, outer optimisers, and the assembly that makes a meta-gradient of them."""

from metarl_jax.outer.meta_gradient import Parts, adapt, collect, collect_tasks, describe, meta_objective, replay
from metarl_jax.outer.objectives import add, clipped, inner_kl, kl_of_stages, ratio
from metarl_jax.outer.optimizers import adam, conjugate_gradient, gradient_steps, trust_region

__all__ = [
    "Parts",
    "adam",
    "adapt",
    "add",
    "clipped",
    "collect",
    "collect_tasks",
    "conjugate_gradient",
    "describe",
    "gradient_steps",
    "inner_kl",
    "kl_of_stages",
    "meta_objective",
    "ratio",
    "replay",
    "trust_region",
]
