"""Environments and policies of a user's own that are broken: a ValueError in one line that names the part and the fix.

What a constructor can see is refused there, what takes shapes by tracing: nothing is compiled and nothing is trained.
"""

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

import metarl_jax as mrl
from tests import toys

SIZES = {"tasks": 2, "episodes": 2}


def walk(**changes):
    return dataclasses.replace(toys.walk(), **changes)


def walk_with(**fields):
    """A walk whose `step` returns these instead; ``reset_…`` are those of its `reset`."""
    env = toys.walk()

    def replaced(state, prefix):
        own = {
            name.removeprefix("reset_"): value for name, value in fields.items() if name.startswith("reset_") == prefix
        }
        return state.replace(**own)

    return dataclasses.replace(
        env,
        reset=lambda key, task: replaced(env.reset(key, task), True),
        step=lambda task, state, action: replaced(env.step(task, state, action), False),
    )


def gaussian(mean=lambda params: params["mean"], init=lambda key: {"mean": jnp.zeros(1)}, **fields):
    return mrl.Policy(
        init=init,
        apply=lambda params, _: mrl.policies.DiagonalGaussian(mean(params), jnp.zeros(1)),
        **fields,
    )


class Halves:
    """A distribution without what its name says."""

    def __init__(self, *missing, log_prob=0.0):
        self._log_prob = log_prob
        if "sample" not in missing:
            self.sample = lambda key: jnp.zeros(1)
        if "log_prob" not in missing:
            self.log_prob = lambda action: jnp.asarray(log_prob)


def acting(distribution):
    return mrl.Policy(init=lambda key: {"w": jnp.zeros(3)}, apply=lambda params, _: distribution)


def no_struct(key, task):
    return jnp.zeros(1)


