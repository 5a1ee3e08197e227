"""`mrl.envs.check` on observations that are pictures, booleans and dictionaries."""

import dataclasses

import jax.numpy as jnp
import pytest

import metarl_jax as mrl
from tests import toys


@pytest.mark.parametrize("kind", [*toys.SEEN, "bools"])
def test_pictures_and_dictionaries_are_sound(kind):
    env = toys.dot("dictionary" if kind == "bools" else kind)
    if kind == "bools":

        def seen(state):
            return state.replace(observation=state.observation["picture"] > 100)

        env = dataclasses.replace(
            env,
            reset=lambda key, task: seen(toys.dot("dictionary").reset(key, task)),
            step=lambda task, state, action: seen(toys.dot("dictionary").step(task, state, action)),
            observation_shape=(8, 8, 1),
        )
    assert mrl.envs.check(env, shared_dynamics=True) == ()


def test_a_fault_in_a_dictionary_is_placed():
    env = toys.dot("dictionary")

    def step_that_breaks(task, state, action):
        after = env.step(task, state, action)
        velocity = after.velocity.at[1].set(jnp.where(after.place[0] > 0, jnp.nan, 0))
        return after.replace(observation=after.observation | {"velocity": velocity})

    faults = mrl.envs.check(dataclasses.replace(env, step=step_that_breaks))
    assert any("random actions" in fault and ": observation['velocity'][1] is nan" in fault for fault in faults)

    def step_that_shows_the_goal(task, state, action):
        after = env.step(task, state, action)
        picture = after.observation["picture"].at[0, 0, 0].set((100 * (task[0] + 1)).astype(jnp.uint8))
        return after.replace(observation=after.observation | {"picture": picture})

    (fault,) = mrl.envs.check(dataclasses.replace(env, step=step_that_shows_the_goal))
    assert "observation shows the task after the first step" in fault


def test_a_picture_that_is_of_bytes_at_reset_only_is_told():
    (fault,) = mrl.envs.check(toys.half_bytes())
    assert fault.startswith("observation is a picture of uint8 at reset and of int32 after a step")
