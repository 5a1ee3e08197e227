"""An update rule learned on small random MDPs, against actor-critic whose step size is tuned for each family of tasks.

python benchmarks/lpg.py                                     # learns the rule, then compares; see --help for sizes
python benchmarks/lpg.py --rule benchmarks/results/lpg.npz   # compares only, with a rule learned before

Agents of both kinds have the same policy network, are born alike, and see as many episodes. The numbers that
actor-critic has are chosen on tasks of the training split, the comparison is on the test split, paired by task.
"""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import metarl_jax as mrl
from metarl_jax import inner, outer
from metarl_jax.base import Adapter, InnerOptimizer, MetaAlgorithm, TaskEnv
from metarl_jax.compose import build_parts
from metarl_jax.inner import Fast
from metarl_jax.lifelong import assemble_lives

RATES = (0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
"""step sizes to choose from"""
CRITIC_RATES = (0.3, 0.03)
"""those of the value network, in units of the policy's"""
FAMILIES: dict[str, dict[str, Any]] = {
    "tabular-mdp": {"name": "tabular-mdp"},
    "tabular-mdp, 20 states, 20 steps": {"name": "tabular-mdp", "states": 20, "horizon": 20},
    "grid-nav": {"name": "grid-nav"},
    "point-nav": {"name": "point-nav"},
}
"""the rule is learned on the first; the others are as it was never trained, the last has continuous actions"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    iterations: int = 900
    """meta-updates"""
    tasks: int = 32
    """agents that live at a time"""
    episodes: int = 16
    """environments of each"""
    lifetime: int = 100
    """updates of a life while the rule is learned"""
    hidden: tuple[int, ...] = (32,)
    """layers of policies, predictions and values"""
    rule_size: int = 32
    """LSTM units of the rule"""
    prediction_size: int = 8
    """categories of the predictions"""
    inner_lr: float = 2.0
    """step size of the agents that learn by the rule"""
    outer_lr: float = 1e-3
    """Adam's rate for the rule"""
    seed: int = 0
    """of everything"""
    updates: int = 300
    """of a life in the comparison"""
    eval_tasks: int = 48
    """unseen tasks of each family, a multiple of the next"""
    tuning_tasks: int = 12
    """other tasks, on which step sizes are chosen"""
    families: tuple[str, ...] = tuple(FAMILIES)
    """what to compare on"""
    rule: Path | None = None
    """a rule learned before, to leave the learning out"""
    output: Path = Path("benchmarks/results/lpg.json")
    """figures; beside it .png, the picture, and .npz, the rule"""


def learned(env: TaskEnv, arguments: Arguments, updates: int, rate: jax.Array | float) -> MetaAlgorithm:
    return mrl.algorithms.make(
        "lpg",
        env,
        tasks=arguments.tasks,
        episodes=arguments.episodes,
        adaptation_steps=updates,
        lifetime=arguments.lifetime,
        policy={"hidden": arguments.hidden},
        rule_size=arguments.rule_size,
        prediction_size=arguments.prediction_size,
        inner_optimizer=lambda _: descent(rate),
        outer_lr=arguments.outer_lr,
    )


def descent(rate: jax.Array | float, critic: jax.Array | float = 1.0) -> InnerOptimizer:
    """φ ← φ − α ∇φ with an α that may be traced: one program for all step sizes. A critic's is α times its own."""

    def update(gradient, state, params, learned=()):
        rates = {name: rate * critic if name == "critic" else rate for name in params}
        moved = {
            name: jax.tree.map(lambda p, g, name=name: p - rates[name] * g, params[name], gradient[name])
            for name in params
        }
        return moved, state

    return InnerOptimizer(lambda params: (), update)


def actor_critic(
    env: TaskEnv, arguments: Arguments, normalized: bool, rate: jax.Array, critic_rate: jax.Array
) -> MetaAlgorithm:
    """Policy gradients of generalised advantages (λ = 0.95) with a value network that learns beside the policy."""
    critic = inner.value_network(
        env.observation_size, env.horizon, hidden=arguments.hidden, outer_weight=0.0, inner_weight=1.0, residual=False
    )
    parts = build_parts(
        env,
        objective=outer.ratio(),
        baseline=critic,
        lambda_=0.95,
        normalized=normalized,
        policy={"hidden": arguments.hidden},
        inner_optimizer=lambda _: descent(rate, critic_rate),
        tasks=1,
        episodes=arguments.episodes,
        adaptation_steps=arguments.updates,
    )
    adapter: Adapter = parts.adapter

    def born(key, theta):
        return Fast(parts.policy.init(key), ())

    return assemble_lives(
        parts._replace(adapter=adapter._replace(born=born)), outer.gradient_steps(outer.descent(outer_lr=1.0))
    )


def learn_rule(env: TaskEnv, arguments: Arguments) -> tuple[Any, dict[str, list[float]]]:
    """θ, and the mean return over all ages of the agents, every 20 meta-updates."""
    algorithm = learned(env, arguments, 5, arguments.inner_lr)
    state = jax.jit(algorithm.init)(jax.random.key(arguments.seed))

    @jax.jit
    def twenty(key, state):
        keys = jax.random.split(key, 20)
        return jax.lax.scan(lambda s, k: algorithm.update(k, s), state, keys)

    curve, start = {"iteration": [], "return": [], "seconds": []}, time.perf_counter()
    for block in range(arguments.iterations // 20):
        state, metrics = twenty(jax.random.fold_in(jax.random.key(arguments.seed + 1), block), state)
        values = (20 * (block + 1), float(metrics["return"][:, 1:].mean()), time.perf_counter() - start)
        for series, value in zip(curve.values(), values, strict=True):
            series.append(value)
        print(f"  meta-update {values[0]:5d}: return {values[1]:8.3f}, {values[2]:5.0f} s", flush=True)
    return jax.device_get(state.params), curve


Lives = Callable[..., np.ndarray]
"""``(tasks, *step sizes) → returns [tasks, U + 1]``, means over the environments of an agent"""


def lives(make: Callable[..., MetaAlgorithm], theta: Any, key: jax.Array, arguments: Arguments) -> Lives:
    """Lives of all tasks by one compiled program, with the same draws whatever lives there."""

    @jax.jit
    def some(keys, tasks, *rates):
        adapt = make(*rates).adapt
        return jax.vmap(lambda key, task: adapt(key, theta, task).returns.mean(-1))(keys, tasks)

    def run(tasks, *rates):
        count, size = len(jax.tree.leaves(tasks)[0]), arguments.tuning_tasks
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
        starts = range(0, count, size)
        chunks = [jax.tree.map(lambda leaf, i=i: leaf[i : i + size], (keys, tasks)) for i in starts]
        return np.concatenate([np.asarray(some(*chunk, *map(jnp.float32, rates))) for chunk in chunks])

    return run


def best(run: Lives, tasks: Any, choices: Sequence[tuple[float, ...]]) -> tuple[tuple[float, ...], float]:
    """The step sizes with the highest mean return over a life, and that return; NaN counts as the worst."""
    scores = [float(np.nan_to_num(run(tasks, *rates).mean(), nan=-np.inf)) for rates in choices]
    index = int(np.argmax(scores))
    return choices[index], scores[index]


def interval(values: np.ndarray) -> list[float]:
    """Mean over tasks, and half the width of its 95 % interval."""
    return [float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))]


