"""Builds the policy π_φ from a user's argument."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import Policy, TaskEnv
from metarl_jax.policies.networks import gaussian_mlp, mlp


def make_policy(env: TaskEnv, policy: Policy | Mapping[str, Any] | None, **defaults: Any) -> Policy:
    """Returns a policy unchanged, or calls `metarl_jax.policies.mlp` with `defaults` updated by the given options.

    Raises:
        ValueError: `policy` is neither a policy nor options, or its parts are not functions, or it has no parameters or
            parameters that are not float.
    """
    if policy is None or isinstance(policy, Mapping):
        options = {
            name: None
            for function in (mlp, gaussian_mlp)
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty
        }
        for option in policy or {}:
            checks.one_of("option of the policy", option, options)
        return mlp(env, **defaults | dict(policy or {}))
    if not isinstance(policy, Policy):
        raise ValueError(
            f"policy is {policy!r}; it must be a metarl_jax.Policy(init, apply), or options such as "
            "{'hidden': (64, 64)}"
        )
    checks.function("init of the policy", policy.init)
    checks.function("apply of the policy", policy.apply)
    if policy.labels is not None:
        checks.function("labels of the policy", policy.labels)
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(policy.init, jax.random.key(0)))
    if not leaves:
        raise ValueError("init of the policy returns no arrays, so nothing could be learned; return its parameters")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"init of the policy returns φ{jax.tree_util.keystr(path)} of dtype {leaf.dtype}; it must be float, "
                "since gradients move it; keep constants out of φ"
            )
    return policy
