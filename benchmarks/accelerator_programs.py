"""Named programs for `benchmarks/accelerator.py`: built, compiled side by side in processes, then timed one by one.

A program is a pure function of a flat list of arrays, so that its executable can be handed from the process that
compiled it to the one that times it. Sizes are those of the ProMP paper, times a factor for rehearsals.
"""

import dataclasses
import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Built = tuple[Callable[..., Any], tuple[Any, ...], int]
"""A function, its arguments, and the environment steps that one call takes"""

HORIZON, TASKS, EPISODES = 100, 40, 20


def sized(number: float, scale: float) -> int:
    return max(2, round(number * scale))


@dataclasses.dataclass(frozen=True)
class Program:
    build: Callable[[float], Built]
    precision: str | None = None
    """of products; None: what the library chooses"""
    flags: str = ""
    """XLA_FLAGS to compile it with"""


def bare(task: str, batch: int, *, backend: str = "spring", stages: int = 1, horizon: int = HORIZON) -> Program:
    """`stages` × `horizon` steps of `batch` environments under random actions: no policy, no data kept, no learning."""

    def build(scale: float) -> Built:
        import jax

        from benchmarks.meta_iteration import bare_program

        count, length = sized(batch, scale), sized(horizon, scale)
        env = _make(task, backend=backend, horizon=length)
        return bare_program(env, count, length, stages), (jax.random.key(0),), stages * count * length

    return Program(build)


def _make(task: str, **options: Any) -> Any:
    import metarl_jax as mrl

    return mrl.envs.make(task, **{name: value for name, value in options.items() if value is not None})


def trained(
    name: str,
    task: str,
    *,
    seeds: int = 1,
    only_collect: bool = False,
    tasks: int = TASKS,
    episodes: int = EPISODES,
    horizon: int = HORIZON,
    precision: str | None = None,
    flags: str = "",
    **options: Any,
) -> Program:
    """A meta-iteration of an algorithm, of several seeds by vmap, or its first phase alone."""

    def build(scale: float) -> Built:
        import jax

        import metarl_jax as mrl

        env = _make(task, horizon=sized(horizon, scale))
        sizes = {"tasks": sized(tasks, scale), "episodes": sized(episodes, scale)}
        algorithm = mrl.algorithms.make(name, env, **sizes, **options)
        key = jax.random.key(0)
        if seeds > 1:
            keys = jax.random.split(key, seeds)
            arguments, run = (keys, jax.jit(jax.vmap(algorithm.init))(keys)), jax.vmap(algorithm.update)
        else:
            arguments, run = (key, jax.jit(algorithm.init)(key)), algorithm.update
        if only_collect:

            def run(key, state):
                keys = jax.random.split(key, sizes["tasks"])
                return jax.vmap(lambda k: algorithm.adapt(k, state.params, env.sample_task(k)))(keys)

        run = jax.jit(run)  # so that asking for shapes and compiling trace it once, not twice
        out = jax.eval_shape(run, *arguments)
        # S and N of the trial, which a memory divides otherwise.
        stages = out.returns.shape[1] if only_collect else out[1]["return"].shape[-1]
        per_stage = 1 if name.startswith("rl2") else sizes["episodes"]
        return run, arguments, seeds * sizes["tasks"] * stages * per_stage * env.horizon

    return Program(build, precision, flags)


LOOPS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

