"""Registered functions as algorithms and families like any other: their flags, schedules and cards."""

import dataclasses
import typing

import pytest

import metarl_jax as mrl
from metarl_jax.runs.config import AlgorithmConfig, TrainConfig, arguments, build, flags


def test_a_schedule_counts_the_outer_steps_of_the_algorithm_that_it_is_like(registries):
    mrl.algorithms.register("my-promp", lambda env, **common: mrl.algorithms.promp(env, **common), like="promp")
    options = mrl.algorithms.ALGORITHMS["my-promp"].take(epochs=3, minibatches=2)
    assert (options.steps_per_update, mrl.algorithms.kind("my-promp")) == (6, "gradient")
    mrl.algorithms.register("my-rl2", lambda env, **common: mrl.algorithms.rl2(env, **common), like="rl2")
    assert mrl.algorithms.ALGORITHMS["my-rl2"].take(epochs=2, tasks=6).steps_per_update == 6
    assert mrl.algorithms.kind("my-rl2") == "memory"
    mrl.algorithms.register("alone", lambda env, *, policy=None: mrl.algorithms.maml(env, policy=policy))
    assert mrl.algorithms.kind("alone") == "gradient"


def test_a_schedule_that_cannot_count_the_outer_steps_is_refused(registries):
    def gentle(env, **common):
        return mrl.algorithms.promp(env, epochs=5, **common)

    mrl.algorithms.register("gentle", gentle, like="promp", without=["epochs"])
    config = TrainConfig(task="point-nav", algorithm="gentle", outer_lr_schedule="cosine")
    with pytest.raises(ValueError, match="gentle was registered without 'epochs', on which its number of outer steps"):
        build(config)


def test_dynamics_of_a_family_are_not_said(registries):
    """What its tasks change, their rewards or more, is known to its author alone."""

    def windy(name, horizon):
        env = mrl.envs.make("point-nav", horizon=horizon)

        def step(task, state, action):
            return env.step(task, state, action + task.goal)

        return dataclasses.replace(env, name=name, step=step)

    mrl.envs.register("windy", windy, horizon=5)
    assert mrl.envs.card("windy").shared_dynamics is None
    assert mrl.envs.check(mrl.envs.make("windy"), random_start=False) == ()
    mrl.envs.register("calm", windy, horizon=5, card={"shared_dynamics": True})
    (fault,) = mrl.envs.check(mrl.envs.make("calm"), random_start=False)
    assert "depends on the task" in fault


ANNOTATED = """
from __future__ import annotations
from typing import TYPE_CHECKING, Literal
import metarl_jax as mrl
if TYPE_CHECKING:
    from nowhere import Unknown
def known(env, *, share: float = 0.5, many: tuple[int, ...] = (1, 2), word: Literal["a", "b"] = "a", seed: int = 3,
          layers=[1, 2], **common): ...
def unknown(env, *, thing: Unknown = None, **common): ...
mrl.algorithms.register("known", known)
mrl.algorithms.register("unknown", unknown)
"""


def test_flags_of_annotated_functions(registries):
    """Annotations as strings, options named like a flag of the script, and defaults that cannot be hashed."""
    exec(compile(ANNOTATED, "annotated", "exec"), {"__name__": "annotated"})
    own = flags.of_algorithms(["known", "unknown"])
    kinds = {name: own[name].kind for name in ("share", "many", "word", "seed")}
    assert kinds == {"share": float, "many": tuple[int, ...], "word": str, "seed": int}
    assert "thing" not in own
    assert mrl.algorithms.options("known")["layers"] == [1, 2]
    asked = arguments.parse(["--task", "point-nav", "--algorithm", "known", "--many", "3", "4", "--seed", "7"])
    assert asked.config.algorithm_options.option == ("many=(3, 4)",)
    assert asked.config.seed == 7, "the script's own flag"


def test_a_value_that_stays_as_it_was_is_no_change(registries):
    mrl.algorithms.register("known", lambda env, *, share=0.5, word="a", **common: None)
    stored = AlgorithmConfig(option=("share=0.20", "word=yo"))
    options = typing.get_type_hints(arguments.kind())["algorithm_options"]
    same = options(**vars(stored), share=0.2, word="yo")
    assert arguments._package_options(same) == stored
    other = arguments._package_options(options(**vars(stored), share=0.3))
    assert other.option == ("share=0.3", "word=yo")
