"""Random finite MDPs, Duan et al. 2016 (RL², arXiv:1611.02779)."""

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.state import State, first
from metarl_jax.envs.tasks import MDPTask


def tabular_mdp(*, name: str, horizon: int, states: int, actions: int, reward_std: float, sharpness: float) -> TaskEnv:
    """x' ~ P(·|x, a), r ~ N(R(x, a), reward_std²), from x_0 = 0; P(·|x, a) ~ Dirichlet(1), R(x, a) ~ N(1, 1).

    The observation is the one-hot state [states]. The key for transitions and rewards is part of the state.

    Args:
        name: name of the environment.
        horizon: steps per episode.
        states: number of states.
        actions: number of actions.
        reward_std: standard deviation of the reward's noise.
        sharpness: P(x'|x, a) ∝ E^sharpness with unit exponentials E; 1 is Dirichlet(1), larger values are less random.

    Raises:
        ValueError: a size is not a positive integer, `reward_std` is negative or `sharpness` is not positive.
    """
    checks.integer("states", states)
    checks.integer("actions", actions)
    reward_std = checks.non_negative("reward_std", reward_std)
    sharpness = checks.positive("sharpness", sharpness)

    def sample_task(key):
        transition_key, reward_key = jax.random.split(key)
        # Dirichlet(1) as normalised unit exponentials, which avoids compiling a gamma sampler's rejection loop.
        weight = jax.random.exponential(transition_key, (states, actions, states))
        if sharpness == 1:
            transition = weight / weight.sum(-1, keepdims=True)
        else:  # in log space, to avoid overflow
            transition = jax.nn.softmax(sharpness * jnp.log(weight), axis=-1)
        return MDPTask(transition, 1.0 + jax.random.normal(reward_key, (states, actions)))

    def reset(key, task):
        return first(jax.nn.one_hot(0, states, dtype=float), internal=(key, jnp.zeros((), int)))

    def step(task: MDPTask, state: State, action: jax.Array):
        key, cell = state.internal
        key, transition_key, reward_key = jax.random.split(key, 3)
        reward = task.mean_reward[cell, action] + reward_std * jax.random.normal(reward_key)
        cell = jax.random.categorical(transition_key, jnp.log(task.transition[cell, action]))
        return state.following(jax.nn.one_hot(cell, states, dtype=float), reward, internal=(key, cell))

    return TaskEnv(
        sample_task=sample_task,
        reset=reset,
        step=step,
        observation_size=states,
        action_size=actions,
        horizon=horizon,
        discrete=True,
        name=name,
    )


TABULAR_MDP = Family(
    name="tabular-mdp",
    build=tabular_mdp,
    versions={"duan2016": {"horizon": 10, "states": 10, "actions": 5, "reward_std": 1.0, "sharpness": 1.0}},
    formula="N(R(x, a), 1); never ends early",
    tasks="P(·|x, a) ~ Dirichlet(1), R(x, a) ~ N(1, 1); 10 states, 5 actions",
    observation="the state, one-hot",
    start="fixed (state 0; transitions and rewards are random)",
    random_start=False,
    shared_dynamics=False,
    source="RL², Duan et al. 2016, arXiv:1611.02779",
    differences="none known",
    ood=Ood(
        "transitions that are nearly deterministic: P ∝ E⁴ with unit exponentials E, where Dirichlet(1) is P ∝ E",
        sampling.times("sharpness", 4.0),
    ),
)

FAMILIES = (TABULAR_MDP,)