PROGRAMS: dict[str, Program] = {
    "bare cheetah spring 800": bare("cheetah-dir", 800, stages=2),
    "promp cheetah": trained("promp", "cheetah-dir"),
    "promp cheetah, collect": trained("promp", "cheetah-dir", only_collect=True),
    "promp cheetah, platform's precision": trained("promp", "cheetah-dir", precision="default"),
    "promp cheetah, loops in command buffers": trained("promp", "cheetah-dir", flags=LOOPS),
    "promp cheetah, deterministic": trained("promp", "cheetah-dir", flags=DETERMINISTIC),
    "promp cheetah, 8 seeds": trained("promp", "cheetah-dir", seeds=8),
    "promp cheetah, 32 seeds": trained("promp", "cheetah-dir", seeds=32),
    "promp cheetah, 400 tasks": trained("promp", "cheetah-dir", tasks=400),
    "bare cheetah spring 400": bare("cheetah-dir", 400),
    "bare cheetah spring 4096": bare("cheetah-dir", 4096),
    "bare cheetah spring 16384": bare("cheetah-dir", 16384),
    "bare cheetah spring 65536": bare("cheetah-dir", 65536),
    "bare ant spring 800": bare("ant-dir", 800),
    "bare ant spring 8192": bare("ant-dir", 8192),
    "bare ant spring 65536": bare("ant-dir", 65536),
    "bare cheetah mjx 800": bare("cheetah-dir", 800, backend="mjx", horizon=20),
    "bare cheetah mjx 8192": bare("cheetah-dir", 8192, backend="mjx", horizon=20),
    "bare ant mjx 800": bare("ant-dir", 800, backend="mjx", horizon=20),
    "promp point-nav": trained("promp", "point-nav"),
    "promp point-nav, 20 tasks": trained("promp", "point-nav", tasks=20),
    "promp point-nav, leave one out": trained("promp", "point-nav", baseline="leave_one_out"),
    "promp point-nav, loops in command buffers": trained("promp", "point-nav", flags=LOOPS),
    "promp point-nav, no command buffers": trained("promp", "point-nav", flags="--xla_gpu_enable_command_buffer="),
    "promp point-nav, 32 seeds": trained("promp", "point-nav", seeds=32),
    "maml-trpo point-nav": trained("maml-trpo", "point-nav"),
    "rl2 point-nav": trained("rl2", "point-nav", episodes=1),
    "promp reacher": trained("promp", "reacher-goal", horizon=50),
    "promp reacher, loops in command buffers": trained("promp", "reacher-goal", horizon=50, flags=LOOPS),
}

GROUPS: tuple[tuple[str, ...], ...] = (
    # Within a group measurements alternate, so that ratios are of neighbours.
    tuple(name for name in PROGRAMS if name == "bare cheetah spring 800" or name.startswith("promp cheetah")),
    tuple(name for name in PROGRAMS if "point-nav" in name),
    tuple(name for name in PROGRAMS if name.startswith("promp reacher")),
    tuple(name for name in PROGRAMS if name.startswith("bare") and name != "bare cheetah spring 800"),
)
"""What is timed together, the most important first"""


def _file(folder: Path, name: str) -> Path:
    return folder / f"{list(PROGRAMS).index(name):02d}.executable"


def compile_to(folder: Path, name: str, scale: float) -> dict[str, Any]:
    """Traces and compiles a program and leaves the executable with its arguments in a folder.

    Returns:
        Seconds of both, and planned memory.
    """
    import contextlib

    import jax
    import numpy as np
    from jax.experimental import serialize_executable

    program = PROGRAMS[name]
    began = time.perf_counter()
    function, arguments, steps = program.build(scale)
    # Plain arrays in flat lists, which any process can hand over: keys as their data, no structs.
    raw = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, arguments)
    is_key = [_is_key(leaf) for leaf in jax.tree.leaves(arguments)]
    structure = jax.tree.structure(arguments)

    def flat(*leaves):
        typed = [jax.random.wrap_key_data(x) if key else x for x, key in zip(leaves, is_key, strict=True)]
        return jax.tree.leaves(function(*jax.tree.unflatten(structure, typed)))

    chosen = jax.default_matmul_precision(program.precision) if program.precision else contextlib.nullcontext()
    with chosen:
        lowered = jax.jit(flat).lower(*jax.tree.leaves(raw))
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    executable, _, _ = serialize_executable.serialize(compiled)
    content = (executable, [np.asarray(leaf) for leaf in jax.tree.leaves(raw)], compiled.out_tree.num_leaves, steps)
    partial = _file(folder, name).with_suffix(".partial")
    partial.write_bytes(pickle.dumps(content))
    partial.rename(_file(folder, name))
    memory = compiled.memory_analysis()
    return {
        "trace_seconds": traced - began,
        "compile_seconds": done - traced,
        "temp_MiB": None if memory is None else memory.temp_size_in_bytes / 2**20,
    }


