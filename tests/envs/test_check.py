"""envs.check on planted faults: each is named. That it finds nothing in shipped families is in tests/contract."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import metarl_jax as mrl
from metarl_jax.envs import State


@struct.dataclass
class Walk:
    """A state with room for what a fault hides in it."""

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    place: jax.Array
    task: jax.Array | None = None


def walk(place, reward=0.0, observation=None, task=None, terminated=False):
    observation = place if observation is None else observation
    return Walk(observation, jnp.asarray(reward, float), jnp.asarray(terminated), jnp.asarray(False), place, task)


def sample_task(key):
    return {"goal": jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)}


def reset(key, task):
    return walk(0.1 * jax.random.normal(key, (2,)))


def moved(state, action):
    return state.place + 0.1 * jnp.clip(action, -1, 1)


def distance(task, place):
    return -jnp.linalg.norm(place - task["goal"])


def step(task, state, action):
    place = moved(state, action)
    return walk(place, distance(task, place))


SOUND = mrl.TaskEnv(
    sample_task=sample_task, reset=reset, step=step, observation_size=2, action_size=2, horizon=40, name="sound"
)


def step_with_python_if(task, state, action):
    if action[0] > 0:
        return state
    return step(task, state, action)


def reset_that_overwrites(key, task):
    task["goal"] = jax.random.normal(key, (2,))
    return reset(key, task)


def step_that_drifts(task, state, action):
    task["goal"] = task["goal"] + 0.01
    return step(task, state, action)


def reset_with_own_task(key, task):
    return reset(key, task).replace(task={"goal": jax.random.normal(key, (2,))})


def step_with_own_task(task, state, action):
    place = moved(state, action)
    return walk(place, distance(state.task, place), task=state.task)


def reset_that_shows_the_goal(key, task):
    state = reset(key, task)
    return state.replace(observation=jnp.concatenate([state.place, task["goal"]]))


def step_that_shows_the_goal(task, state, action):
    place = moved(state, action)
    return walk(place, distance(task, place), jnp.concatenate([place, task["goal"]]))


def reset_that_hides_the_goal(key, task):
    state = reset(key, task)
    return state.replace(observation=jnp.concatenate([state.place, jnp.zeros(2)]))


def step_that_shows_the_way(task, state, action):
    place = moved(state, action)
    return walk(place, distance(task, place), jnp.concatenate([place, place - task["goal"]]))


def step_with_wind(task, state, action):
    place = moved(state, action) + 0.01 * task["goal"] * jnp.abs(action[0])
    return walk(place, distance(task, place))


def step_without_task(task, state, action):
    place = moved(state, action)
    return walk(place, -jnp.linalg.norm(place - 1.0))


def step_unclipped(task, state, action):
    place = state.place + 0.1 * action
    return walk(place, distance(task, place), observation=place + 0 * jnp.exp(jnp.abs(place)))


def step_that_breaks_midway(task, state, action):
    place = moved(state, action)
    return walk(place, jnp.sqrt(1.1 - jnp.linalg.norm(place)) + distance(task, place))


hidden = itertools.count()


def step_with_numpy_noise(task, state, action):
    noise = 0.1 * np.random.default_rng(next(hidden)).normal(size=2)
    place = moved(state, action) + noise
    return walk(place, distance(task, place))


FAULTS = {
    "python if": ({"step": step_with_python_if}, ["step cannot be traced by jax.jit", "Python `if`"]),
    "not jittable at reset": (
        {"reset": lambda key, task: walk(jnp.asarray(np.asarray(task["goal"])))},
        ["reset cannot be traced by jax.jit"],
    ),
    "task overwritten by reset": ({"reset": reset_that_overwrites}, ["reset changes the task that it is given"]),
    "task drifts": ({"step": step_that_drifts}, ["step changes the task that it is given"]),
    "task redrawn by reset": (
        {"reset": reset_with_own_task, "step": step_with_own_task},
        ["reset draws the task anew", "rewards ignore the task"],
    ),
    "goal observed": (
        {"reset": reset_that_shows_the_goal, "step": step_that_shows_the_goal, "observation_size": 4},
        ["observation at reset shows the task"],
    ),
    "goal observed after the first step": (
        {"reset": reset_that_hides_the_goal, "step": step_that_shows_the_goal, "observation_size": 4},
        ["observation shows the task after the first step"],
    ),
    "way to the goal observed after the first step": (
        {"reset": reset_that_hides_the_goal, "step": step_that_shows_the_way, "observation_size": 4},
        ["observation shows the task after the first step"],
    ),
    "episodes start alike": ({"reset": lambda key, task: walk(jnp.zeros(2))}, ["every episode starts alike"]),
    "rewards ignore the task": ({"step": step_without_task}, ["rewards ignore the task"]),
    "NaN under extreme actions": (
        {"step": step_unclipped},
        ["extreme (±1e6) actions make the observation NaN or infinite, first after 1 steps: observation["],
    ),
    "NaN under random actions": (
        {"step": step_that_breaks_midway},
        ["random actions make the reward NaN or infinite", "extreme (±1e6) actions make the reward NaN"],
    ),
    "observation of another size": ({"observation_size": 3}, ["observation of reset has shape (2,); it must be (3,)"]),
    "observation that is no tree": (
        {"observation_size": None, "observation_shape": {"eye": (2,)}},
        ["observation of reset is one array of shape (2,); it must be {'eye': (2,)}"],
    ),
    "observation of another dtype": (
        {"observation_size": None, "observation_shape": jax.ShapeDtypeStruct((2,), jnp.int32)},
        ["observation of reset has dtype float32; observation_shape says int32"],
    ),
    "reward of a shape": (
        {"step": lambda task, state, action: step(task, state, action).replace(reward=jnp.zeros(1))},
        ["reward of step has shape (1,); it must be ()"],
    ),
    "reward of another dtype": (
        {"step": lambda task, state, action: step(task, state, action).replace(reward=jnp.zeros((), int))},
        ["reward of step has dtype int32; it must be float"],
    ),
    "end as a float": (
        {"step": lambda task, state, action: step(task, state, action).replace(terminated=jnp.zeros(()))},
        ["terminated of step has dtype float32; it must be bool"],
    ),
    "observation of complex numbers": (
        {"reset": lambda key, task: reset(key, task).replace(observation=jnp.zeros(2, complex))},
        ["observation of reset has dtype complex64; it must be bool, integer or float"],
    ),
    "a field is missing": (
        {"reset": lambda key, task: {"observation": jnp.zeros(2)}},
        ["the state of reset has no field 'observation'", "has no field 'truncated'"],
    ),
    "another tree after a step": (
        {"step": lambda task, state, action: step(task, state, action).replace(task=jnp.zeros(1))},
        ["reset and step return states of different structure"],
    ),
    "another shape after a step": (
        {"step": lambda task, state, action: step(task, state, action).replace(place=jnp.zeros(3))},
        ["state.place has shape (2,) at reset and (3,) after a step"],
    ),
    "one task for all": ({"sample_task": lambda key: {"goal": jnp.ones(2)}}, ["sample_task gives the same task"]),
    "no task": ({"sample_task": lambda key: {}}, ["a task has no arrays"]),
    "tasks of NaN": (
        {"sample_task": lambda key: {"goal": jnp.log(sample_task(key)["goal"])}},
        ["sample_task gives tasks that are NaN"],
    ),
    "hidden randomness": ({"step": step_with_numpy_noise}, ["step draws random numbers that its key does not know of"]),
    "over at reset": (
        {"reset": lambda key, task: reset(key, task).replace(terminated=jnp.asarray(True))},
        ["an episode is over at its reset"],
    ),
}


def test_a_sound_environment_has_no_faults():
    assert mrl.envs.check(SOUND) == ()
    assert mrl.envs.check(dataclasses.replace(SOUND, step=step_with_wind)) == ()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name):
    changes, expected = FAULTS[name]
    faults = mrl.envs.check(dataclasses.replace(SOUND, **changes))
    for words in expected:
        assert any(words in fault for fault in faults), (words, faults)
    assert all("\n" not in fault for fault in faults)


def test_a_single_fault_raises_no_false_alarm():
    for name in ("goal observed", "episodes start alike", "rewards ignore the task", "NaN under extreme actions"):
        faults = mrl.envs.check(dataclasses.replace(SOUND, **FAULTS[name][0]))
        assert len(faults) <= (2 if "NaN" in name else 1), faults


def test_what_is_meant_can_be_said():
    alike = dataclasses.replace(SOUND, reset=lambda key, task: walk(jnp.zeros(2)))
    assert mrl.envs.check(alike, random_start=False) == ()
    windy = dataclasses.replace(SOUND, step=step_with_wind)
    (fault,) = mrl.envs.check(windy, shared_dynamics=True)
    assert "meant to change rewards only" in fault


def test_any_object_will_do():
    assert any("no function 'reset'" in fault for fault in mrl.envs.check(object()))

    class Sizeless:
        sample_task, reset, step = map(staticmethod, (sample_task, reset, step))
        observation_size, action_size, horizon = 2, 0, 40

    assert mrl.envs.check(Sizeless()) == ("action_size is 0; it must be an integer of at least 1",)
    Sizeless.action_size = 2
    assert mrl.envs.check(Sizeless()) == ()


def test_unusual_but_sound_environments():
    sizes = dataclasses.replace(SOUND)
    for name in ("observation_size", "action_size", "horizon"):
        object.__setattr__(sizes, name, np.int32(getattr(SOUND, name)))
    assert mrl.envs.check(sizes) == ()

    def keyed(key):  # a task that holds a key, such as that of a random maze
        return sample_task(key) | {"maze": key}

    assert mrl.envs.check(dataclasses.replace(SOUND, sample_task=keyed)) == ()
    # A name that only begins like a registered one says nothing about fixed starts.
    named = dataclasses.replace(SOUND, name="point-nav of mine", reset=lambda key, task: walk(jnp.zeros(2)))
    assert any("starts alike" in fault for fault in mrl.envs.check(named))


def test_rewards_too_sparse_to_be_met_are_told_from_rewards_that_ignore_the_task():
    def far(task, state, action):
        place = moved(state, action)
        return walk(place, jnp.where(jnp.linalg.norm(place - 50 * task["goal"]) < 0.1, 1.0, 0.0))

    (fault,) = mrl.envs.check(dataclasses.replace(SOUND, step=far))
    assert "too sparse for random actions" in fault


def test_an_observation_of_several_arrays_is_named():
    def several(key, task):
        return reset(key, task).replace(observation={"eye": jnp.zeros(2)})

    faults = mrl.envs.check(dataclasses.replace(SOUND, reset=several))
    meant = "if that is meant, say it by observation_shape"
    assert faults == (f"observation of reset is {{'eye': (2,)}}; it must be one array of shape (2,); {meant}",)


def test_late_faults_within_a_hundred_steps_are_found():
    def step_with_clock(task, state, action):
        after = step(task, state, action)
        time = state.task + 1
        return after.replace(task=time, reward=jnp.where(time > 31, jnp.nan, after.reward))

    late = dataclasses.replace(
        SOUND, reset=lambda key, task: reset(key, task).replace(task=jnp.zeros(())), step=step_with_clock
    )
    faults = mrl.envs.check(late)
    assert any("random actions make the reward NaN or infinite, first after 32 steps" in fault for fault in faults)


def test_plain_python_numbers_are_no_fault():
    def start(key, task):
        return State(0.1 * jax.random.normal(key, (2,)), reward=0, terminated=False, truncated=False)

    def follow(task, state, action):
        place = state.observation + 0.1 * jnp.clip(action, -1, 1)
        return State(place, distance(task, place), terminated=place[0] > 2, truncated=False)

    assert mrl.envs.check(dataclasses.replace(SOUND, reset=start, step=follow)) == ()
