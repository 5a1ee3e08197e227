"""MAML with a trust region outside."""

from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.compose import compose
from metarl_jax.outer import ratio, trust_region


def maml_trpo(
    env: TaskEnv, *, surrogate: str | Surrogate = "score_function", max_kl: float = 0.01, **common
) -> MetaAlgorithm:
    """MAML whose outer step is TRPO's: conjugate gradients and a line search under E KL(old ‖ new) ≤ max_kl nats.

    This is the outer optimiser of the paper's RL experiments. Objective: as `maml`.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400); Schulman et al. (2015, arXiv:1502.05477).
    """
    return compose(env, objective=ratio(), outer_optimizer=trust_region(max_kl), surrogate=surrogate, **common)
