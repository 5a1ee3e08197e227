"""CAVIA: fast context adaptation."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.inner.rates import Rate
from metarl_jax.inner.resolve import FastParameters
from metarl_jax.keywords import by_keyword
from metarl_jax.policies import make_policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaviaOptions(MamlOptions):
    """Those of `maml`; the inner loop moves a context."""

    fast_parameters: FastParameters = "context"
    inner_lr: Rate = 1.0
    context_size: int = 5
    """components of the context, an input of the policy that is made here"""


@by_keyword(CaviaOptions)
def cavia(env: TaskEnv, options: CaviaOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(π_θ(·|s, c))]), c = c_0 − α ∇_c surrogate: the inner steps move a context, an input beside s.

    `context_size` is that of the policy made here; a policy of your own brings its own context. c_0 is a part of θ and
    starts at 0, where the paper keeps it: the first layer's bias says the same. Objective: as `maml`.

    Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson (2019, arXiv:1810.03642).
    """
    policy = make_policy(env, options.policy, context_size=options.context_size)
    return maml.build(env, dataclasses.replace(options, policy=policy))
