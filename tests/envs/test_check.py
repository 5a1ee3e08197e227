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
from metarl_jax.envs.frozen import frozen_reads
from metarl_jax.rollout import rollout


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
    "observation of integers": (
        {"reset": lambda key, task: reset(key, task).replace(observation=jnp.zeros(2, int))},
        ["observation of reset has dtype int32; it must be float"],
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


LIMITS = {
    "observation": (
        lambda most: step_scaled(most, 1.0),
        1e8,
        r"observation too large, first after 1 steps: observation[0] is 1",
    ),
    "reward": (lambda most: step_scaled(1.0, most), 1e14, r"reward too large, first after 1 steps: reward is -1"),
}


def step_scaled(observation, reward):
    """Steps to a place and a reward of these sizes, where the goal says which sign the second component has."""

    def scaled(task, state, action):
        sign = jnp.sign(task["goal"][1] + action[0])
        place = jnp.array([observation, 0.0]) + jnp.array([0.0, 1.0]) * action[0]
        return walk(place, -reward * (1 + 0 * sign) + 0.1 * task["goal"][0])

    return scaled


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_are_those_of_a_rollout(name):
    """Just below them an episode counts, and `check` has nothing to say of them."""
    step_of, most, words = LIMITS[name]
    for size, void in ((0.99 * most, False), (1.01 * most, True)):
        env = dataclasses.replace(SOUND, step=step_of(size))
        faults = mrl.envs.check(env, random_start=False)
        assert any(words in fault for fault in faults) == void, faults
        policy = mrl.Policy(lambda key: jnp.zeros(2), lambda p, o: mrl.policies.DiagonalGaussian(p, p))
        run = jax.jit(lambda key, env=env: rollout(key, env, policy, jnp.zeros(2), env.sample_task(key), 2, 2).void)
        assert run(jax.random.key(0)).all() == void


LEVEL = 1.0
TABLE = [0.1, 0.2, 0.3]
SETTINGS = {"name": "far", "unused": 3.0}


def raise_level():
    global LEVEL
    LEVEL += 1.0


def drawn(key, scale):
    return {"goal": scale * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)}


def samplers():
    """``sample_task → the variable that it should not read``, None where there is none."""
    curriculum, cell, fixed, pair = {"scale": 1.0, "other": 2.0}, [1.0], 2.0, (1.0, 2.0)
    array = np.array([1.0, 2.0])

    def scaled(key):
        return drawn(key, curriculum["scale"])

    return {
        "a dictionary": (scaled, "curriculum['scale']"),
        "a list of one": (lambda key: drawn(key, cell[0]), "cell[0]"),
        "a global that a function assigns": (lambda key: drawn(key, LEVEL), "LEVEL"),
        "through another function": (lambda key: scaled(key), "curriculum['scale']"),
        "a constant": (lambda key: drawn(key, fixed), None),
        "a tuple": (lambda key: drawn(key, pair[0]), None),
        "a table": (lambda key: drawn(key, jnp.array(TABLE)[jax.random.randint(key, (), 0, 3)]), None),
        "an array": (lambda key: drawn(key, jnp.array(array)[0]), None),
        "a dictionary that is not read": (lambda key: drawn(key, 1.0 if SETTINGS["name"] else 2.0), None),
    }


@pytest.mark.parametrize("name", samplers())
def test_variables_that_jit_freezes_are_named(name):
    sample, variable = samplers()[name]
    faults = tuple(frozen_reads(sample, jax.random.key(0)))
    assert [f"sample_task reads the variable {variable}: jax.jit freezes" in fault for fault in faults] == (
        [] if variable is None else [True]
    )
    assert LEVEL == SETTINGS["unused"] - 2 == 1.0, "what was tried is put back"


def test_check_tells_of_such_a_variable():
    sample = samplers()["a dictionary"][0]
    (fault,) = mrl.envs.check(dataclasses.replace(SOUND, sample_task=sample))
    assert "make a new environment for it" in fault


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

    assert mrl.envs.check(Sizeless()) == ("action_size is 0; it must be a positive integer",)
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
    assert faults == ("observation of reset is a dict; it must be one array",)


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
