"""ProMP: proximal meta-policy search."""

import dataclasses

from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.checks import is_on
from metarl_jax.compose import assemble, gradient_parts
from metarl_jax.keywords import by_keyword
from metarl_jax.options import DescentOptions, GradientOptions
from metarl_jax.outer import adaptive_penalty, add, check_minibatches, clipped, gradient_steps, inner_kl


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrompOptions(GradientOptions, DescentOptions):
    """Policy-gradient steps inside, several clipped steps on the same data outside."""

    surrogate: str | Surrogate = "likelihood_ratio"
    epochs: int = 5
    """passes over the same data per meta-iteration"""
    minibatches: int = 1
    """steps per pass over the data, each on as many whole tasks; it must divide `tasks`"""
    clip: float = 0.3
    """ε, the range of the clipped ratio"""
    inner_kl_weight: float = 5e-4
    """η, weight of the KL divergence before adaptation"""
    inner_kl_target: float | None = None
    """KL in nats that η is to keep, by doubling and halving; None means that η stays"""

    @property
    def steps_per_update(self) -> int:
        """Outer steps per meta-iteration, which is what a schedule of `outer_lr` counts."""
        return self.epochs * self.minibatches


@by_keyword(PrompOptions)
def promp(env: TaskEnv, options: PrompOptions) -> MetaAlgorithm:
    """min_θ E_M[clipped(φ(θ)) + η KL(old θ ‖ θ)] by several Adam steps on the same data, through the LVC inner step.

    With `inner_kl_target` η follows the KL, from `inner_kl_weight` on: see `metarl_jax.outer.adaptive_penalty`.

    It follows the expected-update objective: φ = θ + α E[ĝ], whose Hessian the likelihood ratio estimates.

    Rothfuss, Lee, Clavera, Asfour, Abbeel (2019, arXiv:1810.06784).
    """
    check_minibatches(options.minibatches, options.tasks)
    steps = gradient_steps(options.descent(), options.epochs, options.minibatches)
    if options.inner_kl_target is not None:
        if options.adaptation_steps == 0:
            raise ValueError("inner_kl_target is for what inner steps learn from; leave it out, or take a step")
        steps = adaptive_penalty(steps, options.inner_kl_weight, options.inner_kl_target)
    objective, penalty = clipped(options.clip), inner_kl(options.inner_kl_weight)
    # Without a weight the penalty would only ask the policy's distribution for a KL.
    objective = add(objective, penalty) if is_on(options.inner_kl_weight) else objective
    return assemble(gradient_parts(env, options, objective, options.clip), steps)
