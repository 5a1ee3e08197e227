"""First-order MAML."""

from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.compose import compose
from metarl_jax.inner import first_order, sgd
from metarl_jax.outer import adam, gradient_steps, ratio


def fomaml(
    env: TaskEnv, *, surrogate: str | Surrogate = "score_function", outer_lr: float = 1e-3, **common
) -> MetaAlgorithm:
    """θ ← Adam(E_M[∇_φ R(φ)]): MAML with φ − θ held constant, so no second derivative is taken.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400), section 5.2.
    """
    return compose(
        env,
        objective=ratio(),
        outer_optimizer=gradient_steps(adam(outer_lr)),
        surrogate=surrogate,
        inner_optimizer=lambda rate: first_order(sgd(rate)),
        **common,
    )
