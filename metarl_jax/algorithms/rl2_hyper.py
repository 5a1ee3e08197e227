"""RL² through a recurrent hypernetwork: the memory emits the base policy's weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from metarl_jax.base import MetaAlgorithm, Policy, TaskEnv
from metarl_jax.keywords import by_keyword
from metarl_jax.options import MemoryOptions
from metarl_jax.policies import hypernetwork, make_policy
from metarl_jax.sequential import assemble_trials


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rl2HyperOptions(MemoryOptions):
    """PPO on trials of sequential episodes."""

    policy: Policy | Mapping[str, Any] | None = None
    """the base policy, or options of `metarl_jax.policies.mlp`, which makes it otherwise"""


@by_keyword(Rl2HyperOptions)
def rl2_hyper(env: TaskEnv, options: Rl2HyperOptions) -> MetaAlgorithm:
    """θ ← PPO(trials of H sequential episodes), π_φt(·|s_t), φ_t = b_θ + W_θ m_t: a hypernetwork on `rl2`'s memory.

    φ_t are the weights of a base policy, emitted anew at every step. W starts at 0 and b at the base policy's own
    initialisation. Objective as in `rl2`.

    Beck et al. (2023, arXiv:2309.14970; initialisation: 2022, arXiv:2210.11348).
    """
    given = options.policy if isinstance(options.policy, Mapping) else {}
    policy = hypernetwork(env, make_policy(env, options.policy), options.memory_size, given.get("channels"))
    return assemble_trials(env, policy, options)
