"""Variables that sample_task reads and jit freezes: named where something may change them, and nowhere else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.envs.frozen import frozen_reads
from tests.envs.test_check import SOUND

LEVEL = 1.0
FAR = 2.0
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

    @functools.wraps(drawn)
    def decorated(key):
        return jax.tree.map(lambda leaf: leaf * curriculum["scale"], drawn(key, 1.0))

    jitted = jax.jit(scaled)
    return {
        "in a decorator": (decorated, "curriculum['scale']"),
        "a dictionary": (scaled, "curriculum['scale']"),
        "a list of one": (lambda key: drawn(key, cell[0]), "cell[0]"),
        "a global that a function assigns": (lambda key: drawn(key, LEVEL), "LEVEL"),
        "through another function": (lambda key: scaled(key), "curriculum['scale']"),
        "through a function that is jitted": (lambda key: jitted(key), "curriculum['scale']"),
        "jitted itself": (jitted, "curriculum['scale']"),
        "an array in what is jitted": (jax.jit(lambda key: drawn(key, jnp.array(np.full(2, cell[0])))), "cell[0]"),
        "partial": (functools.partial(lambda unused, key: scaled(key), 1), "curriculum['scale']"),
        "a constant": (lambda key: drawn(key, fixed), None),
        "a global that no function assigns": (lambda key: drawn(key, FAR), None),
        "a tuple": (lambda key: drawn(key, pair[0]), None),
        "a table": (lambda key: drawn(key, jnp.array(TABLE)[jax.random.randint(key, (), 0, 3)]), None),
        "an array": (lambda key: drawn(key, jnp.array(array)[0]), None),
        "a dictionary that is not read": (lambda key: drawn(key, 1.0 if SETTINGS["name"] else 2.0), None),
    }


@pytest.mark.parametrize("name", samplers())
def test_variables_that_jit_freezes_are_named(name):
    sample, variable = samplers()[name]
    expected = sample(jax.random.key(1))
    faults = tuple(frozen_reads(sample, jax.random.key(0)))
    assert [f"sample_task reads the variable {variable}: jax.jit freezes" in fault for fault in faults] == (
        [] if variable is None else [True]
    )
    assert LEVEL == SETTINGS["unused"] - 2 == 1.0, "what was tried is put back"
    np.testing.assert_array_equal(sample(jax.random.key(1))["goal"], expected["goal"])


def test_check_tells_of_such_a_variable():
    sample = samplers()["a dictionary"][0]
    (fault,) = mrl.envs.check(dataclasses.replace(SOUND, sample_task=sample))
    assert "make a new environment for it" in fault


@pytest.mark.parametrize("name", [name for name, family in mrl.envs.FAMILIES.items() if not family.backends])
def test_no_family_reads_such_a_variable(name):
    for version in mrl.envs.versions(name):
        for split in mrl.envs.SPLITS:
            if split in mrl.envs.card(version).splits:
                assert not tuple(frozen_reads(mrl.envs.make(version, split=split).sample_task, jax.random.key(0)))
