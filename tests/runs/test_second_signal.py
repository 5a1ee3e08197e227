"""A script in a device program that does not end, as one that waits in a collective: what signals do to it."""

import os
import signal
import subprocess
import sys
import time

import pytest

# In the main thread, as where devices share a chunk, or in one of its own, which an exit must not wait for.
ENDLESS = """
import functools, sys
import jax, jax.numpy as jnp
from metarl_jax import training
from metarl_jax.runs.console import cli, signals

signals.GRACE = 0.5
loop = jax.jit(lambda x: jax.lax.while_loop(lambda c: c[1] >= 0, lambda c: (c[0] + 1.0, jnp.abs(c[1])), (x, x)))

def program():
    print("running", flush=True)
    return jax.block_until_ready(loop(1.0))

def main(argv):
    loop.lower(1.0).compile()
    with signals.handled(lambda: "go on with --resume") as received, received.patient():
        (training._beside if argv[0] == "beside" else functools.partial)(program)()

sys.exit(cli.run(main))
"""


@pytest.mark.parametrize(
    ("where", "signum", "status"), [("beside", signal.SIGINT, 130), ("in the main thread", signal.SIGTERM, 143)]
)
def test_a_second_signal_ends_a_script_whatever_the_device_does(where, signum, status):
    command = [sys.executable, "-c", ENDLESS, where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "running\n"
            time.sleep(0.2)
            process.send_signal(signum)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.7)  # the first is noted, and what runs may come to its end
            process.send_signal(signum)
            assert process.wait(10) == status
        finally:
            process.kill()
        said = process.stderr.read()
    assert said.count("\n") == 1
    assert said.startswith(f"error: stopped by {signal.Signals(signum).name}")
    assert "--resume" in said


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "wait()"])
def test_a_process_ends_well_while_a_chunk_runs(ending):
    """As that of a script which breaks off the loop of `train`: Python would abort in the thread of the program."""
    code = (
        "import jax, jax.numpy as jnp\nfrom metarl_jax import training\n"
        "loop = jax.jit(lambda x: jax.lax.fori_loop(0, 3_000_000, lambda i, x: jnp.sin(x + i), x))\n"
        "loop = loop.lower(1.0).compile()\n"
        f"wait = training._beside(lambda: jax.block_until_ready(loop(1.0)))\n{ending}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (3 if "3" in ending else 0, "")


def test_one_signal_and_an_end_in_time_are_left_alone():
    code = (
        "import os, signal, time\nfrom metarl_jax.runs.console import signals\nsignals.GRACE = 0.3\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "with signals.insistent():\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.05)\n"
        "time.sleep(0.6); assert signal.set_wakeup_fd(-1) == -1\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=60).returncode == 0
