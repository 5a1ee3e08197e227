"""Tasks that change the physics: factors on model parameters, applied inside the compiled program.

A task holds the factors, not the model. The model arrays that a knob scales depend on the backend, and Brax silently
ignores arrays of other backends. Hence the table `FIELDS`; pairs of knob and backend outside it are rejected.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.envs.tasks import DynamicsTask
from metarl_jax.types import Key, PyTree

Changes = Mapping[str, jax.Array]
"""dotted path in Brax's `System` or in MuJoCo's model → replacement array"""

_RIGID = ("generalized", "spring", "positional")
_SOFT = ("spring", "positional")
_MUJOCO = ("mjx", "mujoco")


def _at(path: str, *backends: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(backends, (path,))


_MASS = _at("link.inertia.mass", *_RIGID) | _at("body_mass", *_MUJOCO)
_INERTIA = _at("link.inertia.i", *_RIGID) | _at("body_inertia", *_MUJOCO)

FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "mass": _MASS,
    "inertia": _INERTIA,
    "density": {backend: _MASS[backend] + _INERTIA[backend] for backend in _MASS},
    "friction": _at("geom_friction", *_RIGID, *_MUJOCO),
    "damping": _at("link.constraint_ang_damping", *_SOFT)
    | _at("dof.damping", "generalized")
    | _at("dof_damping", *_MUJOCO),
    "stiffness": _at("link.constraint_stiffness", "spring")
    | _at("dof.stiffness", "generalized")
    | _at("jnt_stiffness", *_MUJOCO),
    "armature": _at("dof.armature", "generalized") | _at("dof_armature", *_MUJOCO),
    "gear": _at("actuator.gear", *_RIGID) | _at("actuator_gear", *_MUJOCO),
    "gravity": _at("gravity", *_RIGID) | _at("opt.gravity", *_MUJOCO),
}
"""knob → backend → the arrays of Brax's `System`, or of MuJoCo's model, that it scales. Mass and inertia are separate
arrays; density scales both, like a denser material."""

SINGLE_FACTOR = ("gravity",)
"""knobs that always take a single factor"""

BASE = {"damping": 1.3}
"""base b of a knob's factors b^u where it differs from 1.5, as in the papers of `walker-params`"""


def fields(knob: str, backend: str) -> tuple[str, ...]:
    """The arrays that a knob scales on a backend, as dotted paths.

    Raises:
        ValueError: there is no such knob, or it has no effect on this backend.
    """
    checks.one_of("dynamics knob", knob, FIELDS)
    if backend not in FIELDS[knob]:
        acts = " or ".join(FIELDS[knob])
        supported = ", ".join(name for name, backends in FIELDS.items() if backend in backends)
        raise ValueError(
            f"knob {knob!r} has no effect on the backend {backend!r}; it acts on {acts} ({backend}: {supported})"
        )
    return FIELDS[knob][backend]


def _array(system: PyTree, path: str) -> jax.Array:
    for name in path.split("."):
        system = getattr(system, name)
    return jnp.asarray(system, float)  # some gears are integers and would truncate a factor


# On spring and positional, Brax uses m^(1 − s) for a mass m, and likewise for inertias; s is part of the robot's model.
# Where s = 1 (ant, hopper), the model's masses have no effect, so scaling them would have none either.
_EXPONENTS = {"link.inertia.mass": "spring_mass_scale", "link.inertia.i": "spring_inertia_scale"}


def _as_simulated(system: PyTree, backend: str, path: str) -> Changes:
    """The array at `path` as the physics uses it, with s set to 0 so that the power is not applied a second time."""
    value = _array(system, path)
    if backend not in _SOFT or path not in _EXPONENTS:
        return {path: value}
    exponent = 1 - _array(system, _EXPONENTS[path])
    if path == "link.inertia.i":  # only diagonals are used; off-diagonal zeros to the power 0 would be 1
        value = jax.vmap(lambda matrix: jnp.diag(jnp.diagonal(matrix) ** exponent))(value)
    else:
        value = value**exponent
    return {path: value, _EXPONENTS[path]: jnp.zeros(())}


def elements(system: PyTree, backend: str, knob: str) -> int:
    """Number of elements a knob scales: links, bodies, geoms, degrees of freedom or actuators."""
    return 1 if knob in SINGLE_FACTOR else len(_array(system, fields(knob, backend)[0]))


def check(system: PyTree, backend: str, knobs: Sequence[str]) -> None:
    """Rejects knobs that would have no effect.

    Args:
        system: the model.
        backend: its backend.
        knobs: names of the parameters to scale.

    Raises:
        ValueError: `knobs` is not a tuple of distinct knobs, or one has no effect on this backend or robot.
    """
    if not isinstance(knobs, tuple | list) or not knobs or len({*map(str, knobs)}) < len(knobs):
        raise ValueError(f"knobs is {knobs!r}; it must be a tuple of different ones of {', '.join(FIELDS)}")
    for knob in knobs:
        for path in fields(knob, backend):
            if not np.any(_array(system, path)):
                raise ValueError(f"knob {knob!r} has no effect on this robot: its {path} is 0 on {backend!r}")


def scaled(system: PyTree, backend: str, *scales: Mapping[str, jax.Array | float]) -> Changes:
    """Each knob's arrays, as the physics uses them, multiplied by its factors: {path: array}.

    Args:
        system: the model.
        backend: its backend.
        *scales: knob → factors, [] for all elements or [elements]; applied one after the other.

    Raises:
        ValueError: a knob does not exist or has no effect on this backend.
    """
    changes: dict[str, jax.Array] = {}
    for knob, factor in (item for scale in scales for item in scale.items()):
        for path in fields(knob, backend):
            if path not in changes:
                changes |= _as_simulated(system, backend, path)
            trailing = [1] * (changes[path].ndim - jnp.ndim(factor))
            changes[path] *= jnp.reshape(factor, (*jnp.shape(factor), *trailing))
    return changes


def sample_scales(
    key: Key,
    system: PyTree,
    backend: str,
    knobs: Sequence[str],
    *,
    per_element: bool,
    exponent_range: tuple[float, float],
) -> DynamicsTask:
    """Factors b^u with u ~ U(exponent_range), independent for each knob and element; b = 1.3 for damping, else 1.5.

    Args:
        key: random key.
        system: the model.
        backend: its backend.
        knobs: names of the parameters to scale.
        per_element: whether each element has its own factor, rather than one factor for all.
        exponent_range: (low, high) of u.

    Raises:
        ValueError: a knob does not exist or has no effect on this backend.
    """
    low, high = exponent_range
    scale: dict[str, Any] = {}
    for knob, knob_key in zip(knobs, jax.random.split(key, len(knobs)), strict=True):
        count = elements(system, backend, knob)
        shape = (count,) if per_element and knob not in SINGLE_FACTOR else ()
        scale[knob] = BASE.get(knob, 1.5) ** jax.random.uniform(knob_key, shape, minval=low, maxval=high)
    return DynamicsTask(scale)
