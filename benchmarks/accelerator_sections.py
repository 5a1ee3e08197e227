"""Sections of `benchmarks/accelerator.py` other than its timings; each runs in a separate process."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
TRAIN = [sys.executable, str(ROOT / "experiments" / "train.py")]
EVALUATE = [sys.executable, str(ROOT / "experiments" / "evaluate.py")]


class Report(Protocol):
    """Writes a line of figures immediately."""

    folder: Path
    """folder for other files"""

    def __call__(self, what: str, **figures: Any) -> None: ...


def environment(report: Report, scale: float) -> None:
    """Reports the environment, and the accuracy of a float32 product, a QR decomposition and a first update."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    device = jax.devices()[0]
    versions = {"python": sys.version.split()[0], "jax": jax.__version__, "cpus": os.cpu_count()}
    report("device", kind=device.device_kind, count=jax.device_count(), **versions)
    if shutil.which("nvidia-smi"):
        query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        report("nvidia-smi", says=subprocess.run(command, capture_output=True, text=True).stdout.strip())
    random = np.random.default_rng(0)
    x, w = random.normal(size=(2000, 64)).astype(np.float32), random.normal(size=(64, 64)).astype(np.float32)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    for precision in ("default", "tensorfloat32", "highest"):
        with jax.default_matmul_precision(precision):
            product = np.asarray(jax.jit(jnp.matmul)(x, w))
        report("float32 product", precision=precision, relative_error=_relative(product, exact))
    _least_squares(report, scale)


def _relative(value: Any, exact: Any) -> float:
    import numpy as np

    return float(np.linalg.norm(np.asarray(value, np.float64) - exact) / np.linalg.norm(exact))


def _least_squares(report: Report, scale: float) -> None:
    """Seconds of the R factor of a stage's baseline: in one step, and by blocks of rows."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from metarl_jax.inner.least_squares import blockwise_factor

    random, rows = np.random.default_rng(0), max(200, int(2039 * scale))
    for tasks in (10, 40, 320):
        x = jnp.asarray(random.normal(size=(tasks, rows, 39)), jnp.float32)
        for name, factor in {"at once": lambda x: jnp.linalg.qr(x, mode="r"), "by blocks": blockwise_factor}.items():
            program = jax.jit(jax.vmap(factor))
            jax.block_until_ready(program(x))
            taken = []
            while len(taken) < 7 and sum(taken) < 1:
                began = time.perf_counter()
                jax.block_until_ready(program(x))
                taken.append(time.perf_counter() - began)
            report("QR", how=name, tasks=tasks, rows=rows, columns=39, seconds=sorted(taken)[len(taken) // 2])


def precision(report: Report, scale: float) -> None:
    """Deviation of a gradient and a simulation from the CPU's, by matmul precision."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import metarl_jax as mrl
    from metarl_jax import actions

    cpu, here = jax.devices("cpu")[0], jax.devices()[0]
    sizes = {"tasks": max(2, int(40 * scale)), "episodes": max(4, int(20 * scale))}
    algorithm = mrl.algorithms.make("promp", mrl.envs.make("point-nav", horizon=max(3, int(100 * scale))), **sizes)
    env = mrl.envs.make("cheetah-dir", backend="spring")
    batch, steps = max(4, int(256 * scale)), max(4, int(100 * scale))

    def simulate(key):
        task_key, reset_key, action_key = jax.random.split(key, 3)
        tasks = jax.vmap(env.sample_task)(jax.random.split(task_key, batch))
        start = jax.vmap(env.reset)(jax.random.split(reset_key, batch), tasks)

        def step(state, key):
            state = jax.vmap(env.step)(tasks, state, jax.random.normal(key, (batch, *actions.shape(env))))
            return state, state.observation

        return jax.lax.scan(step, start, jax.random.split(action_key, steps))[1]

    def gradient(key):
        grad, _ = algorithm.gradient(key, algorithm.init(jax.random.key(0)).params)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grad)])

    ways = {"cpu": (cpu, "highest"), "default": (here, "default"), "highest": (here, "highest")}
    results = {}
    for what, function in {"gradient": gradient, "simulation": simulate}.items():
        for name, (device, products) in ways.items():
            with jax.default_device(device), jax.default_matmul_precision(products):
                results[what, name] = np.asarray(jax.jit(function)(jax.device_put(jax.random.key(1), device)))
    for name in ("default", "highest"):
        error = _relative(results["gradient", name], np.asarray(results["gradient", "cpu"], np.float64))
        report("gradient of promp on point-nav against the CPU's", precision=name, relative_error=error)
        apart = np.abs(results["simulation", name] - results["simulation", "cpu"]).max(-1)  # [steps, batch]
        at = [step for step in (1, 2, 5, 10, 20, 50, 100) if step <= steps]
        report(
            "cheetah against the CPU's, median over episodes of the largest difference of an observation",
            precision=name,
            **{f"after_{step}_steps": float(np.median(apart[step - 1])) for step in at},
        )


def tests(report: Report, scale: float) -> None:
    """Runs test files on the device with the command in the docs."""
    files = ["tests/outer/test_meta_gradient.py", "tests/inner/test_baselines.py", "tests/test_rollout.py"]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "--durations=5", *files]
    own = {**os.environ, "XLA_FLAGS": "--xla_gpu_autotune_level=0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    log = report.folder / "tests.log"
    with log.open("w") as output:
        done = subprocess.run(command, cwd=ROOT, env=own, stdout=output, stderr=subprocess.STDOUT, check=False)
    lines = log.read_text(errors="replace").strip().splitlines() or [""]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    report("tests", status=done.returncode, says=lines[-1], failed=failed[:20])


def train(report: Report, run: Path, seconds: float, options: list[str]) -> None:
    """Runs train.py with an accelerator's defaults until the time is up; the run folder is saved as run.tar.gz."""
    began, first = time.time(), None
    command = [*TRAIN, *(options or ["--preset", "cheetah-dir"]), "--folder", str(run)]
    report("command", words=" ".join(command[1:-2]))
    with (report.folder / "train.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None and time.time() - began < seconds:
            time.sleep(0.5)
            table = run / "metrics.csv"
            if first is None and table.exists() and table.read_text().count("\n") > 1:
                first = time.time() - began
                report("first iteration is on disk", seconds=first)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
    timing = (run / "timing.csv").read_text().splitlines() if (run / "timing.csv").exists() else []
    report("trained", status=process.returncode, wall_seconds=time.time() - began, last=timing[-1:])
    _keep(run, report.folder)


def evaluate(report: Report, run: Path) -> None:
    """Runs evaluate.py on the run of `train`, on held-out tasks."""
    began = time.time()
    with (report.folder / "evaluate.log").open("w") as log:
        command = [*EVALUATE, str(run), "--steps", "3"]
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    _keep(run, report.folder)
    report("evaluated", status=status, wall_seconds=time.time() - began)


def _keep(run: Path, out: Path) -> None:
    with tarfile.open(out / "run.tar.gz", "w:gz") as archive:
        archive.add(run, arcname="run")


CHECKS: dict[str, Callable[[Report, float], None]] = {
    "environment": environment,
    "precision": precision,
    "tests": tests,
}
"""Sections without sensitive timings, except for `environment`, which runs alone"""
