"""A meta-algorithm in thirty lines, which compiles in no time: loops and run folders need no more."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.runs.checkpoint.states import restore
from metarl_jax.runs.config import AlgorithmConfig, EvaluationConfig, TrainConfig
from metarl_jax.soundness import witnessed
from metarl_jax.types import Adaptation, MetaState
from tests import toys

STEPS, EPISODES = 2, 3
ITERATIONS = 10


def stub_algorithm(
    nan_metric_at: int | slice = -1,
    nan_state_at: int = -1,
    void_at: range | None = None,
    traces: list | None = None,
) -> MetaAlgorithm:
    """Adam on noise: numbers that reveal every lost key, iteration or optimiser moment."""
    optimizer = optax.adam(0.1)
    traces = [] if traces is None else traces
    nans = jnp.array([nan_metric_at] if isinstance(nan_metric_at, int) else range(100)[nan_metric_at])

    def init(key):
        params = {"w": jax.random.normal(key, (3,)), "b": 1.0}
        return MetaState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def update(key, state):
        traces.append("update")
        gradient = jax.tree.map(lambda leaf: leaf + jax.random.normal(key, jnp.shape(leaf)), state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        params["w"] = jnp.where(state.iteration == nan_state_at, jnp.nan, params["w"])
        loss = jnp.where(jnp.isin(state.iteration, nans), jnp.nan, params["b"])
        metrics = {
            "return": jnp.stack([params["w"].sum(), params["w"].max()]),
            "gain": params["w"].max() - params["w"].sum(),
            "loss": loss,
            "environment_steps": jnp.int32(40),
        }
        if void_at is not None:  # iterations whose 8 episodes all diverge
            sound = ~jnp.isin(state.iteration, jnp.array(void_at))
            seen = SimpleNamespace(observation=jnp.where(sound, 1.0, jnp.inf)[None], reward=0.0)
            sound = witnessed(sound, "at reset", seen)
            lost = {"return": jnp.array([jnp.nan, jnp.nan]), "gain": jnp.nan, "environment_steps": 0}
            metrics |= {name: jnp.where(sound, metrics[name], value) for name, value in lost.items()}
            metrics["diverged_episodes"] = jnp.where(sound, 0, 8)
        # A state that turns NaN while its metrics do not.
        metrics = jax.tree.map(lambda x: jnp.where(state.iteration == nan_state_at, jnp.zeros_like(x), x), metrics)
        return MetaState(params, opt_state, state.iteration + 1), metrics

    def adapt(key, params, task, steps=STEPS):
        traces.append("adapt")
        stages = jnp.arange(steps + 1.0)[:, None]
        noise = jax.random.normal(key, (steps + 1, EPISODES))
        lengths = jnp.full(noise.shape, stub_env().horizon)
        return Adaptation(params, task * (1 + stages) + params["w"].sum() + noise, None, lengths)

    return MetaAlgorithm(init, update, adapt, lambda key, params: (params, {}))


def stub_env() -> TaskEnv:
    """Only its tasks are ever used, and the size of an observation."""

    def never(*_):
        raise AssertionError("the stub takes no environment step")

    return TaskEnv(
        sample_task=jax.random.uniform,
        reset=lambda key, task: toys.State(jnp.zeros(1), jnp.zeros(()), jnp.array(False), jnp.array(False)),
        step=never,
        observation_size=1,
        action_size=1,
        horizon=5,
        name="stub",
    )


def make(folder, **changes):
    """The configuration of a run of the stub."""
    base = TrainConfig(
        task="stub",
        algorithm="maml",
        iterations=ITERATIONS,
        checkpoint_every=4,
        folder=str(folder),
        algorithm_options=AlgorithmConfig(adaptation_steps=STEPS),
        evaluation=EvaluationConfig(eval_steps=STEPS),
    )
    return dataclasses.replace(base, **changes)


def newest(folder, config):
    """The state of a folder's newest checkpoint."""
    return restore(dataclasses.replace(config, folder=str(folder)))[0]


def assert_same_run(a, b, config):
    """Two folders' metrics byte for byte and states bit for bit."""
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, newest(a, config), newest(b, config))


def contents(folder):
    """Every file's bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
