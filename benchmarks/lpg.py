"""An update rule meta-learned on several families of small tasks, against actor-critic tuned for each family.

python benchmarks/lpg.py                                          # meta-learns, then compares, into runs/lpg
python benchmarks/lpg.py --learn-from tabular-mdp                 # learns from one family
python benchmarks/lpg.py --rules benchmarks/results/lpg-rules     # only compares, with existing rules

Both kinds of agents have the same policy network, initialisation and number of episodes. All step sizes are chosen on
tasks of the training split, by shorter lifetimes; the comparison is on the test split, paired by task.
"""

import dataclasses
import json
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
from benchmarks import common
from benchmarks.lpg_rules import LEARNED_FROM, Rule, Sizes, agents, descent, learn_rules, learned, load_rules
from metarl_jax import inner, outer
from metarl_jax.base import Adapter, MetaAlgorithm, TaskEnv
from metarl_jax.compose import build_parts
from metarl_jax.inner import Fast
from metarl_jax.lifelong import assemble_lives

RATES = (0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
"""candidate step sizes"""
CRITIC_RATES = (0.3, 0.03)
"""candidate step sizes of the value network, relative to the policy's"""
FAMILIES: dict[str, dict[str, Any]] = {
    "tabular-mdp": {"name": "tabular-mdp"},
    "tabular-mdp, 20 states, 20 steps": {"name": "tabular-mdp", "states": 20, "horizon": 20},
    "point-robot": {"name": "point-robot"},
    "grid-nav": {"name": "grid-nav"},
    "point-nav": {"name": "point-nav"},
}
"""tabular-mdp and point-robot: unseen tasks of the training families; the second and grid-nav: other sizes and
horizons; point-nav: another family, with episodes that are five times as long and end at the goal"""


@dataclasses.dataclass(frozen=True)
class Arguments(Sizes):
    learn_from: tuple[str, ...] = tuple(LEARNED_FROM)
    """families for meta-learning, used together"""
    iterations: int = 3600
    """meta-updates, each with one step of θ per family"""
    snapshots: tuple[int, ...] = (225, 450, 900, 1800)
    """additional evaluations after these numbers of meta-updates, with lifetimes of `tuning_updates`"""
    updates: int = 2000
    """updates per lifetime in the comparison"""
    tuning_updates: int = 200
    """updates per lifetime for the choice of step sizes"""
    eval_tasks: int = 24
    """unseen tasks per family, a multiple of `tuning_tasks`"""
    tuning_tasks: int = 12
    """separate tasks for the choice of step sizes"""
    families: tuple[str, ...] = tuple(FAMILIES)
    """families of the comparison"""
    rules: Path | None = None
    """folder of existing rules, instead of meta-learning"""
    output: Path = Path("runs/lpg/lpg.json")
    """JSON output file; the plot and the folder of rules, which is emptied before, have the same stem"""


def actor_critic(
    env: TaskEnv, arguments: Arguments, updates: int, normalized: bool, rate: jax.Array, critic_rate: jax.Array
) -> MetaAlgorithm:
    """Policy gradients with generalised advantages (λ = 0.95) and a value network learned at the same time."""
    critic = inner.value_network(
        env.observation_size, env.horizon, hidden=arguments.hidden, outer_weight=0.0, inner_weight=1.0, residual=False
    )
    parts = build_parts(
        env,
        objective=outer.ratio(),
        baseline=critic,
        lambda_=0.95,
        normalized=normalized,
        policy=agents(env, arguments),
        inner_optimizer=lambda _: descent(rate, critic_rate),
        tasks=1,
        episodes=arguments.episodes,
        adaptation_steps=updates,
    )
    adapter: Adapter = parts.adapter

    def born(key, theta):
        return Fast(parts.policy.init(key), ())

    return assemble_lives(
        parts._replace(adapter=adapter._replace(born=born)), outer.gradient_steps(outer.descent(outer_lr=1.0))
    )


Lives = Callable[..., np.ndarray]
"""``(tasks, *step sizes) → returns [tasks, U + 1]``, means over the environments of an agent"""


def lives(make: Callable[..., MetaAlgorithm], key: jax.Array, size: int) -> Callable[[Any], Lives]:
    """``θ → lifetimes`` of all tasks, `size` at a time, by one compiled program with fixed random draws."""

    @jax.jit
    def some(theta, keys, tasks, *rates):
        adapt = make(*rates).adapt
        return jax.vmap(lambda key, task: adapt(key, theta, task).returns.mean(-1))(keys, tasks)

    def run(theta, tasks, *rates):
        count = len(jax.tree.leaves(tasks)[0])
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
        starts = range(0, count, size)
        chunks = [jax.tree.map(lambda leaf, i=i: leaf[i : i + size], (keys, tasks)) for i in starts]
        return np.concatenate([np.asarray(some(theta, *chunk, *map(jnp.float32, rates))) for chunk in chunks])

    return lambda theta: lambda tasks, *rates: run(theta, tasks, *rates)


def best(run: Lives, tasks: Any, choices: Sequence[tuple[float, ...]]) -> tuple[tuple[float, ...], float]:
    """The step sizes with the highest mean return over a lifetime, and that return; NaN is the worst."""
    scores = [float(np.nan_to_num(run(tasks, *rates).mean(), nan=-np.inf)) for rates in choices]
    index = int(np.argmax(scores))
    return choices[index], scores[index]


def interval(values: np.ndarray) -> list[float]:
    """Mean over tasks, and half the width of its 95 % interval."""
    return [float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))]


