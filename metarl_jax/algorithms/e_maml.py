"""E-MAML: MAML with credit for exploration."""

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import MetaAlgorithm, TaskEnv


def e_maml(env: TaskEnv, *, credit: bool | float = True, **common) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)] + E[Σ_k ∇ log p(D_k|φ_k) R_later]): MAML with the score term of the data it learns from.

    Objective: the sampled update, J(θ) = E_D[R(f_θ(D))], of which this is the unbiased gradient with the default
    surrogate, `credit=True` and `advantage="returns"`; normalised advantages weigh the tasks differently, see
    `metarl_jax.inner.advantages`. A number below 1 weighs the term down: less variance, some bias.

    Stadie et al. (2018, arXiv:1803.01118); Al-Shedivat et al. (2018, arXiv:1710.03641).
    """
    return maml(env, credit=credit, **common)
