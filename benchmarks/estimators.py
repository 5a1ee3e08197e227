"""Bias, noise and cost of all meta-gradient estimators, against exact gradients and large-batch references.

python benchmarks/estimators.py
python benchmarks/estimators.py --output benchmarks/results/estimators.json
python benchmarks/estimators.py --quick --problems bandit

All surrogates have the same first derivative, so estimators with the same baseline share the data of a trial: they are
collected once, and each estimator differentiates its loss on them. `docs/estimators.md` discusses the results.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import metarl_jax as mrl
from benchmarks import common, estimator_report
from benchmarks.estimator_problems import LEARNERS, NETWORK, OTHERS, ZERO, Problem, make, sampled_gradient, simulated
from benchmarks.estimator_report import EXPECTED, NOISE_OF, SAMPLED, against, length, standard_error
from oracles import exact

Estimators = dict[str, tuple[str, dict[str, Any]]]
ESTIMATORS: Estimators = {
    "first order": (OTHERS, {"inner_optimizer": lambda rate: mrl.inner.first_order(mrl.inner.sgd(rate))}),
    "plain": (OTHERS, {"surrogate": "score_function"}),
    "LVC": (OTHERS, {"surrogate": "likelihood_ratio"}),
    "DiCE, no baseline": (ZERO, {"surrogate": "dice"}),
    "DiCE": (OTHERS, {"surrogate": "dice"}),
    "Loaded DiCE 0.9": (OTHERS, {"surrogate": lambda *inputs: mrl.inner.loaded_dice(0.9)(*inputs)}),
    "TMAML": (NETWORK, {"surrogate": "dice"}),
    "plain + credit": (OTHERS, {"surrogate": "score_function", "credit": True}),
    "LVC + credit": (OTHERS, {"surrogate": "likelihood_ratio", "credit": True}),
}
"""Name → baseline and options of `build_parts`. ES-MAML, which has no loss to differentiate, is handled separately."""
EVOLUTION, UNBIASED = "ES-MAML", "plain + credit"
STAGES = 2


@dataclasses.dataclass(frozen=True)
class Arguments:
    problems: tuple[str, ...] = ("bandit", "MDP", "point-nav", "cheetah-vel")
    """names of problems"""
    quick: bool = False
    """a test of about a minute, too noisy to interpret"""
    repeats: int = 9
    """number of time measurements per estimator; 0 omits times and memory"""
    seed: int = 0
    """seed of θ and of all data"""
    output: Path | None = None
    """JSON output file; the plot is written to the same folder"""


# Estimates.


def collector(problem: Problem) -> Callable[..., Any]:
    """``(number of the learner, keys, θ) → data`` per key; the physics compiles once for all learners.

    θ always includes a critic. Learners with another baseline ignore it: it does not affect their policy.
    """
    parts = problem.parts(NETWORK)
    choices = [problem.parts(learner).advantage for learner in LEARNERS]

    def collect(which, key, theta):
        chosen = parts._replace(advantage=lambda phi, trajectory: jax.lax.switch(which, choices, phi, trajectory))
        return mrl.outer.collect_tasks(key, chosen, theta)

    return jax.jit(jax.vmap(collect, (None, 0, None)))


def differentiator(problem: Problem, name: str, estimators: Estimators = ESTIMATORS) -> Callable[..., Any]:
    """``(θ, data of one key) → ∇``, the descent direction for all parts of the algorithm's θ."""
    learner, own = estimators[name]
    loss = mrl.outer.meta_objective(problem.parts(learner, **own)).loss

    def gradient(theta, data):
        if learner != NETWORK:
            theta, data = theta.policy, data.replace(params=data.params.policy)
        return jax.grad(lambda theta: loss(theta, data)[0])(theta)

    return gradient


def flat(tree: Any) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def start(problem: Problem, collect: Callable[..., Any], key: jax.Array, steps: int = 500) -> Any:
    """A random θ with a critic fitted to separate episodes."""
    init_key, data_key = jax.random.split(key)
    theta, loss = problem.parts(NETWORK).adapter.init_meta(init_key), problem.critic().loss
    assert loss is not None
    data = collect(0, jax.random.split(data_key, problem.chunk), theta)
    episodes = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[4:])[:1000], data.trajectory)
    optimizer = optax.adam(3e-3)

    def step(carry, _):
        w, state = carry
        change, state = optimizer.update(jax.grad(loss)(w, episodes, 1.0), state)
        return (optax.apply_updates(w, change), state), None

    w = theta.critic
    (w, _), _ = jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), None, steps))(w)
    return jax.block_until_ready(theta.replace(critic=w))


