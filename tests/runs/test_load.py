"""A run as objects: what `mrl.load` takes from a folder, wherever it is."""

import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

import metarl_jax as mrl
from metarl_jax.runs.config import AlgorithmConfig, EvaluationConfig, PolicyConfig, TrainConfig
from metarl_jax.runs.session import opened
from metarl_jax.training import streams


def run(folder, seeds=1):
    """A folder with the checkpoint that every run starts with."""
    config = TrainConfig(
        task="bernoulli-bandit",
        algorithm="meta-sgd",
        env_option=("arms=3",),
        seed=5,
        seeds=seeds,
        folder=str(folder),
        algorithm_options=AlgorithmConfig(tasks=2, episodes=2),
        policy=PolicyConfig(hidden=(4,)),
        evaluation=EvaluationConfig(eval_tasks=2, eval_steps=1),
    )
    with opened(config, False, False, Console(quiet=True)):
        pass
    return folder


def start(algorithm, seed):
    return algorithm.init(streams(jax.random.key(seed)).init).params


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_is_loaded_from_wherever_it_is(tmp_path):
    where = shutil.copytree(run(tmp_path / "here"), tmp_path / "a folder, ünlike [others]")
    loaded = mrl.load(str(where))
    assert (loaded.iteration, loaded.config.task, loaded.env.action_size) == (0, "bernoulli-bandit", 3)
    equal(loaded.params, start(loaded.algorithm, 5))
    assert "(train)" not in loaded.env.name
    assert mrl.load(where, split="train").env.name != loaded.env.name
    rows = mrl.evaluation.evaluate(loaded.algorithm, loaded.env, jax.random.key(0), loaded.params, num_tasks=2, steps=2)
    assert rows["adapted"].mean.shape == (3,)


def test_of_several_seeds_one_is_chosen(tmp_path):
    folder = run(tmp_path / "three", seeds=3)
    for seed, chosen in ((5, None), (5, 5), (7, 7)):
        loaded = mrl.load(folder, seed=chosen)
        equal(loaded.params, start(loaded.algorithm, seed))
    with pytest.raises(ValueError, match="seed is 8; the run in .* had 5, 6, 7"):
        mrl.load(folder, seed=8)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match="does not exist; experiments/train.py makes one"):
        mrl.load(tmp_path / "nowhere")
    folder = run(tmp_path / "run")
    with pytest.raises(ValueError, match="checkpoint is 'nwest'"):
        mrl.load(folder, checkpoint="nwest")
    with pytest.raises(ValueError, match="split"):
        mrl.load(folder, split="tset")