def _is_key(leaf: Any) -> bool:
    import jax

    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@dataclasses.dataclass
class Job:
    name: str
    process: subprocess.Popen[str]
    log: Path


def farm(folder: Path, names: Sequence[str], scale: float, workers: int, ends: float) -> Iterator[tuple[str, str]]:
    """Compiles the programs in processes of their own, `workers` at a time, until the clock says `ends`.

    Yields:
        A program's name and its process's last line, as each ends: a JSON of figures, or what went wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting, running = list(names), []
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(_start(folder, waiting.pop(0), scale))
        time.sleep(0.2)
        late = time.time() > ends
        for job in list(running):
            if late:
                job.process.kill()
            if job.process.poll() is None and not late:
                continue
            running.remove(job)
            lines = job.log.read_text(errors="replace").strip().splitlines()
            yield job.name, "time was up" if late else (lines[-1] if lines else f"status {job.process.returncode}")
        if late:
            yield from ((name, "time was up") for name in waiting)
            return


def _start(folder: Path, name: str, scale: float) -> Job:
    log = _file(folder, name).with_suffix(".log")
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {PROGRAMS[name].flags}".strip()
    script = "import json, sys, pathlib; from benchmarks.accelerator_programs import compile_to; "
    script += "print(json.dumps(compile_to(pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))))"
    command = [sys.executable, "-c", script, str(folder), name, str(scale)]
    root = Path(__file__).resolve().parent.parent
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    return Job(name, process, log)


class Loaded:
    """A compiled program with its arguments on the device; a call runs it to its end and returns the seconds."""

    def __init__(self, folder: Path, name: str):
        import jax
        from jax.experimental import serialize_executable

        executable, leaves, outputs, self.steps = pickle.loads(_file(folder, name).read_bytes())
        self._leaves = [jax.device_put(leaf) for leaf in leaves]
        takes = jax.tree.structure((tuple(leaves), {}))
        gives = jax.tree.structure([0] * outputs)
        self._program = serialize_executable.deserialize_and_load(
            executable, takes, gives, execution_devices=jax.devices()[:1]
        )

    def __call__(self) -> float:
        import jax

        began = time.perf_counter()
        jax.block_until_ready(self._program(*self._leaves))
        return time.perf_counter() - began


def _prepare_linear_algebra() -> None:
    """An executable from another process calls LAPACK or cuSOLVER, which JAX loads when it first traces such a call."""
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular

    solve_triangular(jnp.linalg.qr(jnp.eye(3), mode="r"), jnp.ones(3)).block_until_ready()


def time_group(folder: Path, names: Sequence[str], rounds: int, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs programs in turn, after a first call of each that counts nowhere.

    Args:
        folder: where their executables are.
        names: of the programs.
        rounds: measurements of each at most.
        seconds: for the group at most; every program is measured once at least.

    Yields:
        A program's name and its figures, or why it has none.
    """
    _prepare_linear_algebra()
    began, loaded, taken = time.time(), {}, {}
    for name in names:
        if not _file(folder, name).exists():
            continue
        try:
            program = Loaded(folder, name)
            first = program()
        except Exception as error:  # a program that does not fit the memory must not end the others' measurement
            yield name, {"failed": f"{type(error).__name__}: {error}"[:300]}
            continue
        loaded[name], taken[name] = program, []
        yield name, {"first_call_seconds": first}
    for _ in range(rounds):
        for name, program in loaded.items():
            taken[name].append(program())
        if time.time() - began > seconds:
            break
    for name, program in loaded.items():
        times = taken[name]
        if times:
            median = statistics.median(times)
            figures = {"seconds": median, "low": min(times), "high": max(times), "rounds": len(times)}
            yield name, figures | {"steps": program.steps, "steps_per_second": program.steps / median}


def figures_of(line: str) -> dict[str, Any]:
    """What a farm's process said of its program."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {"failed": line[:300]}
