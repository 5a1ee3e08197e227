"""MuJoCo's C engine with the interface of Brax's physics: one host callback per control step advances a whole batch.

The compiled program calls `Engine.step` once with all environments, whatever the nesting of vmaps over tasks, episodes
and seeds. The callback runs only numpy and MuJoCo. The solver is not warm-started, so that (q, q̇) is the full state, a
step is a pure function of its arguments, and results do not depend on the number of threads.
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
"""environment variable: number of threads that step the environments; unset: the cores available to this process"""
MOST_MODELS = 1024
"""size of each robot's cache of modified models, 20 to 50 kB each; exceeded if a single step needs more"""


def threads() -> int:
    """Number of threads that share the environments of a step; results do not depend on it.

    Raises:
        ValueError: the environment variable METARL_MUJOCO_THREADS is not a positive integer.
    """
    setting = os.environ.get(THREADS)
    if setting is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return checks.integer(
        f"the environment variable {THREADS}", int(setting) if setting.isascii() and setting.isdecimal() else setting
    )


Arrays = dict[str, np.ndarray]


@struct.dataclass
class Motion:
    """State of one robot."""

    q: jax.Array
    """[nq] MuJoCo's qpos"""
    qd: jax.Array
    """[nv] MuJoCo's qvel"""
    place: jax.Array
    """[3] position of the torso, metres; linear in q"""
    sensed: jax.Array
    """[6] centre of mass of the whole robot, metres, and its velocity, m/s; [0] if the model has no such sensors"""

    @property
    def x(self) -> Any:
        """Link positions in Brax's format, for the torso only: `x.pos` is [1, 3]."""
        return SimpleNamespace(pos=self.place[..., None, :])


@struct.dataclass
class Links:
    """Poses of the bodies."""

    pos: jax.Array
    """[links, 3] metres"""
    rot: jax.Array
    """[links, 4] unit quaternions, w first"""


# Callbacks may run concurrently, but they share the thread pool, MuJoCo's scratch memory and its warning handler.
_LOCK = threading.Lock()


