"""MuJoCo's C engine behind the same seam as Brax: one call of the host per control step moves a whole batch.

A compiled program calls `Engine.step` back with all environments at once, however many vmaps it stands in: tasks,
episodes, seeds. Only numpy and MuJoCo run there. The solver starts cold at every control step, so that (q, q̇) is the
whole state, a step is a pure function of its arguments, and the number of threads cannot change a bit.
"""

import atexit
import ctypes
import functools
import importlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental.buffer_callback import buffer_callback

from metarl_jax import checks
from metarl_jax.envs.brax_adapter import Simulator
from metarl_jax.envs.dynamics import Changes
from metarl_jax.envs.mujoco_models import SOURCES, System, load, torso
from metarl_jax.types import PyTree

THREADS = "METARL_MUJOCO_THREADS"
"""environment variable: how many threads step the environments; the number of cores of this process if it is not set"""
MOST_MODELS = 1024
"""models with changed physics that are kept for each robot, 20 to 50 kB each; more where one step needs more"""


def threads() -> int:
    """How many threads share the environments of a step; no number depends on it.

    Raises:
        ValueError: the environment variable METARL_MUJOCO_THREADS is not a positive integer.
    """
    given = os.environ.get(THREADS)
    if given is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return checks.integer(
        f"the environment variable {THREADS}", int(given) if given.isascii() and given.isdecimal() else given
    )


@struct.dataclass
class Motion:
    """A moment of one robot."""

    q: jax.Array
    """[nq] MuJoCo's qpos"""
    qd: jax.Array
    """[nv] MuJoCo's qvel"""
    place: jax.Array
    """[3] position of the torso, metres; linear in q"""
    sensed: jax.Array
    """[6] centre of mass of the whole robot, metres, and its velocity, m/s; [0] where they are not reported"""

    @property
    def x(self) -> Any:
        """Positions of links as Brax has them, of the first alone: `x.pos` is [1, 3], the torso's."""
        return SimpleNamespace(pos=self.place[..., None, :])


@struct.dataclass
class Links:
    """Where the bodies are."""

    pos: jax.Array
    """[links, 3] metres"""
    rot: jax.Array
    """[links, 4] unit quaternions, w first"""


# One at a time: the pool, MuJoCo's scratch memory and its handler are shared, and two callbacks may arrive at once.
_LOCK = threading.Lock()


