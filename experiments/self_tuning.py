"""Lifetimes with a poorly chosen discount: the fraction of the lost return that online meta-gradients recover.

python experiments/self_tuning.py                                  # ten seeds, minutes on two cores
python experiments/self_tuning.py --updates 300 --output runs/self-tuning

The task is a corridor with a small reward at the near end and a larger one at the far end, both terminal. With a low
discount, an agent learns to prefer the near end, and as it explores less, it gets less evidence of the other end.
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl_jax.runs.console import cli

if TYPE_CHECKING:
    import metarl_jax as mrl

CELLS, START, NEAR, FAR, HORIZON = 10, 2, 0.2, 1.0, 30
GOOD, BAD = "fixed, well chosen", "fixed, badly chosen"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    seeds: int = 10
    """number of independent lifetimes, in one program"""
    first_seed: int = 100
    """the first seed; the others follow (the settings were chosen on seeds 0 to 9)"""
    updates: int = 800
    """updates of an agent in its lifetime"""
    good: float = 0.97
    """a suitable discount"""
    bad: float = 0.5
    """an unsuitable discount, the initial value for self-tuning"""
    outer_lr: float = 0.01
    """Adam's rate if only the discount is tuned"""
    outer_lr_of_five: float = 0.003
    """Adam's rate if all five hyperparameters are tuned; with more, learning rate and value weight become unstable"""
    output: Path = Path("runs/self-tuning")
    """folder of self-tuning.json, returns.png and one plot of θ per self-tuned row"""


def corridor() -> "mrl.TaskEnv":
    """Ten one-hot cells, start in the third: reward 0.2 at the left end, 1 at the right end; both ends terminate."""
    import jax
    import jax.numpy as jnp

    import metarl_jax as mrl

    def state(cell, reward, ended):
        no = jnp.zeros((), bool)
        return mrl.envs.State(jax.nn.one_hot(cell, CELLS, dtype=float), reward, ended, no, cell)

    def step(rewards, before, action):
        cell = jnp.clip(before.internal + 2 * action - 1, 0, CELLS - 1)
        at_near, at_far = cell == 0, cell == CELLS - 1
        return state(cell, jnp.where(at_near, rewards[0], jnp.where(at_far, rewards[1], 0.0)), at_near | at_far)

    return mrl.TaskEnv(
        sample_task=lambda key: jnp.array([NEAR, FAR]),
        reset=lambda key, rewards: state(jnp.asarray(START), jnp.zeros(()), jnp.zeros((), bool)),
        step=step,
        observation_size=CELLS,
        action_size=2,
        discrete=True,
        horizon=HORIZON,
        name="corridor",
    )


def rows(arguments: Arguments) -> dict[str, dict[str, Any]]:
    """Name of each row → its options."""
    start = {"discount": arguments.bad, "outer_lr": arguments.outer_lr}
    return {
        GOOD: {"discount": arguments.good, "tuned": ()},
        BAD: {"discount": arguments.bad, "tuned": ()},
        "self-tuned discount": start | {"tuned": ("discount",)},
        "self-tuned discount, bootstrapped": start | {"tuned": ("discount",), "bootstrap": 4},
        "self-tuned, all five": start | {"outer_lr": arguments.outer_lr_of_five},
    }


# Options of all rows, chosen for the good discount.
COMMON = {
    "episodes": 16,
    "inner_lr": 0.5,
    "entropy_weight": 0.03,
    "normalized": False,
    "return_scale": 1.0,
    "policy": {"hidden": (16,)},
}


def run(options: dict[str, Any], arguments: Arguments) -> tuple[dict[str, np.ndarray], float]:
    """Metrics of all lifetimes, leaves [updates, seeds, ...], and seconds without the first chunk, which compiles."""
    import jax
    import jax.numpy as jnp

    import metarl_jax as mrl

    algorithm = mrl.algorithms.make("self-tuning", corridor(), **COMMON, **options)
    roots = jnp.stack([jax.random.key(arguments.first_seed + seed) for seed in range(arguments.seeds)])
    chunks = list(mrl.training.train(algorithm, roots, arguments.updates, chunk=arguments.updates))
    metrics = {name: np.concatenate([chunk.metrics[name] for chunk in chunks]) for name in chunks[0].metrics}
    return metrics, sum(chunk.seconds for chunk in chunks[1:])


