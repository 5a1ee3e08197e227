"""Rooms with chests: a minimal family in which exploration pays off only if the first episodes do not count."""

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.state import State, first
from metarl_jax.envs.tasks import TreasureTask

PASS, OPEN = 0, 1
"""the two actions"""


def risky_rooms(
    *, name: str, horizon: int, rooms: int, safe_reward: float, treasure_reward: float, cost: float, treasures: int
) -> TaskEnv:
    """A walk through k rooms: r = safe_reward for passing a room, or the content of its chest for opening it.

    Opening a chest pays treasure_reward if it holds a treasure, else −cost; contents are the same in each episode. The
    hidden task is the set of rooms with a treasure, drawn uniformly. Every action leads from room i to room i + 1, and
    from the last room to the first; an episode of k steps visits each room once. The observation is the one-hot room
    [k].

    With the default options, finding the one treasure gains 0.9 per episode, but searching costs 4.65 on average: more
    than four episodes can recover, but nothing if the episodes of the search do not count. The optimal values are
    computed by oracles/bayes_optimal.py.

    Args:
        name: name of the environment.
        horizon: steps per episode, at least k.
        rooms: k ≥ 2.
        safe_reward: reward for passing.
        treasure_reward: reward for opening a chest with a treasure.
        cost: cost of opening an empty chest.
        treasures: number of chests with a treasure, 1 … k − 1.

    Raises:
        ValueError: a number is out of its range, or an episode is too short to visit each room.
    """
    checks.integer("rooms", rooms, least=2)
    safe_reward, treasure_reward = (
        checks.finite(option, value)
        for option, value in {"safe_reward": safe_reward, "treasure_reward": treasure_reward}.items()
    )
    cost = checks.finite("cost", cost)
    if checks.integer("treasures", treasures) >= rooms:
        raise ValueError(f"treasures is {treasures}; with rooms={rooms} it must lie in 1..{rooms - 1}")
    if horizon < rooms:
        raise ValueError(f"horizon is {horizon}; it must be at least rooms, {rooms}, or no episode sees every room")

    def sample_task(key):
        return TreasureTask(jax.random.permutation(key, jnp.arange(rooms) < treasures))

    def reset(key, task):
        return first(jax.nn.one_hot(0, rooms, dtype=float))

    def step(task: TreasureTask, state: State, action: jax.Array):
        content = jnp.where(task.treasure[state.observation.argmax()], treasure_reward, -cost)
        return state.following(jnp.roll(state.observation, 1), jnp.where(action == OPEN, content, safe_reward))

    return TaskEnv(
        sample_task=sample_task,
        reset=reset,
        step=step,
        observation_size=rooms,
        action_size=2,
        horizon=horizon,
        discrete=True,
        name=name,
    )


RISKY_ROOMS = Family(
    name="risky-rooms",
    build=risky_rooms,
    versions={
        "v1": {"horizon": 4, "rooms": 4, "safe_reward": 0.1, "treasure_reward": 1.0, "cost": 3.0, "treasures": 1}
    },
    formula="0.1 for passing a room; for opening its chest 1 if the treasure is in there, else −3; never ends early",
    tasks="the treasure is in one of 4 rooms, equally likely",
    observation="the room, one-hot [4]; every action leads to the next room",
    start="fixed in the first room",
    random_start=False,
    source="this library; its optimal values are known exactly, see docs/exploration.md",
    differences="none: not a benchmark of the literature",
    ood=Ood("one more treasure: in two of the 4 rooms", lambda options: {"treasures": options["treasures"] + 1}),
    finite=4,
)

FAMILIES = (RISKY_ROOMS,)
