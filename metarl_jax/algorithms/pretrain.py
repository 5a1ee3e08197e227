"""Multi-task policy gradient without adaptation: the row that a meta-learner has to beat."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.inner import frozen
from metarl_jax.keywords import by_keyword, narrowed
from metarl_jax.options import DescentOptions, EntropyOptions, FastOptions, InnerOptions

_NO_STAGES = "in pretrain every stage counts and none adapts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainOptions(InnerOptions, FastOptions, EntropyOptions, DescentOptions):
    """Policy-gradient steps in `adapt` only, and Adam outside."""

    refused: ClassVar[Mapping[str, str]] = {
        "burn_in": _NO_STAGES,
        "multi_step_iterations": _NO_STAGES,
        "credit": "it is for what data do for an adaptation, and pretrain trains without",
        "credit_estimator": "it is of credit, which pretrain does not take",
    }


@by_keyword(PretrainOptions)
def pretrain(env: TaskEnv, options: PretrainOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(θ)]): one policy for all tasks. Training never adapts; `adapt` takes inner steps from θ.

    All S stages of a training trial are collected with θ and counted, so that it sees as much data as the others; the
    metric `return` is [S] all the same. `inner_lr` is that of `adapt`. It is the pre-trained row of Finn et al. (2017,
    arXiv:1703.03400).
    """
    adapting = maml.build(env, narrowed(MamlOptions, options))
    fixed = {"inner_optimizer": lambda rate: frozen(), "burn_in": 0, "std_lr": None}
    training = maml.build(env, narrowed(MamlOptions, options, **fixed))
    shapes = [
        jax.tree.structure(jax.eval_shape(algorithm.init, jax.random.key(0))) for algorithm in (training, adapting)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "pretrain never adapts, so nothing of an inner update can be learned; choose inner_optimizer='sgd'"
        )
    return training._replace(adapt=adapting.adapt, online=adapting.online)
