"""Fixtures that several test folders share."""

import ctypes
import functools
import gc
import os
from pathlib import Path
from typing import Any, NamedTuple

# Most of the tests' time is compilation of programs that run for milliseconds. Without LLVM's optimisations it halves,
# and with the older of XLA's two code generators for fused loops it halves again; XLA's preset for quick compilation
# saves a sixth of the rest. The second option has no checks: a release that knows it no more takes no notice. The
# others have: without one of them JAX does not start, and says which.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_opt_preset=FAST_COMPILE",
)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as scripts have it; its threads would fight for busy cores

# What one process has compiled no other compiles, nor the next run; `pytest --cache-clear` empties it. A program is
# found by all that it is made from, so what has changed is compiled anew.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "d" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax import algorithms
from metarl_jax.base import TaskEnv

# Tracing makes millions of small objects, of which few are garbage: looking for it was a sixth of its time.
gc.set_threshold(200_000, 50, 100)

LANES, STEPS = 24, 21  # 504 transitions of every family
RANDOM, EXTREME = slice(0, LANES // 2), slice(LANES // 2, LANES)


class Recording(NamedTuple):
    """Episodes of one environment under fixed actions. Families of one robot share its compiled physics."""

    env: TaskEnv
    keys: jax.Array  # [LANES]
    tasks: Any  # [LANES, ...]
    actions: jax.Array  # [LANES, STEPS, ...]; lanes RANDOM, then lanes EXTREME
    run: Any  # (keys, tasks, actions) → states [LANES, STEPS + 1, ...], that of the reset first
    states: Any  # run(keys, tasks, actions)


def record(env: TaskEnv, seed: int = 0, lanes: int = LANES, steps: int = STEPS) -> Recording:
    """Random actions in the first half of the lanes, extreme ones in the second.

    Pure-JAX environments are compiled whole. Those on Brax are stepped by hand: what surrounds the physics runs op by
    op, and the physics is compiled once per robot, not once per family.
    """
    on_brax = bool(envs.card(env.name.split(" ")[0]).backends)
    reset, step = (jax.vmap(f) if on_brax else jax.jit(jax.vmap(f)) for f in (env.reset, env.step))

    def run(keys, tasks, actions):
        states = [reset(keys, tasks)]
        for t in range(actions.shape[1]):
            states.append(step(tasks, states[-1], actions[:, t]))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *states)

    keys = jax.random.split(jax.random.key(seed), lanes)
    tasks = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(seed + 1), lanes))
    random = np.random.default_rng(seed)
    half = lanes // 2
    if env.discrete:
        actions = random.integers(env.action_size, size=(lanes, steps))
        actions[half:] = (env.action_size - 1) * (np.arange(half) % 2)[:, None]
    else:
        actions = random.normal(size=(lanes, steps, env.action_size)).astype(np.float32)
        actions[half:] = 1e6 * np.where(actions[half:] > 0, 1, -1)
    actions = jnp.asarray(actions)
    return Recording(env, keys, tasks, actions, run, run(keys, tasks, actions))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the marks
def pytest_collection_modifyitems(items):
    """One process takes all tests of a file, which share fixtures, and one all that share Brax's recordings."""
    for item in items:
        group = "recording" if "recording" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group.replace("/", ".")))


def _give_back_freed_pages():
    """glibc keeps what was freed for later; then a process that was large once would drop its programs every time."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.fixture(scope="module", autouse=True)
def _memory_of_a_module():
    """Programs stay in memory until their process ends; before there are too many, all are dropped."""
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    if pages * os.sysconf("SC_PAGE_SIZE") > 2 * 2**30:
        jax.clear_caches()
        gc.collect()
        _give_back_freed_pages()


@pytest.fixture(scope="session")
def recording():
    """``name → Recording``; a Brax program takes tens of seconds to compile, so every test of a session shares it."""
    return functools.cache(lambda name: record(envs.make(name)))


@pytest.fixture
def registry():
    """Algorithms that are registered in a test are forgotten afterwards."""
    before = dict(algorithms.ALGORITHMS)
    yield
    algorithms.ALGORITHMS.clear()
    algorithms.ALGORITHMS.update(before)
