"""ProMP: proximal meta-policy search."""

from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv, Trial
from metarl_jax.compose import compose
from metarl_jax.outer import (
    adaptive_penalty,
    add,
    check_minibatches,
    clipped,
    gradient_steps,
    inner_kl,
    take_descent,
)


def promp(
    env: TaskEnv,
    *,
    surrogate: str | Surrogate = "likelihood_ratio",
    epochs: int = 5,
    minibatches: int = 1,
    clip: float = 0.3,
    inner_kl_weight: float = 5e-4,
    inner_kl_target: float | None = None,
    **common,
) -> MetaAlgorithm:
    """min_θ E_M[clipped(φ(θ)) + η KL(old θ ‖ θ)] by several Adam steps on the same data, through the LVC inner step.

    With `inner_kl_target` η follows the KL, from `inner_kl_weight` on: see `metarl_jax.outer.adaptive_penalty`.

    It follows the expected-update objective: φ = θ + α E[ĝ], whose Hessian the likelihood ratio estimates.

    Rothfuss, Lee, Clavera, Asfour, Abbeel (2019, arXiv:1810.06784).
    """
    check_minibatches(minibatches, common.get("tasks", Trial.tasks))
    step, common = take_descent(common)
    steps = gradient_steps(step, epochs, minibatches)
    if inner_kl_target is not None:
        if common.get("adaptation_steps") == 0:
            raise ValueError("inner_kl_target is for what inner steps learn from; leave it out, or take a step")
        steps = adaptive_penalty(steps, inner_kl_weight, inner_kl_target)
    penalty = inner_kl(inner_kl_weight)
    return compose(
        env,
        # Without a weight it would only ask the policy's distribution for a KL.
        objective=add(clipped(clip), penalty) if inner_kl_weight else clipped(clip),
        outer_optimizer=steps,
        surrogate=surrogate,
        **common,
    )