def estimate(problem: Problem, collect, keys: jax.Array, theta: Any, estimators: Estimators) -> dict[str, np.ndarray]:
    """Ascent directions [K, d] of the policy's parameters per estimator, one per key. All have the same baseline."""
    (learner,) = {learner for learner, _ in estimators.values()}
    each = {name: differentiator(problem, name, estimators) for name in estimators}

    def ascent(data):
        descents = {name: gradient(theta, data) for name, gradient in each.items()}
        return {name: -flat(found.policy if learner == NETWORK else found) for name, found in descents.items()}

    gradients, which = jax.jit(jax.vmap(ascent)), LEARNERS.index(learner)
    chunks = [jax.device_get(gradients(collect(which, some, theta))) for some in keys.reshape(-1, problem.chunk)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]).astype(float) for name in estimators}


def evolve(problem: Problem, keys: jax.Array, theta: Any) -> np.ndarray:
    """ES-MAML's gradients [K, d] of the leave-one-out learner, from separate trials."""
    algorithm = mrl.algorithms.make("es-maml", problem.env, **problem.options(OTHERS))
    gradients = jax.jit(jax.vmap(lambda key: flat(algorithm.gradient(key, theta.policy)[0])))
    return np.concatenate([np.asarray(gradients(some), float) for some in keys.reshape(-1, problem.chunk)])


# References.


def credited(learner: str) -> str:
    """Unbiased estimates of the sampled update's gradient from the learner's data, if there is no exact gradient."""
    return UNBIASED if learner == OTHERS else f"{UNBIASED}, {learner}"


