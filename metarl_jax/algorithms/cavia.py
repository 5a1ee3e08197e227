"""CAVIA: fast context adaptation."""

from collections.abc import Mapping
from typing import Any

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import MetaAlgorithm, Policy, TaskEnv
from metarl_jax.inner.rates import Rate
from metarl_jax.inner.resolve import FastParameters
from metarl_jax.policies import make_policy


def cavia(
    env: TaskEnv,
    *,
    fast_parameters: FastParameters = "context",
    inner_lr: Rate = 1.0,
    context_size: int = 5,
    policy: Policy | Mapping[str, Any] | None = None,
    **common,
) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(π_θ(·|s, c))]), c = c_0 − α ∇_c surrogate: the inner steps move a context, an input beside s.

    `context_size` is that of the policy made here; a policy of one's own brings its own context. c_0 is a part of θ and
    starts at 0, where the paper keeps it: the first layer's bias says the same. Objective: as `maml`.

    Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson (2019, arXiv:1810.03642).
    """
    policy = make_policy(env, policy, context_size=context_size)
    return maml(env, fast_parameters=fast_parameters, inner_lr=inner_lr, policy=policy, **common)
