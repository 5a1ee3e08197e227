"""The learned rule against numpy, finite differences, and rules whose answers are set by hand."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import inner, outer
from metarl_jax.compose import build_parts
from metarl_jax.outer import lives
from metarl_jax.policies import likelihood
from metarl_jax.policies.rules import UpdateRule, backward_lstm
from tests import toys
from tests.data import random_trajectory

M, UNITS, RATE = 3, 4, 0.3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    weight = np.exp(x - x.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def dense(weights, x):
    return x @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])


def agent_of(env, discount=0.9, **network):
    return inner.learned_rule(env, toys.small_policy(env), UNITS, M, discount, {"hidden": (5,), **network})


# --- the network -----------------------------------------------------------------------------------------------------


def numpy_rule(params, steps, y, following, valid):
    """The rule once more, step by step from each row's last valid one; NaN on padding."""
    policy, prediction = np.full(valid.shape, np.nan), np.full((*valid.shape, M), np.nan)

    def embed(values):
        return dense(params["embedding"]["Dense_1"], np.maximum(dense(params["embedding"]["Dense_0"], values), 0))

    for row in range(len(valid)):
        memory = output = np.zeros(UNITS)
        for t in reversed(range(valid[row].sum())):
            x = np.concatenate([steps[row, t], embed(y[row, t]), embed(following[row, t])])
            gates = {
                gate: x @ np.asarray(params["lstm"][f"i{gate}"]["kernel"]) + dense(params["lstm"][f"h{gate}"], output)
                for gate in "ifgo"
            }
            memory = sigmoid(gates["f"]) * memory + sigmoid(gates["i"]) * np.tanh(gates["g"])
            output = sigmoid(gates["o"]) * np.tanh(memory)
            policy[row, t] = dense(params["policy"], output)[0]
            prediction[row, t] = dense(params["prediction"], output)
    return policy, prediction


def test_the_network_is_an_lstm_from_the_last_valid_step_to_the_first():
    random = np.random.default_rng(0)
    with jax.enable_x64():
        rule = backward_lstm(M, UNITS)
        params = rule.init(jax.random.key(0))
        valid = np.arange(6) < np.array([6, 1, 4, 0])[:, None]
        steps, y, following = (random.normal(size=(4, 6, size)) for size in (4, M, M))
        policy, prediction = rule.apply(params, *map(jnp.asarray, (steps, y, following, valid)))
    expected = numpy_rule(params, steps, y, following, valid)
    np.testing.assert_allclose(np.asarray(policy)[valid], expected[0][valid], rtol=1e-10)
    np.testing.assert_allclose(np.asarray(prediction)[valid], expected[1][valid], rtol=1e-10)
    assert np.isfinite(policy).all()


@pytest.mark.parametrize(("name", "sizes"), [("prediction_size", (0, 4)), ("units", (3, -2))])
def test_sizes_are_checked(name, sizes):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be an integer"):
        backward_lstm(*sizes)


# --- what the rule is told -------------------------------------------------------------------------------------------


class Recorder:
    """A rule that keeps what it is given, and answers with fixed targets."""

    def __init__(self, policy, prediction):
        self.answer = (policy, prediction)
        self.rule = UpdateRule(lambda key: {}, self.apply)

    def apply(self, params, steps, y, following, valid):
        self.steps, self.y, self.following, self.valid = steps, y, following, valid
        return self.answer


def recorded(trajectory, discount=0.9):
    env = dataclasses.replace(toys.walk(), observation_size=3, action_size=2)
    shape = trajectory.valid.shape
    random = np.random.default_rng(1)
    recorder = Recorder(jnp.asarray(random.normal(size=shape)), jnp.asarray(random.normal(size=(*shape, M))))
    agent = agent_of(env, discount)._replace(rule=recorder.rule)
    params = agent.policy.init(jax.random.key(1))
    learn = inner.lpg(agent, inner.sgd(RATE), 0.5).learn

    @jax.jit
    def inputs_and_parameters():
        learned = learn({}, inner.Fast(params, jnp.zeros((), int)), trajectory, None)
        return (recorder.steps, recorder.y, recorder.following, recorder.valid), learned.params

    inputs, learned = inputs_and_parameters()
    recorder.steps, recorder.y, recorder.following, recorder.valid = inputs
    return agent, recorder, params, learned


