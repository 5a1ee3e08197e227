"""D: episodes of one task, collected by scan. No gradient leaves this module."""

import jax
import jax.numpy as jnp

from metarl_jax.base import Policy, TaskEnv
from metarl_jax.policies.likelihood import as_pytree, pad_with_first
from metarl_jax.types import Key, PyTree, Trajectory


def _strongly_typed(tree: PyTree) -> PyTree:
    """Casts leaves to their own dtype: Python scalars in a state are weakly typed, and a scan's carry may not be."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), tree)


def rollout(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, episodes: int, horizon: int
) -> Trajectory:
    """N = `episodes` episodes of at most T = `horizon` steps in one task, each from its own reset draw.

    There is no auto-reset: an episode that ends early is padded and masked, so every episode counts once.

    Args:
        key: episode n draws from ``fold_in(key, n)``, whatever N is.
        env: the environment.
        policy: the behaviour policy.
        params: its parameters φ.
        task: of which all episodes are.
        episodes: N.
        horizon: T.

    Returns:
        Leaves [N, T, ...], cut from the gradient's graph.
    """

    def episode(key):
        reset_key, action_key = jax.random.split(key)

        def step(carry, key):
            state, running = carry
            distribution = as_pytree(policy.apply(params, state.observation))
            action = distribution.sample(key)
            following = _strongly_typed(env.step(task, state, action))
            terminated = jnp.asarray(following.terminated, bool)
            truncated = jnp.asarray(following.truncated, bool) & ~terminated
            record = {
                "observation": state.observation,
                "action": action,
                "log_prob": distribution.log_prob(action),
                "distribution": distribution,
                "reward": jnp.where(running, jnp.asarray(following.reward, float), 0.0),
                "discount": jnp.where(terminated, 0.0, 1.0),
                "truncated": truncated,
                "valid": running,
            }
            # An ended episode stands still, so its last state is its final one and no padding can diverge.
            state = jax.tree.map(lambda new, old: jnp.where(running, new, old), following, state)
            return (state, running & ~terminated & ~truncated), record

        start = _strongly_typed(env.reset(reset_key, task))
        (end, _), steps = jax.lax.scan(step, (start, jnp.array(True)), jax.random.split(action_key, horizon))
        return steps, end.observation

    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(episodes))
    steps, final_observation = jax.vmap(episode)(keys)
    reward = steps.pop("reward")  # 0 on padding, not the first step's
    steps = pad_with_first(steps, steps["valid"]) | {"valid": steps["valid"]}
    trajectory = Trajectory(**steps, reward=reward, final_observation=final_observation)
    return jax.lax.stop_gradient(trajectory)