@functools.cache
def _handler() -> tuple[ctypes.c_void_p, int | None]:
    """MuJoCo's pointer to its warning handler, and the address of a handler without effect.

    The latter is C's strlen: a Python function would need the GIL, for which MuJoCo's threads must not wait.
    """
    folder = Path(importlib.import_module("mujoco").__file__ or "").parent
    library = ctypes.CDLL(str(next(folder.glob("*mujoco.*[0-9]*"))))
    return (
        ctypes.c_void_p.in_dll(library, "mju_user_warning"),
        ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value,
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Suppresses MuJoCo's warnings about unstable simulations, which are visible in the states instead."""
    pointer, no_op = _handler()
    before = pointer.value
    pointer.value = no_op
    try:
        yield
    finally:
        pointer.value = before


@functools.cache
def _pool(count: int, process: int) -> Any:
    """MuJoCo's thread pool. Threads do not survive a fork, hence one pool per process."""
    pool = importlib.import_module("mujoco.rollout").Rollout(nthread=count if count > 1 else 0)

    def close():
        if process == os.getpid():
            pool.close()

    atexit.register(close)
    return pool


class Engine:
    """The physics of one robot on the host, on numpy arrays with any leading axes."""

    def __init__(self, robot: str):
        self._mujoco: Any = importlib.import_module("mujoco")
        self._rollout = importlib.import_module("mujoco.rollout")
        self.model, self.start = load(robot)
        self._sensors = self._for_sensors(self.model)
        self.source = SOURCES[robot]
        self.calls = 0
        """number of calls of `step` so far"""
        self._data: list[Any] = []
        self._changed: dict[tuple[tuple[str, ...], bytes], tuple[Any, Any]] = {}

    @property
    def sensed(self) -> int:
        """Number of sensor values returned in addition to q and q̇."""
        return self.model.nsensordata

    def step(
        self, frames: int, q: np.ndarray, qd: np.ndarray, control: np.ndarray, changes: Arrays, ended: Any = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Advances all environments by `frames` physics steps: (q, q̇, sensor values), NaN where an input is not finite.

        Neither those nor environments that have ended are simulated. The latter return 0, which nobody reads.

        Args:
            frames: physics steps; 0 leaves q and q̇ as they are.
            q: [..., nq]
            qd: [..., nv]
            control: [..., nu], constant over the frames.
            changes: dotted path in the model → array [..., *shape in the model].
            ended: [...] bool, whether an environment has ended.
        """
        lead, sizes = q.shape[:-1], (self.model.nq, self.model.nv, self.sensed)
        inputs = np.concatenate([q, qd, control], axis=-1, dtype=float).reshape(math.prod(lead), -1)
        ended = np.broadcast_to(ended, lead).ravel()
        # MuJoCo would replace a non-finite control by 0.
        running = np.isfinite(inputs).all(-1) & ~ended
        results = [np.where(ended, 0, np.nan).astype(q.dtype)[:, None].repeat(size, 1) for size in sizes]
        if running.any():
            changes = {name: value.reshape(len(inputs), -1)[running] for name, value in changes.items()}
            with _LOCK, _silent():
                self.calls += 1
                values = self._advance(frames, inputs[running], changes)
            with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinite
                for result, value in zip(results, values, strict=True):
                    result[running] = value
        q, qd, sensed = (result.reshape(*lead, size) for result, size in zip(results, sizes, strict=True))
        return q, qd, sensed

    def _advance(self, frames: int, inputs: np.ndarray, changes: Arrays) -> tuple[np.ndarray, ...]:
        """(q, q̇, sensor values) [n, size] after `frames` steps from finite inputs [n, nq + nv + nu]."""
        count, nq, nv = threads(), self.model.nq, self.model.nv
        size = self._mujoco.mj_stateSize(self.model, self._mujoco.mjtState.mjSTATE_FULLPHYSICS)
        state, control, cold = np.zeros((len(inputs), size)), inputs[:, None, nq + nv :], np.zeros((1, nv))
        state[:, 1 : 1 + nq + nv] = inputs[:, : nq + nv]
        sensed = np.zeros((len(inputs), 0))
        while len(self._data) < count:
            self._data.append(self._mujoco.MjData(self.model))
        rollout = functools.partial(_pool(count, os.getpid()).rollout, initial_warmstart=cold)
        models, sensors = self._models(len(inputs), changes)
        if frames:
            state = rollout(models, self._data[:count], state, control, nstep=frames)[0][:, -1]
        if self.sensed:  # sensors report the state before a step, so they need one more, whose result is not used
            sensed = rollout(sensors, self._data[:count], state, control, nstep=1)[1][:, -1]
        return state[:, 1 : 1 + nq], state[:, 1 + nq : 1 + nq + nv], sensed

    def poses(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [..., links, 3] and rotations [..., links, 4] of all bodies except the world, for a renderer."""
        rows = q.reshape(-1, q.shape[-1])
        data = self._mujoco.MjData(self.model)
        position, rotation = (np.zeros((len(rows), self.model.nbody - 1, size), q.dtype) for size in (3, 4))
        for i, row in enumerate(rows):
            data.qpos[:] = row
            self._mujoco.mj_kinematics(self.model, data)
            position[i], rotation[i] = data.xpos[1:], data.xquat[1:]
        lead = q.shape[:-1]
        return position.reshape(*lead, *position.shape[1:]), rotation.reshape(*lead, *rotation.shape[1:])

    def _models(self, n: int, changes: Arrays) -> tuple[Any, Any]:
        """(model, model for its sensors): those shared by all environments, or lists [n] with equal models shared."""
        if not changes:
            return self.model, self._sensors
        names = tuple(sorted(changes))
        rows = np.concatenate([changes[name].reshape(n, -1) for name in names], axis=-1, dtype=float)
        keys = [(names, row.tobytes()) for row in rows]
        missing = set(keys) - self._changed.keys()
        if len(self._changed) + len(missing) > MOST_MODELS:
            # Keep the models of the current call, whatever their number: the next step needs them again.
            self._changed = {key: self._changed[key] for key in set(keys) - missing}
        for key in missing:
            self._changed[key] = self._build(*key)
        models, sensors = zip(*(self._changed[key] for key in keys), strict=True)
        return list(models), list(sensors)

    def _build(self, names: tuple[str, ...], content: bytes) -> tuple[Any, Any]:
        """The model with these arrays replaced and MuJoCo's derived constants recomputed, and that for its sensors."""
        model, numbers = self.model.__copy__(), np.frombuffer(content)
        for name in names:
            array = functools.reduce(getattr, name.split("."), model)
            array[...] = numbers[: array.size].reshape(array.shape)
            numbers = numbers[array.size :]
        self._mujoco.mj_setConst(model, self._data[0])
        return model, self._for_sensors(model)

    def _for_sensors(self, model: Any) -> Any:
        """The model without contacts and joint limits, and with a single evaluation per step, if it has sensors.

        The sensors depend on q and q̇ alone, so their values are the same, to the last bit, for a fraction of the time.
        """
        if not self.sensed:
            return model
        model, flags = model.__copy__(), self._mujoco.mjtDisableBit
        model.opt.disableflags |= flags.mjDSBL_CONTACT | flags.mjDSBL_CONSTRAINT
        model.opt.integrator = self._mujoco.mjtIntegrator.mjINT_EULER
        return model


def _on_host(function: Callable, shapes: tuple[jax.ShapeDtypeStruct, ...], *arguments: PyTree) -> Any:
    """Host callback: `function` gets numpy arrays with all leading axes of vmaps; its gradient is 0.

    On a CPU it accesses the program's buffers directly, which saves 0.3 ms per call compared to `jax.pure_callback`; on
    an accelerator, `jax.pure_callback` copies the arrays to the host and back.

    Raises:
        ValueError: the program runs on several devices.
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
    """The engine of a robot, shared by all of its environments."""
    return Engine(robot)


@functools.cache
def mujoco_simulator(robot: str) -> Simulator:
    """The physics of one of `metarl_jax.envs.mujoco_models.SOURCES`, loaded once per process.

    Raises:
        ImportError: gymnasium, whose model files it reads, is not installed.
    """
    threads()  # raises for an invalid value before anything is compiled
    host = engine(robot)
    model, frames = host.model, host.source.frames
    base, slides = torso(model)
    system = System(model, host.start)
    dt = float(model.opt.timestep * frames)
    geometry = {name: getattr(model, name) for name in dir(model) if name.startswith("geom_")}

    def step_host(steps: int, changes: Changes, q, qd, control, ended=False) -> Motion:
        sensed = jnp.zeros(host.sensed, q.dtype)
        if steps or host.sensed:
            shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, q.dtype) for leaf in (q, qd, sensed))
            step = functools.partial(host.step, steps)
            q, qd, sensed = _on_host(step, shapes, q, qd, control, dict(changes), jnp.asarray(ended))
        return Motion(q, qd, jnp.asarray(base, q.dtype) + jnp.asarray(slides, q.dtype) @ q, sensed)

    def init(changes, q, qd):
        return step_host(0, changes, q, qd, jnp.zeros(model.nu, q.dtype))

    def advance(changes, motion, control, ended=False):
        after = step_host(frames, changes, motion.q, motion.qd, control, ended)
        return jax.tree.map(lambda old, new: jnp.where(ended, old, new), motion, after)

    def scene(motion):
        links = model.nbody - 1
        shapes = tuple(jax.ShapeDtypeStruct((links, size), motion.q.dtype) for size in (3, 4))
        position, rotation = _on_host(host.poses, shapes, motion.q)
        system = SimpleNamespace(**geometry, opt=SimpleNamespace(timestep=dt))
        return system, SimpleNamespace(x=Links(position, rotation))

    env = SimpleNamespace(sys=system, action_size=model.nu, backend="mujoco")
    return Simulator(env, jax.jit(init), jax.jit(advance), dt, scene)