def references(problem: Problem, key: jax.Array, theta: Any, samples: dict[str, np.ndarray]) -> dict[str, Any]:
    """``objective → learner → gradient``: exact gradients [d], or estimates [K, d] whose mean is the reference."""
    if problem.truth is not None:
        truth, rate = problem.truth, problem.inner_lr
        expected = exact.expected_gradient(truth, truth.logits, (rate,)).ravel()
        parts = {learner: problem.parts(learner) for learner in LEARNERS}
        sampled = {
            learner: sampled_gradient(truth, rate, problem.episodes, lambda d, own=own: own.advantage(theta, d)[0])
            for learner, own in parts.items()
        }
        return {SAMPLED: sampled, EXPECTED: dict.fromkeys(LEARNERS, expected)}
    # Only DiCE's inner Hessian is that of the expected return for any baseline; 10 N episodes reduce the other errors.
    episodes, keys = problem.large
    chunk = min(keys, max(1, problem.chunk * problem.episodes // episodes))
    baseline = mrl.inner.leave_one_out(mrl.inner.linear_time())  # N fits, so cheap ones
    large = problem._replace(episodes=episodes, keys=keys, chunk=chunk, others=baseline)
    kind = {"DiCE": ESTIMATORS["DiCE"], "LVC": ESTIMATORS["LVC"]}
    found = estimate(large, collector(large), jax.random.split(key, keys), theta, kind)
    sampled = {learner: samples[credited(learner)] for learner in LEARNERS}
    return {SAMPLED: sampled, EXPECTED: dict.fromkeys(LEARNERS, found["DiCE"]), "LVC": found["LVC"]}


def measure(problem: Problem, seed: int) -> dict[str, Any]:
    """All estimators on one problem."""
    began = time.perf_counter()
    theta_key, key, large_key = jax.random.split(jax.random.key(seed), 3)
    keys, collect = jax.random.split(key, problem.keys), collector(problem)
    theta = start(problem, collect, theta_key)
    samples: dict[str, np.ndarray] = {}
    for learner in LEARNERS:
        chosen = {name: own for name, own in ESTIMATORS.items() if own[0] == learner}
        if problem.truth is None:
            chosen |= {credited(learner): (learner, ESTIMATORS[UNBIASED][1])}
        if chosen:
            samples |= estimate(problem, collect, keys, theta, chosen)
    rows = {name: (samples[name], learner, 1) for name, (learner, _) in ESTIMATORS.items()}
    if problem.evolution:
        rows[EVOLUTION] = evolve(problem, keys, theta), OTHERS, 2
    known = references(problem, large_key, theta, samples)
    norm = length(known[EXPECTED][OTHERS])
    found = {}
    for name, (values, learner, trials) in rows.items():
        per_episode = values.var(0, ddof=1).sum() * trials * STAGES * problem.tasks * problem.episodes
        found[name] = {"baseline": learner, "variance_per_episode": float(per_episode)}
        found[name] |= {"relative_noise": float(np.sqrt(per_episode / NOISE_OF)) / norm}
        for objective in (SAMPLED, EXPECTED):
            reference = known[objective][learner]
            # Without an exact gradient, that of the sampled update is too noisy to be a unit.
            share = norm if problem.truth is None else length(reference)
            paired = objective == SAMPLED and name != EVOLUTION
            found[name][objective] = against(values, reference, share, paired)
    trial = data_return(collect(1, keys[: problem.chunk], theta).trajectory)
    report = {
        "sizes": {name: getattr(problem, name) for name in ("tasks", "episodes", "inner_lr", "keys", "hidden")},
        "environment": problem.env.name,
        "horizon": problem.env.horizon,
        "parameters": next(iter(samples.values())).shape[1],
        "return": trial,
        "norm": {SAMPLED: length(known[SAMPLED][OTHERS]), EXPECTED: norm},
        "reference_error": {
            SAMPLED: standard_error(known[SAMPLED][OTHERS]) / norm,
            EXPECTED: standard_error(known[EXPECTED][OTHERS]) / norm,
        },
        "estimators": found,
    }
    if problem.truth is None:
        report["large"] = dict(zip(("episodes", "keys"), problem.large, strict=True))
        report["LVC at large batches"] = against(known["LVC"], known[EXPECTED][OTHERS], norm, paired=True)
    return report | {"seconds": time.perf_counter() - began}


def data_return(trajectory: mrl.Trajectory) -> list[float]:
    """Mean return of an episode, before and after the inner step."""
    return jnp.where(trajectory.valid, trajectory.reward, 0).sum(-1).mean((0, 1, 3)).tolist()


def costs(arguments: Arguments) -> dict[str, Any]:
    """Milliseconds and working memory of one outer gradient on given data, at a typical size."""
    tasks, horizon = (2, 5) if arguments.quick else (20, 100)
    env = mrl.envs.make("point-nav", horizon=horizon, action_scale=10.0)
    problem = simulated("point-nav", env, (64, 64), tasks=tasks, episodes=tasks, inner_lr=0.1)
    collect, theta = collector(problem), problem.parts(NETWORK).adapter.init_meta(jax.random.key(arguments.seed))
    key = jax.random.split(jax.random.key(arguments.seed), 1)
    data = {
        learner: jax.tree.map(lambda leaf: leaf[0], collect(which, key, theta))
        for which, learner in enumerate(LEARNERS)
    }
    run = {name: jax.jit(differentiator(problem, name)) for name in ESTIMATORS}
    inputs = {name: (theta, data[learner]) for name, (learner, _) in ESTIMATORS.items()}
    compiled = {name: function.lower(*inputs[name]).compile() for name, function in run.items()}
    calls = [lambda name=name: compiled[name](*inputs[name]) for name in compiled]
    seconds = common.alternate(arguments.repeats, *calls)
    rows = {}
    for index, (name, program) in enumerate(compiled.items()):
        wall, cpu = np.median(seconds[:, index], axis=0)
        relative = float(np.median(seconds[:, index, 1] / seconds[:, 0, 1]))
        rows[name] = {
            "milliseconds": 1e3 * wall,
            "cpu_milliseconds": 1e3 * cpu,
            "cpu_times_first_order": relative,
            "megabytes": common.planned_bytes(program) / 1e6,
        }
    return {"sizes": f"point-nav, {tasks} × {tasks} × {horizon}, one inner step, 64 × 64", "estimators": rows}


def main(arguments: Arguments) -> None:
    began = time.perf_counter()
    command = shlex.join(["python", "benchmarks/estimators.py", *sys.argv[1:]])
    results: dict[str, Any] = {"machine": common.machine(), "date": str(date.today())}
    results |= {"command": command, "seed": arguments.seed, "problems": {}}
    print(f"{results['machine']}; {results['date']}; seed {arguments.seed}")
    for name in arguments.problems:
        results["problems"][name] = report = measure(make(name, arguments.quick), arguments.seed)
        print(f"\n{estimator_report.describe(name, report)} ({report['seconds']:.0f} s)\n")
        print(estimator_report.table(report), flush=True)
    if arguments.repeats:
        results["costs"] = costs(arguments)
        print(f"\none outer gradient on given data, {results['costs']['sizes']}; medians of {arguments.repeats}\n")
        print(estimator_report.table_of_costs(results["costs"]))
    results |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time()}
    print(f"\n{results['seconds']:.0f} s in all, {results['cpu_seconds']:.0f} CPU-s")
    if arguments.output:
        common.write(results, arguments.output)
        estimator_report.draw(results["problems"], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