def compare(family: str, theta: Any, arguments: Arguments) -> dict[str, Any]:
    env, test = (mrl.envs.make(split=split, **FAMILIES[family]) for split in ("train", "test"))
    keys = jax.random.split(jax.random.key(arguments.seed + 2), 4)

    def drawn(source, key, count):
        return jax.vmap(lambda i: source.sample_task(jax.random.fold_in(key, i)))(jnp.arange(count))

    others, unseen = drawn(env, keys[0], arguments.tuning_tasks), drawn(test, keys[1], arguments.eval_tasks)
    by_rule = lives(lambda rate: learned(env, arguments, arguments.updates, rate), theta, keys[2], arguments)
    own, _ = best(by_rule, others, [(rate,) for rate in RATES])
    found = []
    for normalized in (False, True):
        run = lives(
            lambda *rates, normalized=normalized: actor_critic(env, arguments, normalized, *rates),
            (),
            keys[2],
            arguments,
        )
        found.append((run, normalized, *best(run, others, [(r, c) for r in RATES for c in CRITIC_RATES])))
    run, normalized, chosen, _ = max(found, key=lambda row: row[-1])
    returns = {
        "actor_critic": run(unseen, *chosen),
        "rule": by_rule(unseen, arguments.inner_lr),
        "rule_tuned": by_rule(unseen, *own),
    }
    last = max(arguments.updates // 10, 1)
    result: dict[str, Any] = {
        "family": family,
        "actor_critic_chosen": {"rate": chosen[0], "critic_rate": chosen[1], "normalized": normalized},
        "rule_chosen_rate": own[0],
    }
    for name, values in returns.items():
        gain = values - returns["actor_critic"]
        result[name] = {
            "life": interval(values.mean(1)),
            "end": interval(values[:, -last:].mean(1)),
            "life_gain": interval(gain.mean(1)),
            "end_gain": interval(gain[:, -last:].mean(1)),
            "curve": [round(float(value), 4) for value in values.mean(0)],
        }
    show = ", ".join("{} {:.2f} ± {:.2f}".format(name, *result[name]["life"]) for name in returns)
    gains = ", ".join("{:+.2f} ± {:.2f}".format(*result[name]["life_gain"]) for name in ("rule", "rule_tuned"))
    print(f"  {family}: {show}; gains {gains}", flush=True)
    return result


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = results["families"]
    figure, axes = plt.subplots(1, len(rows), figsize=(3.2 * len(rows), 3), layout="constrained")
    labels = {"actor_critic": "actor-critic, tuned", "rule": "learned rule", "rule_tuned": "learned rule, α tuned"}
    for axis, row in zip(np.atleast_1d(axes), rows, strict=True):
        for (name, label), style in zip(labels.items(), ("-", "-", "--"), strict=True):
            curve = np.asarray(row[name]["curve"])
            smooth = np.convolve(curve, np.ones(5) / 5, "valid") if len(curve) > 50 else curve
            axis.plot(np.arange(len(smooth)) + 1, smooth, style, label=label, linewidth=1.2)
        axis.set(title=row["family"].replace(", ", ",\n", 1), xlabel="updates")
        axis.set_xscale("log")
    np.atleast_1d(axes)[0].set_ylabel("return")
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)