# what → (environment, options of the algorithm, what the line must hold)
CONSTRUCTED = {
    "no observation": (lambda: walk(observation_size=0), {}, "observation_size.*'walk' is 0.*at least 1"),
    "two sizes": (
        lambda: walk(observation_shape=(1,)),
        {},
        r"observation_size.*'walk' is 1 and observation_shape is \(1,\); give one",
    ),
    "no size": (
        lambda: walk(observation_size=None),
        {},
        "observation_size.*'walk' is None; give it, .*observation_shape",
    ),
    "a picture without height": (
        lambda: walk(observation_size=None, observation_shape={"eye": (0, 8, 1)}),
        {},
        r"an entry of observation_shape\['eye'\].*'walk' is 0.*at least 1",
    ),
    "a shape as a list": (
        lambda: walk(observation_size=None, observation_shape=[8, 8]),
        {},
        r"observation_shape\[0\].*'walk' is 8; it must be a shape, such as \(8, 8, 2\)",
    ),
    "no shapes": (lambda: walk(observation_size=None, observation_shape={}), {}, r"is \{\}; it must hold at least one"),
    "complex numbers to observe": (
        lambda: walk(observation_size=None, observation_shape=jax.ShapeDtypeStruct((1,), complex)),
        {},
        "has dtype complex128; it must be bool, integer or float",
    ),
    "a size that is a float": (lambda: walk(observation_size=2.0), {}, "observation_size.* is 2.0.*an integer"),
    "a size that is a bool": (lambda: walk(action_size=True), {}, "action_size.* is True.*an integer"),
    "a size that is a shape": (lambda: walk(action_size=(2,)), {}, r"action_size.* is \(2,\).*an integer"),
    "a horizon of 0": (lambda: walk(horizon=0), {}, "horizon.*'walk' is 0.*at least 1"),
    "a horizon of NaN": (lambda: walk(horizon=float("nan")), {}, "horizon.* is nan.*an integer"),
    "an endless horizon": (lambda: walk(horizon=10**12), {}, r"horizon.* is 1000000000000.*below 2\*\*31"),
    "tasks as a list": (lambda: walk(sample_task=[1.0, 2.0]), {}, r"sample_task.* is \[1.0, 2.0\].*a function"),
    "a reset that was called": (lambda: walk(reset=jnp.zeros(1)), {}, "reset.*'walk' is .*a function"),
    "a step that is missing": (lambda: walk(step=None), {}, "step.*'walk' is None.*a function"),
    "a scene that is none": (lambda: walk(scene=3), {}, "scene.*'walk' is 3.*a function"),
    "discrete in words": (lambda: walk(discrete="no"), {}, "discrete.* is 'no'.*True or False"),
    "an environment of another kind": (lambda: {"reset": 1}, {}, "env is {'reset': 1}.*metarl_jax.TaskEnv"),
    "a policy that is a function": (toys.walk, {"policy": len}, r"policy is <.*len>.*metarl_jax.Policy\(init, apply\)"),
    "a policy as a pair": (toys.walk, {"policy": (len, len)}, r"policy is \(.*metarl_jax.Policy\(init, apply\)"),
    "unknown options of the policy": (toys.walk, {"policy": {"hiden": (4,)}}, "'hiden': did you mean 'hidden'"),
    "layers as a number": (toys.walk, {"policy": {"hidden": 64}}, r"hidden is 64.*such as \(64, 64\)"),
    "a layer as a float": (toys.walk, {"policy": {"hidden": (64.0,)}}, "hidden is 64.0.*an integer"),
    "learn_std in words": (toys.walk, {"policy": {"learn_std": "no"}}, "learn_std is 'no'.*True or False"),
    "no init": (toys.walk, {"policy": mrl.Policy(None, len)}, "init of the policy is None.*a function"),
    "no apply": (
        toys.walk,
        {"policy": mrl.Policy(lambda key: jnp.zeros(1), 3)},
        "apply of the policy is 3.*function",
    ),
    "labels that are a tree": (
        toys.walk,
        {"policy": gaussian(labels={"mean": "head"})},
        "labels of the policy.*function",
    ),
    "labels of another tree": (
        toys.walk,
        {"policy": gaussian(labels=lambda params: "head"), "fast_parameters": "head"},
        "labels of the policy returns 'head'.*like φ",
    ),
    "no parameters": (toys.walk, {"policy": gaussian(init=lambda key: {})}, "init of the policy returns no arrays"),
    "whole parameters": (
        toys.walk,
        {"policy": gaussian(init=lambda key: {"mean": jnp.zeros(1, int)})},
        r"φ\['mean'\] of dtype int.*must be float",
    ),
    "a surrogate that is a number": (toys.walk, {"surrogate": 3}, "unknown surrogate 3: choose from"),
    "an optimiser instead of its maker": (
        toys.walk,
        {"inner_optimizer": mrl.inner.sgd(0.1)},
        "inner_optimizer is an optimizer already.*inner_lr → InnerOptimizer",
    ),
    "a maker of no optimiser": (
        toys.walk,
        {"inner_optimizer": lambda rate: rate},
        "inner_optimizer must be a func",
    ),
    "fast parameters of another tree": (
        toys.walk,
        {"fast_parameters": lambda params: True},
        "fast_parameters must return a tree like φ",
    ),
    "an inner rate as an array with NaN": (toys.walk, {"inner_lr": jnp.array([0.1, jnp.nan])}, "inner_lr.* nan"),
    "tasks as an array": (toys.walk, {"tasks": jnp.array(3)}, r"tasks is Array\(3.*an integer"),
    "an unknown option": (toys.walk, {"inner_rate": 0.1}, "'inner_rate': did you mean 'inner_lr'"),
}

