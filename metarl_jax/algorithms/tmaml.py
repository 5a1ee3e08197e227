"""TMAML: DiCE with a meta-learned control variate."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.inner import Baseline, Critic, value_network
from metarl_jax.keywords import by_keyword
from metarl_jax.observations import shapes_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class TmamlOptions(MamlOptions):
    """Those of `maml`, with another inner loss and baseline."""

    surrogate: str | Surrogate = "dice"
    baseline: str | Baseline | Critic | None = None
    """V that "gae" subtracts, see `maml`; None means a value network that the inner steps adapt too, unless the
    advantage takes no baseline"""


@by_keyword(TmamlOptions)
def tmaml(env: TaskEnv, options: TmamlOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]) through DiCE with the control variate Σ_t (□_{t−1} − □_t) V(s_t), V learned and adapted.

    V is a value network in θ that the inner steps adapt too, independent of the episodes that it scores: without
    normalisation every order of derivative stays unbiased. `baseline=None` means this one, unless the advantage has
    none. Objective: the expected update.

    Liu, Socher, Xiong (2019, ICML, "Taming MAML"). The control variate is the telescoped one of Mao et al. (2019,
    arXiv:1906.02004), which is unbiased at every order.
    """
    if options.advantage == "gae" and options.baseline in (None, "value_network"):
        # With the usual α = 0.1 that adapts V at the rate of 0.02, the paper's.
        network = value_network(shapes_of(env), options.horizon or env.horizon, inner_weight=0.2)
        options = dataclasses.replace(options, baseline=network)
    return maml.build(env, options)
