"""Meta-SGD: MAML with learned inner rates."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.keywords import by_keyword
from metarl_jax.options import Builder


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaSgdOptions(MamlOptions):
    """Those of `maml`, with another update rule."""

    inner_optimizer: str | Builder = "parameter_rates"


@by_keyword(MetaSgdOptions)
def meta_sgd(env: TaskEnv, options: MetaSgdOptions) -> MetaAlgorithm:
    """θ, α ← Adam(∇ E_M[R(φ)]), φ = θ − α ∘ ∇ surrogate(θ; D_0): a learned positive rate for every parameter.

    `inner_optimizer="tensor_rates"` with a sequence of inner rates is MAML++'s rate per tensor and step.
    Objective: as `maml`.

    Li, Zhou, Chen, Li (2017, arXiv:1707.09835); Antoniou, Edwards, Storkey (2019, arXiv:1810.09502).
    """
    return maml.build(env, options)
