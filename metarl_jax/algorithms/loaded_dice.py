"""MAML through Loaded DiCE, which trades bias for variance in the second derivative."""

from metarl_jax import checks, inner
from metarl_jax.algorithms.maml import maml
from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv


def loaded_dice(
    env: TaskEnv,
    *,
    surrogate: str | Surrogate | None = None,
    dice_lambda: float = 0.9,
    **common,
) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]) through Loaded DiCE, whose second derivative forgets the past at the rate dice_lambda.

    Objective: the expected update. dice_lambda = 1 is `dice`, 0 is `maml` with the likelihood ratio. A surrogate
    of one's own takes its place.

    Farquhar, Whiteson, Foerster (2019, arXiv:1909.10549).
    """
    dice_lambda = checks.share("dice_lambda", dice_lambda)
    surrogate = inner.loaded_dice(dice_lambda) if surrogate is None else surrogate
    return maml(env, surrogate=surrogate, **common)