def final(returns: np.ndarray) -> np.ndarray:
    """[seeds] mean return over the last tenth of a lifetime, from [updates, seeds]."""
    return returns[-max(1, len(returns) // 10) :].mean(0)


def recovered(bad: np.ndarray, good: np.ndarray, tuned: np.ndarray, draws: int = 10_000) -> list[float]:
    """(tuned − bad) / (good − bad) of the means over seeds, with a 95 % bootstrap interval over seeds."""

    def share(seeds):
        low, high, reached = (values[seeds].mean(-1) for values in (bad, good, tuned))
        return (reached - low) / (high - low)

    resampled = np.random.default_rng(0).integers(len(bad), size=(draws, len(bad)))
    return [float(share(np.arange(len(bad)))), *map(float, np.percentile(share(resampled), [2.5, 97.5]))]


def four_digits(values: np.ndarray) -> list[list[float]]:
    """[updates, seeds] in the form for the JSON file."""
    return [[float(f"{value:.4g}") for value in row] for row in values]


def draw(returns: dict[str, np.ndarray], path: Path) -> None:
    """Plots mean return against updates, each seed faint."""
    from matplotlib.figure import Figure

    from metarl_jax import plot
    from metarl_jax.runs.storage import files

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    plot.quiet_axes(axes)
    colors = (plot.BLUE, plot.ORANGE, "#1b7837", "#762a83", "#b8860b")
    window = max(1, len(next(iter(returns.values()))) // 50)
    for color, (name, values) in zip(colors, returns.items(), strict=False):  # a row that diverged has no curve
        smoothed = np.stack([plot.smooth(seed, window) for seed in values.T], 1)
        axes.plot(smoothed, color=color, alpha=0.15, linewidth=0.7)
        axes.plot(smoothed.mean(1), color=color, linewidth=1.8, label=name)
    axes.set_xlabel("updates of the agent")
    axes.set_ylabel("return of an episode, undiscounted")
    axes.set_title(f"One life in a corridor: {NEAR} is near, {FAR} is far", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    files.save(figure, path)


def main(argv: Sequence[str]) -> None:
    arguments = cli.parse(Arguments, argv, prog="self_tuning.py", description=__doc__)
    cli.prepare_jax()
    cli.import_modules()

    import metarl_jax as mrl
    from metarl_jax import checks
    from metarl_jax.runs.checkpoint import provenance
    from metarl_jax.runs.pictures import theta_plot
    from metarl_jax.runs.storage import files

    with cli.user_errors():
        checks.integer("seeds", arguments.seeds, 2)
        checks.integer("updates", arguments.updates)
        checks.seeds(arguments.first_seed, arguments.seeds)
        for options in rows(arguments).values():
            mrl.algorithms.make("self-tuning", corridor(), **COMMON, **options)
        arguments.output.mkdir(parents=True, exist_ok=True)
    returns_of, report = {}, []
    for name, options in rows(arguments).items():
        print(f"{name} ...", file=sys.stderr)
        began = time.monotonic()
        try:
            metrics, seconds = run(options, arguments)
        except mrl.training.NonFiniteError as error:
            report.append({"row": name, "diverged": str(error)})
            print(f"{name}: diverged, {error}")
            continue
        returns_of[name] = metrics["return"][:, :, -1]
        reached = final(returns_of[name].astype(np.float64)).round(4)
        row = {"row": name, "options": {option: repr(value) for option, value in options.items()}}
        row |= {"final_return": reached.tolist(), "seconds": round(seconds, 1)}
        row |= {"seconds_with_compilation": round(time.monotonic() - began, 1)}
        if options.get("tuned") != () and {BAD, GOOD} <= returns_of.keys():
            row["recovered"] = recovered(final(returns_of[BAD]), final(returns_of[GOOD]), reached)
        if options.get("tuned") != ():
            every = max(1, arguments.updates // 50)
            row["updates"] = list(range(0, arguments.updates, every))
            row["theta"] = {key: four_digits(metrics[key][::every]) for key in mrl.inner.HYPERPARAMETERS}
            count = np.arange(arguments.updates).repeat(arguments.seeds)
            columns = {key: metrics[key].reshape(-1) for key in mrl.inner.HYPERPARAMETERS}
            columns |= {"iteration": count, "seed": np.tile(np.arange(arguments.seeds), arguments.updates)}
            picture = f"theta-{name.replace(',', '').replace(' ', '-')}.png"
            theta_plot.hyperparameters(columns, arguments.output / picture, title=f"corridor, {name}")
        report.append(row)
        share = "recovered {:.2f} ({:.2f} to {:.2f})".format(*row["recovered"]) if "recovered" in row else ""
        print(f"{name}: return {reached.mean():.3f}, by seed {reached.round(2).tolist()} {share}", flush=True)
    result = {
        "arguments": {name: str(value) for name, value in vars(arguments).items() if name != "output"},
        "common": {option: repr(value) for option, value in COMMON.items()},
        "machine": provenance.machine(),
        "date": str(date.today()),
        "rows": report,
    }
    files.write(arguments.output / "self-tuning.json", json.dumps(result) + "\n")
    if returns_of:
        draw(returns_of, arguments.output / "returns.png")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
