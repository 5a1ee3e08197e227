"""Adapters that turn environments of other JAX suites into `TaskEnv`s. A suite is imported only when it is used.

>>> env = from_gymnax("Pendulum-v1", lambda key, params: params.replace(g=15 * jax.random.uniform(key)))
"""

from metarl_jax.envs.suites.brax import from_brax
from metarl_jax.envs.suites.gymnax import from_gymnax
from metarl_jax.envs.suites.playground import from_playground
from metarl_jax.envs.suites.xminigrid import from_xminigrid

__all__ = ["from_brax", "from_gymnax", "from_playground", "from_xminigrid"]
