"""`mrl.envs.check` on environments that jit a part of themselves."""

import dataclasses
import itertools

import jax
import numpy as np

import metarl_jax as mrl
from tests import toys

SOUND = toys.walk()
KEY = jax.random.key(0)


def moved_by(shift):
    """A walk that is shifted before each step by what `shift`, jitted, makes of its place."""
    jitted = jax.jit(lambda place: place + 0.1 * shift())

    def step(task, state, action):
        return SOUND.step(task, state.replace(observation=jitted(state.observation)), action)

    return dataclasses.replace(SOUND, step=step)


def test_a_key_that_it_holds_is_a_constant():
    assert mrl.envs.check(moved_by(lambda: jax.random.normal(KEY, (1,)))) == mrl.envs.check(SOUND)


def test_numpys_noise_in_it_is_found():
    seeds = itertools.count()
    faults = mrl.envs.check(moved_by(lambda: np.random.default_rng(next(seeds)).normal(size=1)))
    assert "step draws random numbers that its key does not know of: the same call gives another result" in faults
