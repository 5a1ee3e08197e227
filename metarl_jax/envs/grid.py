"""Find a hidden cell on a grid, Zintgraf et al. 2020 (VariBAD, arXiv:1910.08348)."""

import itertools

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.state import State, first
from metarl_jax.envs.tasks import GoalTask

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
"""moves of the actions: stay, up, right, down, left; a move off the grid stays at the edge"""


def grid_nav(
    *, name: str, horizon: int, size: int, step_reward: float, goal_reward: float, near_start: bool
) -> TaskEnv:
    """r = goal_reward on the goal's cell, else step_reward, from the cell (0, 0) of a size × size grid; never ends.

    The observation is the cell (x, y) [2]. The hidden goal is uniform over all cells except the start and its three
    neighbours (including the diagonal one); with `near_start`, it is uniform over these three neighbours.

    Args:
        name: name of the environment.
        horizon: steps per episode.
        size: cells along a side.
        step_reward: reward of a step that does not end on the goal.
        goal_reward: reward of a step that ends on the goal.
        near_start: whether goals are next to the start.

    Raises:
        ValueError: the grid has fewer than 3 × 3 cells, or a reward is not a finite number.
    """
    checks.integer("size", size, least=3)
    step_reward, goal_reward = checks.finite("step_reward", step_reward), checks.finite("goal_reward", goal_reward)
    near_start = checks.boolean("near_start", near_start)
    cells = [cell for cell in itertools.product(range(size), repeat=2) if cell != (0, 0)]
    goals = jnp.array([cell for cell in cells if (max(cell) == 1) == near_start], float)
    moves = jnp.array(MOVES, float)

    def sample_task(key):
        return GoalTask(goals[jax.random.randint(key, (), 0, len(goals))])

    def reset(key, task):
        return first(jnp.zeros(2))

    def step(task: GoalTask, state: State, action: jax.Array):
        cell = jnp.clip(state.observation + moves[action], 0, size - 1)
        return state.following(cell, jnp.where((cell == task.goal).all(), goal_reward, step_reward))

    return TaskEnv(
        sample_task=sample_task,
        reset=reset,
        step=step,
        observation_size=2,
        action_size=len(MOVES),
        horizon=horizon,
        discrete=True,
        name=name,
    )


GRID_NAV = Family(
    name="grid-nav",
    build=grid_nav,
    versions={"varibad2020": {"horizon": 15, "size": 5, "step_reward": -0.1, "goal_reward": 1.0, "near_start": False}},
    formula="1 on the goal's cell, else −0.1; never ends early",
    tasks="the goal is one of the 21 cells of the 5 × 5 grid that are neither the start nor next to it, equally likely",
    observation="the cell (x, y) [2]",
    start="fixed at (0, 0)",
    random_start=False,
    source="VariBAD, Zintgraf et al. 2020, arXiv:1910.08348",
    differences="A trial of the paper has 4 episodes. The cells without goals are as in its code, to our knowledge.",
    ood=Ood(
        "the goal is one of the 3 cells next to the start, which training leaves out",
        lambda options: {"near_start": True},
    ),
    finite=21,
)

FAMILIES = (GRID_NAV,)