TRACED = {
    "an observation of another size": (
        lambda: walk(observation_size=3),
        None,
        "1 components.*set observation_size=1",
    ),
    "an observation of another shape": (
        lambda: walk(observation_size=None, observation_shape=(1, 1)),
        None,
        r"observation of reset has shape \(1,\); it must be \(1, 1\)",
    ),
    "an observation without an entry": (
        lambda: walk(observation_size=None, observation_shape={"eye": (1,)}),
        None,
        r"observation of reset is one array of shape \(1,\); it must be \{'eye': \(1,\)\}",
    ),
    "an observation of another dtype": (
        lambda: walk(observation_size=None, observation_shape=jax.ShapeDtypeStruct((1,), "uint8")),
        None,
        "observation of reset has dtype float32; observation_shape says uint8",
    ),
    "an observation that grows": (
        lambda: walk_with(observation=jnp.zeros(2)),
        None,
        "observation of step has 2 components and observation_size is 1",
    ),
    "an observation that is none": (lambda: walk_with(reset_observation=None), None, "observation of reset is None"),
    "an observation in words": (
        lambda: walk_with(reset_observation="x"),
        None,
        "observation of reset is 'x'.*array",
    ),
    "a state that is an array": (lambda: walk(reset=no_struct), None, "reset has no field 'observation'.*envs.State"),
    "a reward per component": (
        lambda: walk_with(reward=jnp.zeros(1)),
        None,
        r"reward of step has shape \(1,\).*scal",
    ),
    "no reward": (lambda: walk_with(reward=None), None, "reward of step is None"),
    "an end that is an array": (
        lambda: walk_with(reset_truncated=jnp.zeros(2, bool)),
        None,
        r"truncated of reset has shape \(2,\).*scalar",
    ),
    "a state that changes shape": (
        lambda: walk_with(time=jnp.zeros(2)),
        None,
        r"state.time has shape \(\) at reset",
    ),
    "a picture that is of bytes at reset only": (
        toys.half_bytes,
        None,
        r"observation is a picture of uint8 at reset and of int32 after a step; return uint8 from both",
    ),
    "a state that changes its kind": (
        lambda: walk(step=lambda task, state, action: toys.State(state.observation, 0.0, False, False)),
        None,
        "different structure; they must be the same struct",
    ),
    "too many actions": (toys.walk, gaussian(lambda params: jnp.zeros(2)), r"\[2\]; action_size is 1.*float\[1\]"),
    "a scalar action": (
        toys.walk,
        mrl.Policy(
            init=lambda key: {"mean": jnp.zeros(())},
            apply=lambda params, _: mrl.policies.DiagonalGaussian(params["mean"], jnp.zeros(())),
        ),
        r"samples float.*\[\]; action_size is 1",
    ),
    "a discrete policy": (
        toys.walk,
        acting(mrl.policies.Categorical(jnp.zeros(3))),
        r"samples int.*must be float\[1\]",
    ),
    "a continuous policy": (toys.bandit, acting(Halves()), r"samples float.*\[1\]; actions are discrete.*one integer"),
    "no distribution": (toys.walk, acting(jnp.zeros(1)), "without 'sample'.*DiagonalGaussian"),
    "a distribution without likelihood": (toys.walk, acting(Halves("log_prob")), "a Halves without 'log_prob'"),
    "a likelihood per component": (toys.walk, acting(Halves(log_prob=[0.0])), r"log_prob of shape \(1,\).*scalar"),
}


@contextlib.contextmanager
def refused(message):
    """One line, of the library's own."""
    with pytest.raises(ValueError, match=message) as raised:
        yield
    assert re.fullmatch(f"[^\n]*{message}[^\n]*", str(raised.value)), raised.value


@pytest.fixture
def _uncompiled(monkeypatch):
    """Whoever compiles a program fails."""

    mrl.algorithms.make("maml", toys.walk(), **SIZES)  # whose keys are made by small programs of JAX's own
    jnp.zeros(1)  # and so is what a case hands in

    def compiled(*_, **__):
        raise AssertionError("something was compiled")

    monkeypatch.setattr("jax._src.compiler.compile_or_get_cached", compiled)


@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize("case", CONSTRUCTED)
def test_what_a_constructor_refuses(case):
    make, options, message = CONSTRUCTED[case]
    with refused(message):
        mrl.algorithms.make("maml", make(), **SIZES | options)


@pytest.mark.parametrize("case", TRACED)
def test_what_tracing_refuses(case, request):
    make, policy, message = TRACED[case]
    algorithm = mrl.algorithms.make("maml", make(), policy=policy, **SIZES)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    request.getfixturevalue("_uncompiled")
    with refused(message):
        jax.eval_shape(algorithm.update, jax.random.key(1), state)


@pytest.mark.parametrize("case", [case for case in TRACED if TRACED[case][1] is None])
def test_the_contract_finds_it_too(case):
    """`mrl.envs.check` says the same of an environment, without an algorithm, and without raising."""
    faults = mrl.envs.check(TRACED[case][0]())
    assert faults
    assert not any("\n" in fault for fault in faults)
    words = re.search(r"observation|reward|terminated|truncated|state|structure", TRACED[case][2])
    assert words[0] in " ".join(faults)
