"""RL²: the policy's memory is the learning algorithm."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from metarl_jax.base import MetaAlgorithm, RecurrentPolicy, TaskEnv
from metarl_jax.keywords import by_keyword
from metarl_jax.options import MemoryOptions
from metarl_jax.sequential import assemble_trials, make_recurrent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rl2Options(MemoryOptions):
    """PPO on trials of sequential episodes."""

    policy: RecurrentPolicy | Mapping[str, Any] | None = None
    """a policy with a memory of its own, or options of `metarl_jax.policies.gru`, which makes it otherwise"""


@by_keyword(Rl2Options)
def rl2(env: TaskEnv, options: Rl2Options) -> MetaAlgorithm:
    """θ ← PPO(trials of H sequential episodes), π_θ(·|m_t), m_t = GRU_θ(m_{t−1}, s_t, a_{t−1}, r_{t−1}): φ is m.

    The memory is reset between trials only, so f_θ acts at every step, within episodes and across them. Objective: the
    return of the episodes after the first K = `burn_in` ones, K = 0 by default: every episode counts.

    `policy` is options of `metarl_jax.policies.gru`, for a memory of `memory_size` numbers, or a
    `metarl_jax.RecurrentPolicy`, which brings a memory of its own.

    Duan et al. (2016, arXiv:1611.02779), Wang et al. (2016, arXiv:1611.05763).
    """
    return assemble_trials(env, make_recurrent(env, options.policy, options.memory_size), options)
