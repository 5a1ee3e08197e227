"""MAML: model-agnostic meta-learning, with a gradient step or a trust region outside."""

from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.compose import compose
from metarl_jax.outer import adam, gradient_steps, ratio, trust_region


def maml(
    env: TaskEnv, *, surrogate: str | Surrogate = "score_function", outer_lr: float = 1e-3, **common
) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]), φ = θ − α ∇ surrogate(θ; D_0): differentiates through the inner steps.

    Objective: the sampled update, whose path derivative this is, without the score term that the choice of D_0 adds
    (`credit=True` adds it: `e-maml`). With `likelihood_ratio`, `dice` or `loaded_dice` it follows the expected update.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400).
    """
    steps = gradient_steps(adam(outer_lr))
    return compose(env, objective=ratio(), outer_optimizer=steps, surrogate=surrogate, **common)


def maml_trpo(
    env: TaskEnv, *, surrogate: str | Surrogate = "score_function", max_kl: float = 0.01, **common
) -> MetaAlgorithm:
    """MAML whose outer step is TRPO's: conjugate gradients and a line search under E KL(old ‖ new) ≤ max_kl nats.

    This is the outer optimiser of the paper's RL experiments. Objective: as `maml`.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400); Schulman et al. (2015, arXiv:1502.05477).
    """
    return compose(env, objective=ratio(), outer_optimizer=trust_region(max_kl), surrogate=surrogate, **common)
