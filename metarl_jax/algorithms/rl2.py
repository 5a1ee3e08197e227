"""RL²: the policy's memory is the learning algorithm."""

from collections.abc import Mapping
from typing import Any

from metarl_jax.base import MetaAlgorithm, RecurrentPolicy, TaskEnv
from metarl_jax.sequential import assemble_trials, make_recurrent


def rl2(
    env: TaskEnv,
    *,
    policy: RecurrentPolicy | Mapping[str, Any] | None = None,
    memory_size: int = 64,
    **common,
) -> MetaAlgorithm:
    """θ ← PPO(trials of H sequential episodes), π_θ(·|m_t), m_t = GRU_θ(m_{t−1}, s_t, a_{t−1}, r_{t−1}): φ is m.

    The memory is reset between trials only, so f_θ acts at every step, within episodes and across them. Objective: the
    return of the episodes after the first K = `burn_in` ones, K = 0 by default: every episode counts.

    `policy` is options of `metarl_jax.policies.gru`, for a memory of `memory_size` numbers, or a
    `metarl_jax.RecurrentPolicy`, which brings a memory of its own.

    Duan et al. (2016, arXiv:1611.02779), Wang et al. (2016, arXiv:1611.05763).
    """
    return assemble_trials(env, make_recurrent(env, policy, memory_size), **common)