def save_rule(path: Path, theta: Any) -> None:
    np.savez_compressed(path, **{jax.tree_util.keystr(key): leaf for key, leaf in jax.tree.leaves_with_path(theta)})


def load_rule(path: Path, like: Any) -> Any:
    with np.load(path) as stored:
        return jax.tree.map_with_path(lambda key, leaf: jnp.asarray(stored[jax.tree_util.keystr(key)]), like)


def main(arguments: Arguments) -> None:
    machine = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    machine += f", Python {platform.python_version()}, jax {jax.__version__}"
    env = mrl.envs.make("tabular-mdp")
    results: dict[str, Any] = {"machine": machine, "date": str(date.today())}
    results["arguments"] = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.rule is None:
        print(f"learning a rule on tabular-mdp; {machine}; {date.today()}")
        theta, results["learning"] = learn_rule(env, arguments)
        save_rule(arguments.output.with_suffix(".npz"), theta)
    else:
        shapes = jax.eval_shape(learned(env, arguments, 5, arguments.inner_lr).init, jax.random.key(0)).params
        theta = load_rule(arguments.rule, shapes)
    print(f"lives of {arguments.updates} updates in {arguments.eval_tasks} unseen tasks:")
    start = time.perf_counter()
    results["families"] = [compare(family, theta, arguments) for family in arguments.families]
    results["comparison_seconds"] = round(time.perf_counter() - start)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, arguments.output.with_suffix(".png"))
    print(f"written to {arguments.output} and beside it")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
