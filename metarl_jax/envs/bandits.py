"""Bandits: the smallest meta-RL problems, with solutions in closed form."""

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.state import State, first
from metarl_jax.envs.tasks import BanditTask, GoalTask


def gaussian_bandit(*, name: str, horizon: int, goal_mean: float, goal_std: float) -> TaskEnv:
    """One real action a [1]; r = −(a − g)², with a hidden goal g ~ N(goal_mean, goal_std²).

    With a ~ N(μ, σ²) the expected reward is −(μ − g)² − σ², so gradients through an inner step have a closed form.

    Args:
        name: name of the environment.
        horizon: pulls per episode.
        goal_mean: mean of the goals, in action units.
        goal_std: standard deviation of the goals; with 0 all tasks are equal.

    Raises:
        ValueError: an option is not a finite number, or `goal_std` is negative.
    """
    goal_mean, goal_std = checks.finite("goal_mean", goal_mean), checks.non_negative("goal_std", goal_std)

    def sample_task(key):
        return GoalTask(goal_mean + goal_std * jax.random.normal(key, (1,)))

    def reset(key, task):
        return first(jnp.zeros(1))

    def step(task: GoalTask, state: State, action: jax.Array):
        return state.following(state.observation, -((action - task.goal) ** 2).sum())

    return TaskEnv(
        sample_task=sample_task, reset=reset, step=step, observation_size=1, action_size=1, horizon=horizon, name=name
    )


def bernoulli_bandit(*, name: str, horizon: int, arms: int, gap: float | None) -> TaskEnv:
    """K arms; pulling arm a (one step) pays 1 with probability p_a, else 0. Hidden p_k ~ U(0, 1), independent.

    Args:
        name: name of the environment.
        horizon: pulls per episode.
        arms: K.
        gap: if given, one arm, drawn uniformly, has p = (1 + gap)/2, and the others have p = (1 − gap)/2.

    Raises:
        ValueError: `arms` is not a positive integer, or `gap` lies outside [0, 1].
    """
    checks.integer("arms", arms)
    gap = gap if gap is None else checks.share("gap", gap)

    def sample_task(key):
        if gap is None:
            return BanditTask(jax.random.uniform(key, (arms,)))
        best = jnp.arange(arms) == jax.random.randint(key, (), 0, arms)
        return BanditTask(jnp.where(best, jnp.full(arms, 1 + gap, float), 1 - gap) / 2)

    def reset(key, task):
        return first(jnp.zeros(1), internal=key)

    def step(task: BanditTask, state: State, action: jax.Array):
        key, pull = jax.random.split(state.internal)
        reward = jax.random.uniform(pull) < task.probability[action]
        return state.following(state.observation, reward, internal=key)

    return TaskEnv(
        sample_task=sample_task,
        reset=reset,
        step=step,
        observation_size=1,
        action_size=arms,
        horizon=horizon,
        discrete=True,
        name=name,
    )


GAUSSIAN_BANDIT = Family(
    name="gaussian-bandit",
    build=gaussian_bandit,
    versions={"v1": {"horizon": 1, "goal_mean": 0.0, "goal_std": 1.0}},
    formula="−(a − g)²; never ends early",
    tasks="g ~ N(0, 1)",
    observation="a constant 0",
    start="fixed",
    random_start=False,
    source="this library; its gradients are known in closed form",
    differences="none: not a benchmark of the literature",
    ood=Ood(
        "g ~ N(4, 1): four standard deviations away",
        lambda options: {"goal_mean": options["goal_mean"] + 4 * options["goal_std"]},
    ),
)

BERNOULLI_BANDIT = Family(
    name="bernoulli-bandit",
    build=bernoulli_bandit,
    versions={
        "duan2016": {"horizon": 10, "arms": 5, "gap": None},
        "duan2016-10-arms": {"horizon": 100, "arms": 10, "gap": None},
        "duan2016-50-arms": {"horizon": 500, "arms": 50, "gap": None},
    },
    formula="1 with probability p_a, else 0; never ends early",
    tasks="p_k ~ U(0, 1) for each of K = 5, 10 or 50 arms",
    observation="a constant 0",
    start="fixed (the outcomes of pulls are random)",
    random_start=False,
    source="RL², Duan et al. 2016, arXiv:1611.02779",
    differences="RL² has 5, 10 or 50 arms, each with 10, 100 or 500 pulls: set the horizon for the other pairs. "
    "A policy without memory observes no history, so it learns from the n pulls of an episode only through the inner "
    "step.",
    ood=Ood("one arm of p = 0.55, all others of p = 0.45", lambda options: {"gap": 0.1}),
)

FAMILIES = (GAUSSIAN_BANDIT, BERNOULLI_BANDIT)