@functools.cache
def _handler() -> tuple[ctypes.c_void_p, int | None]:
    """The library's pointer to a function that gets warnings, and the address of one that does nothing with them.

    It is C's strlen: a function of Python would need the interpreter's lock, inside threads that must not wait for it.
    """
    folder = Path(importlib.import_module("mujoco").__file__ or "").parent
    library = ctypes.CDLL(str(next(folder.glob("*mujoco.*[0-9]*"))))
    return (
        ctypes.c_void_p.in_dll(library, "mju_user_warning"),
        ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value,
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Warnings of unstable simulations go neither to the terminal nor to a file: their states say it."""
    pointer, nothing = _handler()
    before = pointer.value
    pointer.value = nothing
    try:
        yield
    finally:
        pointer.value = before


@functools.cache
def _pool(count: int, process: int) -> Any:
    """MuJoCo's threads; a forked process has none of its parent's and starts its own."""
    pool = importlib.import_module("mujoco.rollout").Rollout(nthread=count if count > 1 else 0)

    def close():
        if process == os.getpid():
            pool.close()

    atexit.register(close)
    return pool


class Engine:
    """The physics of one robot on the host, for numpy arrays of any leading shape."""

    def __init__(self, robot: str):
        self._mujoco: Any = importlib.import_module("mujoco")
        self._rollout = importlib.import_module("mujoco.rollout")
        self.model, self.start = load(robot)
        self.source = SOURCES[robot]
        self.calls = 0
        """of `step`, so far"""
        self._data: list[Any] = []
        self._changed: dict[tuple[tuple[str, ...], bytes], Any] = {}

    @property
    def sensed(self) -> int:
        """Numbers reported beside q and q̇."""
        return self.model.nsensordata

    def step(
        self, frames: int, q: np.ndarray, qd: np.ndarray, control: np.ndarray, changes: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All environments, `frames` steps of physics later: (q, q̇, what is sensed), NaN where an input is not finite.

        Args:
            frames: physics steps; 0 leaves q and q̇ as they are.
            q: [..., nq]
            qd: [..., nv]
            control: [..., nu], held for all frames.
            changes: dotted path in the model → array [..., *its shape].
        """
        model, lead = self.model, q.shape[:-1]
        n, nq, nv = math.prod(lead), model.nq, model.nv
        # Sensors tell of the moment before a step, so one step more is made for them, whose state is not used.
        steps = frames + (self.sensed > 0)
        moment = np.concatenate([q, qd, control], axis=-1, dtype=float).reshape(n, -1)
        broken = ~np.isfinite(moment).all(-1)
        moment[broken] = 0  # MuJoCo would take a control that is not finite for 0
        state = np.zeros((n, self._mujoco.mj_stateSize(model, self._mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        state[:, 1 : 1 + nq + nv] = moment[:, : nq + nv]
        count = threads()
        with _LOCK, _silent():
            self.calls += 1
            while len(self._data) < count:
                self._data.append(self._mujoco.MjData(model))
            states, sensed = _pool(count, os.getpid()).rollout(
                self._models(n, changes),
                self._data[:count],
                state,
                moment[:, None, nq + nv :],
                nstep=steps,
                initial_warmstart=np.zeros((1, nv)),
            )
        if frames:
            state = states[:, frames - 1]
        found = state[:, 1 : 1 + nq], state[:, 1 + nq : 1 + nq + nv], sensed[:, -1]
        with np.errstate(over="ignore", invalid="ignore"):  # to float32, what is larger becomes infinite
            q, qd, sensed = (value.astype(q.dtype) for value in found)
        for value in (q, qd, sensed):
            value[broken] = np.nan
        return q.reshape(*lead, -1), qd.reshape(*lead, -1), sensed.reshape(*lead, self.sensed)

    def poses(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [..., links, 3] and rotations [..., links, 4] of all bodies but the world, for a renderer."""
        rows = q.reshape(-1, q.shape[-1])
        data = self._mujoco.MjData(self.model)
        position, rotation = (np.zeros((len(rows), self.model.nbody - 1, size), q.dtype) for size in (3, 4))
        for i, row in enumerate(rows):
            data.qpos[:] = row
            self._mujoco.mj_kinematics(self.model, data)
            position[i], rotation[i] = data.xpos[1:], data.xquat[1:]
        lead = q.shape[:-1]
        return position.reshape(*lead, *position.shape[1:]), rotation.reshape(*lead, *rotation.shape[1:])

    def _models(self, n: int, changes: dict[str, np.ndarray]) -> Any:
        """The model of all environments, or a list [n] of each one's; those of one task share theirs."""
        if not changes:
            return self.model
        names = tuple(sorted(changes))
        rows = np.concatenate([changes[name].reshape(n, -1) for name in names], axis=-1, dtype=float)
        wanted = [(names, row.tobytes()) for row in rows]
        missing = set(wanted) - self._changed.keys()
        if len(self._changed) + len(missing) > MOST_MODELS:
            # Those of this very call stay, however many they are: the next step asks for the same.
            self._changed = {key: self._changed[key] for key in set(wanted) - missing}
        for key in missing:
            self._changed[key] = self._build(*key)
        return [self._changed[key] for key in wanted]

    def _build(self, names: tuple[str, ...], content: bytes) -> Any:
        """The model with the arrays of these names replaced, and all that MuJoCo computes from them."""
        model, numbers = self.model.__copy__(), np.frombuffer(content)
        for name in names:
            array = functools.reduce(getattr, name.split("."), model)
            array[...] = numbers[: array.size].reshape(array.shape)
            numbers = numbers[array.size :]
        self._mujoco.mj_setConst(model, self._data[0])
        return model


def _on_host(function: Callable, shapes: tuple[jax.ShapeDtypeStruct, ...], *arguments: PyTree) -> Any:
    """`function` of numpy arrays, called by the compiled program with all leading axes of vmaps; its gradient is 0.

    On a CPU it reads and fills the program's own memory, which saves 0.3 ms a call over `jax.pure_callback`; from an
    accelerator that one brings the arrays to the host and back.

    Raises:
        ValueError: several devices share the program.
    """
    devices = math.prod(jax.sharding.get_abstract_mesh().shape.values())
    if devices > 1:
        raise ValueError(
            f"backend 'mujoco' steps all environments in one call of the host, which {devices} devices cannot share; "
            "use one device (devices=1), whose steps all cores share, or a backend of Brax"
        )
    arguments = jax.lax.stop_gradient(arguments)
    if jax.default_backend() != "cpu":
        return jax.pure_callback(
            lambda *arrays: function(*jax.tree.map(np.asarray, arrays)), shapes, *arguments, vmap_method="broadcast_all"
        )

    def fill(context, results, *arrays):
        for result, value in zip(results, function(*jax.tree.map(np.asarray, arrays)), strict=True):
            np.asarray(result)[...] = value

    return buffer_callback(fill, shapes, vmap_method="broadcast_all")(*arguments)


@functools.cache
def engine(robot: str) -> Engine:
    """The one engine of a robot, which all of its environments share."""
    return Engine(robot)


@functools.cache
def mujoco_simulator(robot: str) -> Simulator:
    """The physics of one of `metarl_jax.envs.mujoco_models.SOURCES`, loaded once per process.

    Raises:
        ImportError: gymnasium, whose model files it reads, is not installed.
    """
    threads()  # a wrong number is told before anything is compiled
    host = engine(robot)
    model, frames = host.model, host.source.frames
    base, slides = torso(model)
    system = System(model, host.start)
    dt = float(model.opt.timestep * frames)
    look = {name: getattr(model, name) for name in dir(model) if name.startswith("geom_")}

    def moved(steps: int, changes: Changes, q: jax.Array, qd: jax.Array, control: jax.Array) -> Motion:
        sensed = jnp.zeros(host.sensed, q.dtype)
        if steps or host.sensed:
            shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, q.dtype) for leaf in (q, qd, sensed))
            step = functools.partial(host.step, steps)
            q, qd, sensed = _on_host(step, shapes, q, qd, control, dict(changes))
        return Motion(q, qd, jnp.asarray(base, q.dtype) + jnp.asarray(slides, q.dtype) @ q, sensed)

    def init(changes, q, qd):
        return moved(0, changes, q, qd, jnp.zeros(model.nu, q.dtype))

    def advance(changes, motion, control):
        return moved(frames, changes, motion.q, motion.qd, control)

    def scene(motion):
        links = model.nbody - 1
        shapes = tuple(jax.ShapeDtypeStruct((links, size), motion.q.dtype) for size in (3, 4))
        position, rotation = _on_host(host.poses, shapes, motion.q)
        system = SimpleNamespace(**look, opt=SimpleNamespace(timestep=dt))
        return system, SimpleNamespace(x=Links(position, rotation))

    env = SimpleNamespace(sys=system, action_size=model.nu, backend="mujoco")
    return Simulator(env, jax.jit(init), jax.jit(advance), dt, scene)
