"""A point in the plane must find a hidden goal: s ← s + clip(a / action_scale, ±max_step), observation s [2].

Finn et al. 2017 (MAML, arXiv:1703.03400), Rakelly et al. 2019 (PEARL, arXiv:1903.08254), Zintgraf et al. 2020 (VariBAD,
arXiv:1910.08348), Rothfuss et al. 2019 (ProMP, arXiv:1810.06784). Rewards depend on the position after the step.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.state import State, first
from metarl_jax.envs.tasks import GoalTask
from metarl_jax.types import Key

TOLERANCE = 0.01
CORNERS = ((2.0, 2.0), (-2.0, 2.0), (-2.0, -2.0), (2.0, -2.0))
EDGES = ((2.0, 0.0), (0.0, 2.0), (-2.0, 0.0), (0.0, -2.0))


def _point_env(
    name: str,
    horizon: int,
    action_scale: float,
    sample_goal: Callable[[Key], jax.Array],
    reward: Callable[[jax.Array], jax.Array],
    *,
    max_step: float = 0.1,
    start_range: float = 0.0,
    arrived: Callable[[jax.Array], jax.Array] | None = None,
) -> TaskEnv:
    """A point family. `reward` and `arrived` (end of episode) are functions of s − g [2]. Start ~ U[±start_range]²."""
    action_scale = checks.positive("action_scale", action_scale)

    def reset(key, task):
        if start_range == 0:
            return first(jnp.zeros(2))
        return first(jax.random.uniform(key, (2,), minval=-start_range, maxval=start_range))

    def step(task: GoalTask, state: State, action: jax.Array):
        position = state.observation + jnp.clip(action / action_scale, -max_step, max_step)
        offset = position - task.goal
        terminated = None if arrived is None else arrived(offset)
        return state.following(position, reward(offset), terminated=terminated)

    return TaskEnv(
        sample_task=lambda key: GoalTask(sample_goal(key)),
        reset=reset,
        step=step,
        observation_size=2,
        action_size=2,
        horizon=horizon,
        name=name,
    )


def _distance(offset: jax.Array) -> jax.Array:
    return -jnp.linalg.norm(offset)


def point_nav(
    *, name: str, horizon: int, action_scale: float, goal_range: tuple[float, float], goal_hole: float
) -> TaskEnv:
    """r = −‖s − g‖₂ from s = (0, 0), steps of ±0.1 at most, hidden g ~ U(goal_range)².

    The episode terminates once |s_x − g_x| < 0.01 and |s_y − g_y| < 0.01.

    Args:
        name: name of the environment.
        horizon: steps per episode.
        action_scale: policy outputs are divided by it.
        goal_range: (low, high) of both coordinates of the goal.
        goal_hole: excludes goals from a concentric square, as a fraction of the width.

    Raises:
        ValueError: an option is out of its range.
    """
    bounds, hole = checks.interval("goal_range", goal_range), checks.share("goal_hole", goal_hole)

    def arrived(offset):
        return jnp.all(jnp.abs(offset) < TOLERANCE)

    return _point_env(
        name, horizon, action_scale, lambda key: sampling.in_square(key, bounds, hole), _distance, arrived=arrived
    )


def point_robot(
    *, name: str, horizon: int, action_scale: float, goal_range: tuple[float, float], goal_hole: float
) -> TaskEnv:
    """r = −‖s − g‖₂ from a random start s ~ U[−1, 1]², steps of ±0.1 at most, hidden g ~ U(goal_range)²; never ends.

    Raises:
        ValueError: an option is out of its range.
    """
    bounds, hole = checks.interval("goal_range", goal_range), checks.share("goal_hole", goal_hole)
    return _point_env(
        name, horizon, action_scale, lambda key: sampling.in_square(key, bounds, hole), _distance, start_range=1.0
    )


def point_sparse(
    *, name: str, horizon: int, action_scale: float, angle_range: tuple[float, float], goal_radius: float
) -> TaskEnv:
    """r = 1 − ‖s − g‖₂ within `goal_radius` of g, else 0, from s = (0, 0), steps of ±0.1 at most. Never ends early.

    Args:
        name: name of the environment.
        horizon: steps per episode.
        action_scale: policy outputs are divided by it.
        angle_range: range (radians) of the angle of g, which is uniform on an arc of the unit circle.
        goal_radius: radius around g within which the reward is not 0.

    Raises:
        ValueError: an option is out of its range.
    """
    angles, radius = checks.interval("angle_range", angle_range), checks.positive("goal_radius", goal_radius)

    def reward(offset):
        distance = jnp.linalg.norm(offset)
        return jnp.where(distance <= radius, 1 - distance, 0)

    return _point_env(name, horizon, action_scale, lambda key: sampling.on_circle(key, angles), reward)


def point_corners(
    *, name: str, horizon: int, action_scale: float, goals: tuple[tuple[float, float], ...], goal_radius: float
) -> TaskEnv:
    """r = max(goal_radius − ‖s − g‖₂, 0) from s ~ U[−0.2, 0.2]², steps of ±0.2 at most, hidden g uniform over `goals`.

    Raises:
        ValueError: an option is out of its range.
    """
    radius = checks.positive("goal_radius", goal_radius)
    pairs = isinstance(goals, tuple | list) and all(np.shape(goal) == (2,) for goal in goals)
    if not pairs or not goals or not np.isfinite(goals).all():
        raise ValueError(f"goals is {goals!r}; it must be a tuple of pairs (x, y)")
    places = np.array(goals, float)

    def reward(offset):
        return jnp.maximum(radius - jnp.linalg.norm(offset), 0)

    return _point_env(
        name,
        horizon,
        action_scale,
        lambda key: jnp.asarray(places, float)[jax.random.randint(key, (), 0, len(places))],
        reward,
        max_step=0.2,
        start_range=0.2,
    )


POINT_NAV = Family(
    name="point-nav",
    build=point_nav,
    versions={"finn2017": {"horizon": 100, "action_scale": 1.0, "goal_range": (-0.5, 0.5), "goal_hole": 0.0}},
    formula="−‖s − g‖₂ after s ← s + clip(a, ±0.1); ends when |s_x − g_x| and |s_y − g_y| are both below 0.01",
    tasks="g ~ U[−0.5, 0.5]²",
    observation="s [2]",
    start="fixed at (0, 0)",
    random_start=False,
    source="MAML, Finn et al. 2017, arXiv:1703.03400",
    differences="The code of the 2017 paper also maps policy outputs of ±1 onto ±0.1; that is action_scale=10. "
    "Its descendants clip the output itself, as here.",
    ood=Ood("g uniform in [−0.75, 0.75]² outside [−0.5, 0.5]²", sampling.around("goal_range")),
)

POINT_ROBOT = Family(
    name="point-robot",
    build=point_robot,
    versions={"pearl2019": {"horizon": 20, "action_scale": 1.0, "goal_range": (-1.0, 1.0), "goal_hole": 0.0}},
    formula="−‖s − g‖₂ after s ← s + clip(a, ±0.1); never ends early",
    tasks="g ~ U[−1, 1]²",
    observation="s [2]",
    start="s ~ U[−1, 1]²",
    random_start=True,
    source="PEARL, Rakelly et al. 2019, arXiv:1903.08254",
    differences="The code of the paper maps policy outputs of ±1 onto ±0.1; that is action_scale=10.",
    ood=Ood("g uniform in [−1.5, 1.5]² outside [−1, 1]²", sampling.around("goal_range")),
)

_SPARSE = {"action_scale": 1.0, "angle_range": (0.0, math.pi), "goal_radius": 0.2}
POINT_SPARSE = Family(
    name="point-sparse",
    build=point_sparse,
    versions={"pearl2019": {"horizon": 20} | _SPARSE, "varibad2020": {"horizon": 100} | _SPARSE},
    formula="1 − ‖s − g‖₂ within 0.2 of g, else 0, after s ← s + clip(a, ±0.1); never ends early",
    tasks="g on the unit half circle, its angle ~ U(0, π)",
    observation="s [2]",
    start="fixed at (0, 0)",
    random_start=False,
    source="PEARL, Rakelly et al. 2019, arXiv:1903.08254; VariBAD, Zintgraf et al. 2020, arXiv:1910.08348",
    differences="The papers' trials have 3 episodes. PEARL trains on the dense reward and tests on this one.",
    ood=Ood("g on the other half circle, its angle ~ U(π, 2π)", sampling.opposite("angle_range")),
)

POINT_CORNERS = Family(
    name="point-corners",
    build=point_corners,
    versions={"promp2019": {"horizon": 100, "action_scale": 50.0, "goals": CORNERS, "goal_radius": 0.5}},
    formula="max(0.5 − ‖s − g‖₂, 0) after s ← s + clip(a/50, ±0.2); never ends early",
    tasks="g ∈ {(±2, ±2)}, equally likely",
    observation="s [2]",
    start="s ~ U[−0.2, 0.2]²",
    random_start=True,
    source="ProMP, Rothfuss et al. 2019, arXiv:1810.06784",
    differences="The paper maps policy outputs of ±10 onto ±0.2, hence the action_scale. "
    "The start is that of the paper's code, jonasrothfuss/ProMP, point_env_2d_corner.py. The reward is not: there it "
    "is 0 within ‖s‖₁ < 0.5 and, beyond it, the progress towards g where g is the nearest corner, else 0.",
    ood=Ood("g ∈ {(±2, 0), (0, ±2)}: the middles of the edges", lambda options: {"goals": EDGES}),
    finite=4,
)

FAMILIES = (POINT_NAV, POINT_ROBOT, POINT_SPARSE, POINT_CORNERS)
