"""Effect of a fitted baseline on the inner gradient for high-dimensional observations.

python benchmarks/baseline_fit.py

A point in the plane must reach a goal; its observation contains noise in addition to the position, the worst case of a
high-dimensional observation. The policy is a mean that does not depend on the observation, so the correct direction of
an inner step is known: towards the goal. A stage has N·T = 200 steps, in 20 episodes of 10.
"""

import argparse
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax as mrl
from metarl_jax.envs import State
from metarl_jax.inner.critics import make_baseline
from metarl_jax.rollout import rollout

EPISODES, HORIZON = 20, 10


def noisy_point(extra: int) -> mrl.TaskEnv:
    """Position [2] and `extra` numbers of noise; reward −‖position − goal‖, steps of at most 0.1."""

    def state(key, place, reward):
        seen = jnp.concatenate([place, jax.random.normal(key, (extra,))])
        return State(seen, reward, jnp.array(False), jnp.array(False), (jax.random.fold_in(key, 1), place))

    def step(task, before, action):
        key, place = before.internal
        place = place + 0.1 * jnp.clip(action, -1, 1)
        return state(key, place, -jnp.linalg.norm(place - task))

    return mrl.TaskEnv(
        sample_task=lambda key: jax.random.normal(key, (2,)),
        reset=lambda key, task: state(key, jnp.zeros(2), jnp.zeros(())),
        step=step,
        observation_size=2 + extra,
        action_size=2,
        horizon=HORIZON,
    )


def direction(extra: int, baseline: str, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """cos(inner gradient, goal direction) and norm of the gradient, with unnormalised advantages, [draws]."""
    env = noisy_point(extra)
    policy = mrl.Policy(
        lambda key: jnp.zeros(2), lambda mean, _: mrl.policies.DiagonalGaussian(mean, jnp.full(2, jnp.log(0.5)))
    )
    values = cast(mrl.inner.Baseline, make_baseline(baseline, env.observation_size, HORIZON))
    estimate = mrl.inner.gae(discount=0.99, lambda_=1.0, normalized=False, baseline=values)
    surrogate = mrl.inner.SURROGATES["score_function"]

    def one(key):
        task_key, data_key = jax.random.split(key)
        task, mean = env.sample_task(task_key), policy.init(key)
        data = rollout(data_key, env, policy, mean, task, EPISODES, HORIZON)
        descent = jax.grad(lambda mean: surrogate(policy, mean, data, estimate(data)))(mean)
        norm = jnp.linalg.norm(descent)
        return -descent @ task / (norm * jnp.linalg.norm(task)), norm

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="tasks, each with data of its own (100)")
    draws = parser.parse_args().draws
    print("| observation | features / steps | baseline | cosine ± s.e. | norm |\n| --- | --- | --- | --- | --- |")
    for extra in (0, 23, 48, 62, 73, 85, 94, 98, 148):
        for baseline in ("linear_feature", "leave_one_out", "linear_time"):
            cosine, norm = direction(extra, baseline, draws)
            ratio = (2 * (2 + extra) + 4) / (EPISODES * HORIZON)
            error = cosine.std(ddof=1) / np.sqrt(draws)
            print(
                f"| {2 + extra} | {ratio:.2f} | `{baseline}` | {cosine.mean():.3f} ± {error:.3f} | {norm.mean():.3f} |"
            )


if __name__ == "__main__":
    main()
