"""What a fitted baseline leaves of the inner gradient where observations are wide: `python benchmarks/baseline_fit.py`.

A point in the plane is to reach a goal; its observation holds noise beside the position, which is the worst case of a
wide observation. The policy is a mean that no observation moves, so the right direction of an inner step is known: it
is towards the goal. A stage has N·T = 200 steps, in 20 episodes of 10.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax as mrl
from metarl_jax.envs.state import State, first
from metarl_jax.rollout import rollout

EPISODES, HORIZON = 20, 10
BASELINES = {
    "linear_feature": mrl.inner.linear_feature(),
    "leave_one_out": mrl.inner.leave_one_out(),
    "linear_time": mrl.inner.linear_time(),
}


def noisy_point(extra: int) -> mrl.TaskEnv:
    """Position [2] and `extra` numbers that mean nothing; reward −‖position − goal‖, a step of at most 0.1."""

    def seen(key, place):
        return jnp.concatenate([place, jax.random.normal(key, (extra,))]), (jax.random.fold_in(key, 1), place)

    def step(task, before: State, action):
        key, place = before.internal
        place = place + 0.1 * jnp.clip(action, -1, 1)
        observation, internal = seen(key, place)
        return before.following(observation, -jnp.linalg.norm(place - task), internal)

    return mrl.TaskEnv(
        sample_task=lambda key: jax.random.normal(key, (2,)),
        reset=lambda key, task: first(*seen(key, jnp.zeros(2))),
        step=step,
        observation_size=2 + extra,
        action_size=2,
        horizon=HORIZON,
    )


def direction(extra: int, baseline: str, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """cos(inner gradient, direction of the goal) and the norm of the gradient, of unnormalised advantages, [draws]."""
    env = noisy_point(extra)
    policy = mrl.Policy(
        lambda key: jnp.zeros(2), lambda mean, _: mrl.policies.DiagonalGaussian(mean, jnp.full(2, jnp.log(0.5)))
    )
    estimate = mrl.inner.gae(discount=0.99, lambda_=1.0, normalized=False, baseline=BASELINES[baseline])
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
        for baseline in BASELINES:
            cosine, norm = direction(extra, baseline, draws)
            ratio = (2 * (2 + extra) + 4) / (EPISODES * HORIZON)
            error = cosine.std() / np.sqrt(draws)
            print(
                f"| {2 + extra} | {ratio:.2f} | `{baseline}` | {cosine.mean():.3f} ± {error:.3f} | {norm.mean():.3f} |"
            )


if __name__ == "__main__":
    main()
