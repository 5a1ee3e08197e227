"""Multi-task policy gradient without adaptation: the row that a meta-learner has to beat."""

import jax

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.inner import frozen
from metarl_jax.inner.rates import Rate


def pretrain(env: TaskEnv, *, inner_lr: Rate = 0.1, **common) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(θ)]): one policy for all tasks. Training never adapts; `adapt` takes inner steps from θ.

    All S stages of a training trial are collected with θ and counted, so that it sees as much data as the others; the
    metric `return` is [S] all the same. `inner_lr` is that of `adapt`. It is the pre-trained row of Finn et al. (2017,
    arXiv:1703.03400).
    """
    if common.get("credit"):
        raise ValueError("credit is for what data do for an adaptation, and pretrain trains without; choose e-maml")
    if common.get("burn_in") is not None:
        raise ValueError("burn_in means nothing in pretrain, where every stage counts and none adapts; leave it out")
    if common.get("multi_step_iterations") is not None:
        raise ValueError("multi_step_iterations weighs adapted stages, and pretrain never adapts; leave it out")
    adapting = maml(env, inner_lr=inner_lr, **common)
    fixed = common | {"inner_optimizer": lambda rate: frozen(), "burn_in": 0, "std_lr": None}
    training = maml(env, **fixed)
    shapes = [
        jax.tree.structure(jax.eval_shape(algorithm.init, jax.random.key(0))) for algorithm in (training, adapting)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "pretrain never adapts, so nothing of an inner update can be learned; choose inner_optimizer='sgd'"
        )
    return training._replace(adapt=adapting.adapt, online=adapting.online)
