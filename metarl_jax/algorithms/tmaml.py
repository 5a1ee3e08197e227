"""TMAML: DiCE with a meta-learned control variate."""

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import AdvantageEstimator, MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.inner import Baseline, Critic, value_network


def tmaml(
    env: TaskEnv,
    *,
    surrogate: str | Surrogate = "dice",
    advantage: str | AdvantageEstimator = "gae",
    baseline: str | Baseline | Critic | None = None,
    **common,
) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]) through DiCE with the control variate Σ_t (□_{t−1} − □_t) V(s_t), V learned and adapted.

    V is a value network in θ that the inner steps adapt too, independent of the episodes that it scores: without
    normalisation every order of derivative stays unbiased. `baseline=None` means this one, unless the advantage has
    none. Objective: the expected update.

    Liu, Socher, Xiong (2019, ICML, "Taming MAML"). The control variate is the telescoped one of Mao et al. (2019,
    arXiv:1906.02004), which is unbiased at every order.
    """
    if advantage == "gae" and baseline in (None, "value_network"):
        # With the usual α = 0.1 that adapts V at the rate of 0.02, the paper's.
        baseline = value_network(env.observation_size, common.get("horizon") or env.horizon, inner_weight=0.2)
    return maml(env, surrogate=surrogate, advantage=advantage, baseline=baseline, **common)
