"""Task structs M: the quantities that vary within a family. Shapes are of one task; a batch has a leading axis B."""

import jax
from flax import struct


@struct.dataclass
class GoalTask:
    """A place to reach or an action to find."""

    goal: jax.Array
    """[D] in the units of the family: metres on the plane (D = 2), action units on the Gaussian bandit (D = 1)"""


@struct.dataclass
class VelocityTask:
    """A forward velocity to hold."""

    target: jax.Array
    """[] metres per second"""


@struct.dataclass
class DirectionTask:
    """A direction to run in."""

    direction: jax.Array
    """[] +1 forwards or −1 backwards; [2] a unit vector on the plane"""


@struct.dataclass
class BanditTask:
    """A Bernoulli bandit."""

    probability: jax.Array
    """[K] probability of a reward of 1 per arm"""


@struct.dataclass
class MDPTask:
    """A finite MDP."""

    transition: jax.Array
    """[X, A, X] P(x'|x, a); the last axis sums to 1"""
    mean_reward: jax.Array
    """[X, A] E[r|x, a]"""


@struct.dataclass
class TreasureTask:
    """Rooms with chests."""

    treasure: jax.Array
    """[K] bool: whether each room's chest holds a treasure"""


@struct.dataclass
class DynamicsTask:
    """Scaled physical parameters."""

    scale: dict[str, jax.Array]
    """knob → factors on the model's values: [] for all elements, or [elements]"""
