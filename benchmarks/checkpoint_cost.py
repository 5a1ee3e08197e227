"""The cost of a checkpoint after each chunk, as a fraction of the training time.

python benchmarks/checkpoint_cost.py
python benchmarks/checkpoint_cost.py --output benchmarks/results/checkpoint_cost.json

One training run on point-nav, with the usual chunks of about two seconds. A checkpoint follows every second chunk, and
is written during the next one. Hence chunks alternate between those with and those without a concurrent write. The cost
is the time the loop waits, plus the extra duration of chunks with a concurrent write.
"""

import dataclasses
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common


@dataclasses.dataclass(frozen=True)
class Arguments:
    pairs: int = 20
    """chunks of each kind"""
    preset: str = "point-nav"
    """preset with task, algorithm and sizes"""
    output: Path | None = None
    """JSON output file"""


def show(result: dict[str, Any], size: int) -> None:
    """Prints the figures, and the size of the folder in bytes."""
    median, most = result["wait_milliseconds"]
    print(
        f"{result['arguments']['preset']}, chunks of {result['chunk_seconds']:.1f} s; "
        f"{result['machine']}; {result['date']}"
    )
    print(
        f"  the loop waits {median:.1f} ms for a checkpoint (at most {most:.1f}), {result['wait_share']:.2%} of a "
        f"chunk; folder of {size / 2**10:.0f} KiB"
    )
    for name in ("wall", "cpu"):
        ratio = result[f"{name}_ratio"]
        print(
            f"  {name:<5}time of chunks beside a write, waiting included / others: median {ratio['median']:.3f}, "
            f"mean {ratio['mean']:.3f} ± {ratio['standard_error']:.3f}"
        )


def main(arguments: Arguments) -> None:
    from metarl_jax.runs import config as configs
    from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
    from metarl_jax.runs.checkpoint.states import initial_state, root_keys
    from metarl_jax.runs.config import presets
    from metarl_jax.training import train

    config = presets.get(arguments.preset)
    algorithm = configs.build(config).algorithm
    state = initial_state(configs.build(config), config)
    # [pairs, (without, with)]: seconds and CPU-seconds per iteration, and seconds of waiting for `save`.
    wall, cpu, waits, lengths = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), config, state, write=True)
        writing, last, waited = False, 0.0, 0.0
        for number, chunk in enumerate(train(algorithm, root_keys(config), 10**9, state=state, chunk=10**6)):
            used, count = time.process_time() - last, chunk.done - chunk.start
            if number >= 8:  # after compilation, and with constant chunk lengths
                wall.append((writing, (chunk.seconds + waited) / count))
                cpu.append((writing, used / count))
                lengths.append(chunk.seconds)
            if len(wall) >= 2 * arguments.pairs:
                break
            writing, waited, last = not writing, 0.0, time.process_time()
            if writing:
                started = time.perf_counter()
                checkpoints.save(chunk.state, score=0.0)
                waited = time.perf_counter() - started
                waits.append(waited)
        checkpoints.close()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())

    def ratios(of):
        values = {kind: np.array([value for writing, value in of if writing == kind]) for kind in (True, False)}
        pairs = min(map(len, values.values()))
        return values[True][:pairs] / values[False][:pairs]

    result: dict[str, Any] = {
        "machine": common.machine(),
        "date": str(date.today()),
        "arguments": {"preset": arguments.preset},
    }
    result["chunk_seconds"] = float(np.median(lengths))
    result["wait_milliseconds"] = [float(np.median(waits)) * 1e3, float(max(waits)) * 1e3]
    result["wait_share"] = float(np.median(waits) / np.median(lengths))
    for name, of in (("wall", wall), ("cpu", cpu)):
        ratio = ratios(of)
        result[f"{name}_ratio"] = {
            "median": float(np.median(ratio)),
            "mean": float(ratio.mean()),
            "standard_error": float(ratio.std(ddof=1) / np.sqrt(len(ratio))),
        }
    show(result, size)
    if arguments.output:
        common.write(result, arguments.output)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
