"""What an environment may have besides the contract: tasks drawn together, and measures."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

import metarl_jax as mrl
from tests import toys

SOUND = toys.walk()


def drawn(key, count):
    return jnp.linspace(-1.0, 1.0, count)[:, None] + jax.random.normal(key)


def measure(data):
    return {"success": (jnp.abs(data.observation[..., 0]) < 1).mean(), "length": data.lengths.max()}


def from_integers(key, task):
    return SOUND.reset(key, task).replace(observation=jax.random.randint(key, (1,), -2, 3))


def next_larger(data):  # of real numbers only
    return {"larger": jax.lax.nextafter(data.observation, data.next_observation).max()}


CASES = {
    "sound": ({"sample_tasks": drawn, "measure": measure}, None),
    "real after a step": ({"reset": from_integers, "measure": next_larger}, None),
    "too few": ({"sample_tasks": lambda key, count: drawn(key, count)[1:]}, "the 4 tasks of a meta-iteration are"),
    "another argument": ({"sample_tasks": lambda key: drawn(key, 4)}, "sample_tasks does not do .* TypeError"),
    "a Python if": (
        {"sample_tasks": lambda key, n: drawn(key, n) if key[0] else -drawn(key, n)},
        "sample_tasks does not",
    ),
    "no dictionary": ({"measure": lambda data: data.reward.sum()}, "measure does not do .* must give a dictionary"),
    "a number of Python": ({"measure": lambda data: {"a": float(data.reward[0, 0, 0, 0])}}, "measure does not do"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_check_traces_them(case):
    changes, words = CASES[case]
    faults = mrl.envs.check(dataclasses.replace(SOUND, **changes))
    if words is None:
        assert faults == mrl.envs.check(SOUND)
    else:
        assert len(faults) == 1
        assert re.search(words, faults[0]), faults
