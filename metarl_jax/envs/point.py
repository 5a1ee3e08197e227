"""Navigation of a point in the plane, Finn et al. 2017 (MAML, arXiv:1703.03400)."""

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.registry import Family
from metarl_jax.envs.state import State, first
from metarl_jax.envs.tasks import GoalTask

MAX_STEP = 0.1
TOLERANCE = 0.01


def point_nav(*, name: str, horizon: int, action_scale: float, goal_range: tuple[float, float]) -> TaskEnv:
    """s ← s + clip(a / action_scale, ±0.1), r = −‖s − g‖₂ of the new position, from s = (0, 0); observation s [2].

    The episode terminates once |s_x − g_x| < 0.01 and |s_y − g_y| < 0.01. Hidden goal g ~ U(goal_range)².

    Args:
        name: of the environment.
        horizon: steps per episode.
        action_scale: policy outputs are divided by it.
        goal_range: (low, high) of both coordinates of the goal.

    Raises:
        ValueError: an option is out of its range.
    """
    action_scale = checks.positive("action_scale", action_scale)
    low, high = checks.interval("goal_range", goal_range)

    def sample_task(key):
        return GoalTask(jax.random.uniform(key, (2,), minval=low, maxval=high))

    def reset(key, task):
        return first(jnp.zeros(2))

    def step(task: GoalTask, state: State, action: jax.Array):
        position = state.observation + jnp.clip(action / action_scale, -MAX_STEP, MAX_STEP)
        offset = position - task.goal
        return state.following(position, -jnp.linalg.norm(offset), terminated=jnp.all(jnp.abs(offset) < TOLERANCE))

    return TaskEnv(
        sample_task=sample_task, reset=reset, step=step, observation_size=2, action_size=2, horizon=horizon, name=name
    )


POINT_NAV = Family(
    name="point-nav",
    build=point_nav,
    versions={"finn2017": {"horizon": 100, "action_scale": 1.0, "goal_range": (-0.5, 0.5)}},
    formula="−‖s − g‖₂ after s ← s + clip(a, ±0.1); ends when |s_x − g_x| and |s_y − g_y| are both below 0.01",
    tasks="g ~ U[−0.5, 0.5]²",
    observation="s [2]",
    start="fixed at (0, 0)",
    random_start=False,
    source="MAML, Finn et al. 2017, arXiv:1703.03400",
    differences="The code of the 2017 paper also maps policy outputs of ±1 onto ±0.1; that is action_scale=10. "
    "Its descendants clip the output itself, as here.",
)
