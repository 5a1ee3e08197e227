"""MAML with a trust region outside."""

import dataclasses

from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.compose import assemble, gradient_parts
from metarl_jax.keywords import by_keyword
from metarl_jax.options import GradientOptions
from metarl_jax.outer import ratio, trust_region


@dataclasses.dataclass(frozen=True, kw_only=True)
class MamlTrpoOptions(GradientOptions):
    """Those of `maml` without its outer rate."""

    max_kl: float = 0.01
    """bound of the trust region, in nats"""


@by_keyword(MamlTrpoOptions)
def maml_trpo(env: TaskEnv, options: MamlTrpoOptions) -> MetaAlgorithm:
    """MAML whose outer step is TRPO's: conjugate gradients and a line search under E KL(old ‖ new) ≤ max_kl nats.

    This is the outer optimiser of the paper's RL experiments. Objective: as `maml`.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400); Schulman et al. (2015, arXiv:1502.05477).
    """
    return assemble(gradient_parts(env, options, ratio()), trust_region(options.max_kl))