def test_inputs_of_the_rule():
    with jax.enable_x64():
        data = random_trajectory(3)
        agent, rule, params, _ = recorded(data)
        valid, truncated = np.asarray(data.valid), np.asarray(data.truncated)
        last = valid & ~np.concatenate([valid[:, 1:], np.zeros((len(valid), 1), bool)], 1)
        continues = np.where(last & ~truncated, 0, 1)
        assert (continues[last & (np.asarray(data.discount) == 0)] == 0).all()
        density = np.exp(np.asarray(likelihood.log_prob(agent.policy, params, data)))
        expected = [10 * np.arcsinh(data.reward / 10), continues, np.full(valid.shape, 0.9), density / (1 + density)]
        for index, values in enumerate(expected):
            np.testing.assert_allclose(rule.steps[..., index][valid], values[valid], rtol=1e-9, err_msg=str(index))

        def y(observation):
            logits = jax.vmap(jax.vmap(lambda o: agent.prediction.apply(params["prediction"], o).logits))(observation)
            return softmax(np.asarray(logits))

        np.testing.assert_allclose(rule.y[valid], y(data.observation)[valid], rtol=1e-9)
        following = continues[..., None] * y(data.next_observation)
        np.testing.assert_allclose(rule.following[valid], following[valid], rtol=1e-9)


