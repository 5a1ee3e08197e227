"""Meta-curvature: MAML with a learned preconditioner."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.keywords import by_keyword
from metarl_jax.options import Builder


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaCurvatureOptions(MamlOptions):
    """Those of `maml`, with another update rule."""

    inner_optimizer: str | Builder = "curvature"


@by_keyword(MetaCurvatureOptions)
def meta_curvature(env: TaskEnv, options: MetaCurvatureOptions) -> MetaAlgorithm:
    """θ, P ← Adam(∇ E_M[R(φ)]), φ = θ − α P_in ∇ surrogate(θ; D_0) P_out: a learned Kronecker-factored preconditioner.

    Objective: as `maml`.

    Park, Oliva (2019, arXiv:1902.03356).
    """
    return maml.build(env, options)
