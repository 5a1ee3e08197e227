import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.runs.config import TrainConfig, build


def test_every_key_draws_the_one_task():
    env = mrl.envs.make("grid-nav")
    task = env.sample_task(jax.random.key(3))
    fixed = mrl.envs.fix_task(env, task)
    drawn = jax.vmap(fixed.sample_task)(jax.random.split(jax.random.key(0), 20))
    assert (drawn.goal == task.goal).all()
    assert fixed.name == "grid-nav@varibad2020 with one task"
    state, other = (e.step(task, e.reset(jax.random.key(1), task), jnp.array(2)) for e in (env, fixed))
    jax.tree.map(np.testing.assert_array_equal, state, other)


def test_what_is_no_task_is_refused():
    with pytest.raises(ValueError, match="take one from its sample_task"):
        mrl.envs.fix_task(mrl.envs.make("grid-nav"), jnp.zeros(2))


def test_training_and_evaluation_have_the_same_one():
    config = TrainConfig(task="point-nav", fix_task=5, algorithm="maml")
    tasks = [build(config, split).env.sample_task(jax.random.key(seed)) for seed, split in enumerate(("train", "test"))]
    assert (tasks[0].goal == tasks[1].goal).all()
    assert (tasks[0].goal == mrl.envs.make("point-nav").sample_task(jax.random.key(5)).goal).all()


def test_a_seed_is_asked_for():
    with pytest.raises(ValueError, match="fix_task is -1"):
        TrainConfig(fix_task=-1)