def test_an_update_is_the_papers():
    """φ − α ∇(−E[π̂ log π] + α_y E KL(y ‖ ŷ)), written out with one plain loss."""
    with jax.enable_x64():
        data = random_trajectory(4)
        agent, rule, params, learned = recorded(data)
        policy_target, logits = rule.answer

        def loss(phi):
            y = jax.vmap(jax.vmap(lambda o: agent.prediction.apply(phi["prediction"], o).logits))(data.observation)
            y, target = jax.nn.softmax(y), jax.nn.softmax(logits)
            distance = (y * (jnp.log(y) - jnp.log(target))).sum(-1)
            step = -policy_target * likelihood.log_prob(agent.policy, phi, data) + 0.5 * distance
            return jnp.where(data.valid, step, 0).sum() / data.valid.size

        expected = jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))
        for got, want in zip(jax.tree.leaves(learned), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_targets_that_are_advantages_make_a_policy_gradient_step():
    with jax.enable_x64():
        data = random_trajectory(5)
        agent, rule, params, learned = recorded(data)
        plain = inner.policy_gradient(agent.policy, inner.score_function, inner.sgd(RATE))
        step = plain.learn(params, inner.Fast(params, jnp.zeros((), int)), data, rule.answer[0])
        for got, want in zip(*(jax.tree.leaves(p["policy"]) for p in (learned, step.params)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_padding_changes_nothing():
    with jax.enable_x64():
        data = random_trajectory(6)
        # Of the mean over the steps taken; the horizon is a part of the other one.
        data = jax.tree.map(lambda leaf: leaf[:4], data).replace(average="valid")
        env = dataclasses.replace(toys.walk(), observation_size=3, action_size=2)
        agent = agent_of(env)
        theta, params = agent.rule.init(jax.random.key(2)), agent.policy.init(jax.random.key(3))
        learn = jax.jit(inner.lpg(agent, inner.sgd(RATE), 0.5).learn)

        def padded(leaf, more=3):
            # Neither shorter nor worse padding than a rollout's own: other numbers there, and more of them.
            first = jnp.broadcast_to(7 * leaf[:, :1] if leaf.dtype == float else leaf[:, :1], leaf[:, :more].shape)
            return jnp.concatenate([leaf, first], axis=1)

        longer = jax.tree.map(padded, data)
        longer = longer.replace(
            valid=longer.valid.at[:, -3:].set(False), truncated=longer.truncated.at[:, -3:].set(False)
        )
        start = inner.Fast(params, jnp.zeros((), int))
        for got, want in zip(*(jax.tree.leaves(learn(theta, start, d, None)) for d in (longer, data)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


# --- the window ------------------------------------------------------------------------------------------------------


@functools.cache
def lived(discrete):
    """An agent's window of three updates, and the outer loss of a window as a function of θ and where it starts."""
    env = dataclasses.replace(toys.walk(), horizon=6)
    if discrete:
        env = mrl.envs.make("grid-nav", size=3, horizon=6)
    agent = agent_of(env)
    parts = build_parts(
        env, objective=outer.ratio(), policy=agent.policy, episodes=4, adaptation_steps=3, burn_in=1, horizon=4
    )
    adapter = lives.skipping_void(inner.lpg(agent, inner.sgd(RATE), 0.5))
    parts = parts._replace(adapter=adapter)
    penalty = inner.lpg_penalty(agent, 0.1, 0.2, 0.3, 0.4)

    def loss(theta, seen):
        path = outer.replay(parts, theta, seen.stages, seen.start)
        return parts.objective(parts.policy, path)[0] + penalty(theta, path)[0]

    @jax.jit
    def window(key, theta):
        life = lives.born(key, parts, theta, env.sample_task(key), 99)
        life, _ = lives.live(key, parts, theta, life, 2, lambda *_: ())
        return lives.window(jax.random.fold_in(key, 1), parts, theta, life)[1]

    theta = adapter.init_meta(jax.random.key(1))
    # At its start the embedding's biases are 0, and so what it makes of an ended episode's 0 stands on relu's kink.
    theta = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(4), leaf.shape), theta)
    return theta, window(jax.random.key(2), theta), jax.jit(loss), jax.jit(jax.grad(loss))


@pytest.mark.parametrize("discrete", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_meta_gradient_equals_finite_differences(discrete):
    with jax.enable_x64():
        theta, seen, loss, gradient = lived(discrete)
        slope = gradient(theta, seen)
        random = np.random.default_rng(0)
        leaves, tree = jax.tree.flatten(theta)
        for index, (leaf, own) in enumerate(zip(leaves, jax.tree.leaves(slope), strict=True)):
            direction = random.normal(size=leaf.shape)
            moved = [[*leaves[:index], leaf + sign * 1e-4 * direction, *leaves[index + 1 :]] for sign in (1, -1)]
            high, low = (loss(tree.unflatten(at), seen) for at in moved)
            np.testing.assert_allclose((own * direction).sum(), (high - low) / 2e-4, rtol=1e-5, atol=1e-10)


def test_the_agents_limit_reaches_the_lives(monkeypatch):
    given = {}
    module = importlib.import_module("metarl_jax.algorithms.lpg")
    monkeypatch.setattr(module, "assemble_lives", lambda *parts, **options: given.update(options))
    mrl.algorithms.make("lpg", toys.walk(), max_agent_gradient_norm=0.25, lifetime=7)
    assert (given["max_agent_gradient_norm"], given["lifetime"]) == (0.25, 7)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit": True}, "lpg learns all of the inner update.*; leave credit out"),
        ({"surrogate": "dice"}, "leave surrogate out"),
        ({"fast_parameters": "head"}, "leave fast_parameters out"),
        ({"baseline": "value_network"}, "choose another baseline, such as 'linear_feature'"),
        ({"adaptation_steps": 0}, "adaptation_steps is 0.*at least one update"),
        ({"inner_optimizer": "tensor_rates"}, "choose inner_optimizer='sgd'"),
        ({"lifetime": 0}, "lifetime is 0; it must be an integer of at least 1"),
        ({"max_agent_gradient_norm": 0.0}, "max_agent_gradient_norm is 0.0; it must be a positive number"),
        ({"rule_size": 0}, "rule_size is 0"),
        ({"prediction_size": 1}, "prediction_size is 1; it must be an integer of at least 2"),
        ({"prediction_weight": -1.0}, "prediction_weight is -1.0; it must be a number of at least 0"),
        ({"policy_entropy_weight": -1.0}, "policy_entropy_weight is -1.0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm is 0.0"),
        ({"discount": 1.5}, "discount is 1.5"),
    ],
)
def test_what_means_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        mrl.algorithms.make("lpg", toys.walk(), **options)
    assert "\n" not in str(refusal.value)
