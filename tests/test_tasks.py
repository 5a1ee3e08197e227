"""A task handed in by hand: the right struct in any kind of numbers works, everything else is refused in words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs import GoalTask, VelocityTask
from metarl_jax.rollout import rollout, trial, unroll, waiting
from tests import toys

# One of each kind of `adapt`: composed, with an update of its own, a memory, a long life.
KINDS = ("maml", "es-maml", "reptile", "rl2", "lpg", "self-tuning")
SIZES = {"tasks": 2, "episodes": 2}


def point():
    return mrl.envs.make("point-nav", horizon=3)


def batch(env):
    return jax.vmap(env.sample_task)(jax.random.split(jax.random.key(1), 5))


WRONG = {
    "several tasks": (GoalTask(goal=np.zeros((5, 2))), r"task is GoalTask\(goal=float64\[5,2\]\)"),
    "one number for two": (GoalTask(goal=0.3), r"task is GoalTask\(goal=0\.3\)"),
    "an array for a struct": (np.zeros(2, np.float32), r"task is float32\[2\]"),
    "another struct": (VelocityTask(target=np.zeros(2)), r"task is VelocityTask"),
    "a tuple for a struct": (((0.3, 0.1),), "task is"),
    "a list that is no array": (GoalTask(goal=[[0.1], 0.2]), "task is GoalTask"),
    "words": (GoalTask(goal="left"), "goal='left'"),
    "nothing": (None, "task is None"),
    "complex numbers": (GoalTask(goal=np.zeros(2, complex)), "complex128"),
}
RIGHT = (
    [0.25, -0.5],
    (0.25, -0.5),
    np.array([0.25, -0.5]),
    np.array([0.25, -0.5], np.float16),
    jnp.array([0.25, -0.5]),
)
LIKE = r"and a task of 'point-nav@finn2017' is like GoalTask\(goal=float32\[2\]\); take one from its sample_task.*vmap"


def shapes(algorithm, task):
    key = jax.random.key(0)
    return jax.eval_shape(lambda: algorithm.adapt(key, algorithm.init(key).params, task))


@pytest.mark.parametrize("name", KINDS)
def test_adapt_refuses_what_is_no_task(name):
    algorithm = mrl.algorithms.make(name, point(), policy={"hidden": (4,)}, **SIZES)
    for task, given in WRONG.values():
        with pytest.raises(ValueError, match=f"{given}.*{LIKE}"):
            shapes(algorithm, task)
    assert shapes(algorithm, GoalTask(goal=[1, 2])).returns.ndim == 2


def test_a_task_in_any_kind_of_numbers_is_the_same_task():
    for given in RIGHT:
        fixed = mrl.envs.fix_task(point(), GoalTask(goal=given)).sample_task(None)
        np.testing.assert_array_equal(fixed.goal, jnp.array([0.25, -0.5]))
        assert fixed.goal.dtype == jnp.zeros(()).dtype


def entries(env):
    """Everything else that takes a task: ``task → …``."""
    policy, memory = toys.small_policy(env), mrl.policies.gru(env, 4)
    key = jax.random.key(0)
    started = waiting(key, env, env.sample_task(key), 2)
    return {
        "rollout": lambda task: rollout(key, env, policy, policy.init(key), task, 2, 3),
        "trial": lambda task: trial(key, env, memory, memory.init(key), task, 2, 3, lambda m, e: e),
        "waiting": lambda task: waiting(key, env, task, 2),
        "unroll": lambda task: unroll(key, env, policy, policy.init(key), task, started, 3),
        "fix_task": lambda task: mrl.envs.fix_task(env, task).sample_task(key),
    }


@pytest.mark.parametrize("entry", ["rollout", "trial", "waiting", "unroll", "fix_task"])
def test_every_other_entry_refuses_it_too(entry):
    take = entries(point())[entry]
    for task, given in WRONG.values():
        with pytest.raises(ValueError, match=f"{given}.*{LIKE}"):
            jax.eval_shape(lambda task=task: take(task))
    jax.eval_shape(lambda: take(GoalTask(goal=[0.1, 0.2])))


# `risky-rooms` has tasks of booleans, `tabular-mdp` a struct of two arrays, `grid-nav` integers.
@pytest.mark.parametrize("family", [n for n, f in mrl.envs.FAMILIES.items() if not f.backends])
def test_no_family_takes_a_batch_for_a_task(family):
    env = mrl.envs.make(family)
    policy, key = toys.small_policy(env), jax.random.key(0)

    def run(task):
        return jax.eval_shape(lambda: rollout(key, env, policy, policy.init(key), task, 2, 3))

    run(env.sample_task(key))
    with pytest.raises(ValueError, match=f"a task of '{env.name}' is like"):
        run(batch(env))


def test_kinds_of_numbers_are_not_cut():
    """A half is no integer and no truth value; what holds the value is taken."""
    env = dataclasses.replace(point(), sample_task=lambda key: {"cell": jnp.zeros((), int), "open": jnp.array(True)})
    fix = mrl.envs.fix_task
    assert fix(env, {"cell": np.int8(3), "open": True}).sample_task(None)["cell"].dtype == jnp.zeros((), int).dtype
    for wrong in ({"cell": 0.5, "open": True}, {"cell": 1, "open": 1}, {"cell": 1}, {"cell": 1, "open": True, "a": 0}):
        with pytest.raises(ValueError, match=r"is like \{'cell': int32\[\], 'open': bool\[\]\}"):
            fix(env, wrong)


def test_an_evaluation_in_another_family_is_refused():
    algorithm = mrl.algorithms.make("maml", point(), policy={"hidden": (4,)}, **SIZES)
    theta = algorithm.init(jax.random.key(0)).params
    with pytest.raises(ValueError, match=LIKE):
        mrl.evaluation.evaluate(algorithm, mrl.envs.make("bernoulli-bandit"), jax.random.key(1), theta, num_tasks=2)


def test_other_suites_refuse_it_too():
    pytest.importorskip("gymnax")
    env = mrl.envs.from_gymnax("CartPole-v1", lambda key, p: p.replace(gravity=9 + jax.random.uniform(key)))
    task = env.sample_task(jax.random.key(0))  # its other numbers are Python's
    assert mrl.envs.fix_task(env, task).sample_task(None).gravity == task.gravity
    with pytest.raises(ValueError, match=r"a task of 'gymnax:CartPole-v1' is like EnvParams.*gravity=float32\[\],"):
        mrl.envs.fix_task(env, batch(env))


def test_several_are_adapted_under_vmap():
    env = point()
    algorithm = mrl.algorithms.make("fomaml", env, policy={"hidden": (4,)}, **SIZES)
    keys = jax.random.split(jax.random.key(2), 5)
    adapt = jax.vmap(algorithm.adapt, (0, None, 0))
    out = jax.eval_shape(lambda: adapt(keys, algorithm.init(jax.random.key(0)).params, batch(env)))
    assert out.returns.shape == (5, 2, 2)
