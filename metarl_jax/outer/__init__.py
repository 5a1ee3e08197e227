"""J(θ): objectives along the adaptation path, outer optimisers, and the meta-gradient."""

from metarl_jax.outer.adaptation import adapt, summary, summary_with_modes, with_steps
from metarl_jax.outer.budget import within_budget
from metarl_jax.outer.evolution import Antithetic, antithetic, centred_ranks, smoothed_gradient
from metarl_jax.outer.exploration import CREDITS, exploration_credit
from metarl_jax.outer.memory import Memory, limited
from metarl_jax.outer.meta_gradient import Parts, collect, replay, trial_of
from metarl_jax.outer.metrics import describe, describe_window, joined
from metarl_jax.outer.objectives import add, clipped, credit, critic_error, entropy_bonus, inner_kl, kl_of_stages, ratio
from metarl_jax.outer.online import online, online_life
from metarl_jax.outer.optimizers import (
    OuterRate,
    adaptive_penalty,
    annealed_stages,
    check_annealing,
    check_minibatches,
    conjugate_gradient,
    descent,
    gradient_steps,
    rate_of,
    trust_region,
)
from metarl_jax.outer.tasks import collect_tasks, meta_objective, with_behaviors
from metarl_jax.outer.trials import Sequence, Trials, as_sequence, normalize_over_tasks, replay_sequence, trial_loss
from metarl_jax.outer.validation import bootstrapped, nothing, validation

__all__ = [
    "CREDITS",
    "Antithetic",
    "Memory",
    "OuterRate",
    "Parts",
    "Sequence",
    "Trials",
    "adapt",
    "adaptive_penalty",
    "add",
    "annealed_stages",
    "antithetic",
    "as_sequence",
    "bootstrapped",
    "centred_ranks",
    "check_annealing",
    "check_minibatches",
    "clipped",
    "collect",
    "collect_tasks",
    "conjugate_gradient",
    "credit",
    "critic_error",
    "descent",
    "describe",
    "describe_window",
    "entropy_bonus",
    "exploration_credit",
    "gradient_steps",
    "inner_kl",
    "joined",
    "kl_of_stages",
    "limited",
    "meta_objective",
    "normalize_over_tasks",
    "nothing",
    "online",
    "online_life",
    "rate_of",
    "ratio",
    "replay",
    "replay_sequence",
    "smoothed_gradient",
    "summary",
    "summary_with_modes",
    "trial_loss",
    "trial_of",
    "trust_region",
    "validation",
    "with_behaviors",
    "with_steps",
    "within_budget",
]
