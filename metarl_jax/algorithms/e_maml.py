"""E-MAML: MAML with credit for exploration."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.keywords import by_keyword


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMamlOptions(MamlOptions):
    """Those of `maml`, with the score term."""

    credit: bool | float = True


@by_keyword(EMamlOptions)
def e_maml(env: TaskEnv, options: EMamlOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)] + E[Σ_k ∇ log p(D_k|φ_k) R_later]): MAML with the score term of the data it learns from.

    Objective: the sampled update, J(θ) = E_D[R(f_θ(D))], of which this is the unbiased gradient with the default
    surrogate, `credit=True` and `advantage="returns"`; normalised advantages weigh the tasks differently, see
    `metarl_jax.inner.advantages`. A number below 1 weighs the term down: less variance, some bias.

    Stadie et al. (2018, arXiv:1803.01118); Al-Shedivat et al. (2018, arXiv:1710.03641).
    """
    return maml.build(env, options)