def compare(family: str, rules: Sequence[Rule], arguments: Arguments) -> dict[str, Any]:
    """Lifetimes of actor-critic and of the rules on unseen tasks of a family; longer ones for the last rule."""
    env, test = (mrl.envs.make(split=split, **FAMILIES[family]) for split in ("train", "test"))
    *task_keys, life_key = jax.random.split(jax.random.key(arguments.seed + 2), 3)

    def drawn(source, key, count):
        return jax.vmap(lambda i: source.sample_task(jax.random.fold_in(key, i)))(jnp.arange(count))

    others = drawn(env, task_keys[0], arguments.tuning_tasks)
    unseen = drawn(test, task_keys[1], arguments.eval_tasks)
    size = arguments.tuning_tasks

    def by_rule(updates):
        return lives(lambda rate: learned(env, arguments, updates, rate), life_key, size)

    def by_actor_critic(updates, normalized):
        return lives(lambda *rates: actor_critic(env, arguments, updates, normalized, *rates), life_key, size)(())

    short, found = arguments.tuning_updates, []
    for normalized in (False, True):
        run = by_actor_critic(short, normalized)
        found.append((run, normalized, *best(run, others, [(r, c) for r in RATES for c in CRITIC_RATES])))
    run, normalized, chosen, _ = max(found, key=lambda row: row[-1])
    short_lives = run(unseen, *chosen)
    result: dict[str, Any] = {"family": family, "updates": arguments.updates, "tuning_updates": short}
    result["actor_critic_chosen"] = {"rate": chosen[0], "critic_rate": chosen[1], "normalized": normalized}
    result["rules"], of_rule, rate = [], by_rule(short), ()
    for rule in rules:
        rate, _ = best(of_rule(rule.theta), others, [(rate,) for rate in RATES])
        gain = (of_rule(rule.theta)(unseen, *rate) - short_lives).mean(1)
        result["rules"].append({"iterations": rule.iterations, "rate": rate[0], "life_gain": interval(gain)})
        print(f"  {family}, {rule.iterations} meta-updates: {gain.mean():+.2f} in {short} updates", flush=True)
    returns = {
        "actor_critic": by_actor_critic(arguments.updates, normalized)(unseen, *chosen),
        "rule": by_rule(arguments.updates)(rules[-1].theta)(unseen, *rate),
    }
    last = max(arguments.updates // 10, 1)
    for name, values in returns.items():
        gain = values - returns["actor_critic"]
        result[name] = {
            "life": interval(values.mean(1)),
            "end": interval(values[:, -last:].mean(1)),
            "life_gain": interval(gain.mean(1)),
            "end_gain": interval(gain[:, -last:].mean(1)),
            "curve": [round(float(value), 3) for value in smoothed(values.mean(0))],
        }
    show = ", ".join("{} {:.2f} ± {:.2f}".format(name, *result[name]["life"]) for name in returns)
    print("  {}: {}; gain {:+.2f} ± {:.2f}".format(family, show, *result["rule"]["life_gain"]), flush=True)
    return result


def smoothed(curve: np.ndarray) -> np.ndarray:
    """Means over about 300 blocks of updates, to shorten long lifetimes."""
    return np.array([part.mean() for part in np.array_split(curve, min(300, len(curve)))])


def draw(results: dict[str, Any], path: Path) -> None:
    """Plots lifetimes per family (above), and the gain over actor-critic against meta-training (below)."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = results["families"]
    figure, axes = plt.subplots(2, len(rows), figsize=(3.0 * len(rows), 5.4), layout="constrained", squeeze=False)
    labels = {"actor_critic": "actor-critic, tuned", "rule": "learned rule"}
    for (above, below), row in zip(axes.T, rows, strict=True):
        for name, label in labels.items():
            curve = np.asarray(row[name]["curve"])
            updates = (np.arange(len(curve)) + 0.5) * (row["updates"] + 1) / len(curve)
            above.plot(updates, curve, label=label, linewidth=1.2)
        above.set(title=row["family"].replace(", ", ",\n", 1), xlabel="updates of a life", xscale="log")
        iterations = [rule["iterations"] for rule in row["rules"]]
        mean, half = np.array([rule["life_gain"] for rule in row["rules"]]).T
        below.errorbar(iterations, mean, half, marker="o", markersize=3, capsize=2, color="C1")
        below.set_title(f"lives of {row['tuning_updates']}", fontsize=9)
        below.axhline(0, color="0.6", linewidth=0.8)
        below.set(xlabel="meta-updates", xscale="log")
        below.set_xticks(iterations, [str(number) for number in iterations])
        below.minorticks_off()
    axes[0, 0].set_ylabel("return")
    axes[0, 0].legend(frameon=False, fontsize=7)
    axes[1, 0].set_ylabel("gain over actor-critic")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Arguments) -> None:
    machine = common.machine()
    results: dict[str, Any] = {"machine": machine, "date": str(date.today())}
    results["arguments"] = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
    folder = arguments.rules or arguments.output.with_name(f"{arguments.output.stem}-rules")
    for name, known in [
        *((f, LEARNED_FROM) for f in arguments.learn_from),
        *((f, FAMILIES) for f in arguments.families),
    ]:
        if name not in known:
            raise SystemExit(f"{name!r} is none of {', '.join(map(repr, known))}")
    if arguments.rules is not None and not list(arguments.rules.glob("rule-*.npz")):
        raise SystemExit(f"{arguments.rules} has no rule-*.npz")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)  # fail now, not after minutes
    if arguments.rules is None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"learning a rule from {', '.join(arguments.learn_from)}; {machine}; {date.today()}")
        learn_rules(arguments.learn_from, arguments.iterations, arguments.snapshots, arguments, folder)
    some = learned(mrl.envs.make("tabular-mdp"), arguments, 5, 1.0)
    rules = load_rules(folder, jax.eval_shape(some.init, jax.random.key(0)).params)
    results["learning"] = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    print(f"lives of {arguments.updates} updates in {arguments.eval_tasks} unseen tasks:")
    start, results["families"] = time.perf_counter(), []
    for family in arguments.families:
        results["families"].append(compare(family, rules, arguments))
        results["comparison_seconds"] = round(time.perf_counter() - start)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, arguments.output.with_suffix(".png"))
    print(f"written to {arguments.output} and beside it")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
