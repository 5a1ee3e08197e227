"""MAML: model-agnostic meta-learning."""

from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.compose import compose
from metarl_jax.outer import gradient_steps, ratio, take_descent


def maml(env: TaskEnv, *, surrogate: str | Surrogate = "score_function", **common) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]), φ = θ − α ∇ surrogate(θ; D_0): differentiates through the inner steps.

    Objective: the sampled update, whose path derivative this is, without the score term that the choice of D_0 adds
    (`credit=True` adds it: `e-maml`). With `likelihood_ratio`, `dice` or `loaded_dice` it follows the expected update.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400).
    """
    step, common = take_descent(common)
    return compose(env, objective=ratio(), outer_optimizer=gradient_steps(step), surrogate=surrogate, **common)
