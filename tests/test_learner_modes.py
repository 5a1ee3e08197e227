"""Episodes that a learner plays without exploration: by modes, and not learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from tests import toys

KEY = jax.random.key(3)


def world(learner, by_mode):
    """One episode in the numbers that the actions add up to; its observations and actions."""
    place, seen, over = 0.0, [], False
    while not over:
        action = learner.act([place], deterministic=by_mode)
        seen.append((place, float(action[0])))
        place += 0.1 * float(action[0])
        over = learner.observe(-abs(place), terminated=abs(place) > 3, next_observation=[place])
    return seen


def played(learner, stages, exploit):
    """What was sampled in these stages, and φ after each; with `exploit`, episodes by modes between all of them."""
    seen, params = [], []
    for _ in range(stages):
        while True:
            if exploit:
                world(learner, by_mode=True)
            if learner.full:
                break
            seen += world(learner, by_mode=False)
        learner.learn()
        params.append(learner.params)
    return seen, params


@pytest.mark.parametrize("name", ["maml", "rl2", pytest.param("lpg", marks=pytest.mark.slow)])
def test_what_is_learned_does_not_know_of_them(name):
    """The same samples, memory and φ bit for bit, whether episodes by modes lie between or not."""
    algorithm = mrl.algorithms.make(name, toys.walk(), tasks=2, episodes=3)
    theta = jax.jit(algorithm.init)(KEY).params
    learner = mrl.Learner(algorithm, theta, seed=1)
    seen, params = played(learner, 2, exploit=False)
    episodes = len(learner.returns)
    learner.reset(1)
    others, other_params = played(learner, 2, exploit=True)
    assert seen == others
    jax.tree.map(np.testing.assert_array_equal, params, other_params)
    assert len(learner.returns) == 2 * episodes + 2, "a full stage does not keep from playing"


def test_the_action_is_the_mode_at_phi():
    algorithm = mrl.algorithms.maml(toys.walk(), tasks=2, episodes=3)
    learner = mrl.Learner(algorithm, jax.jit(algorithm.init)(KEY).params)
    for step in range(2):
        mode = jax.jit(lambda phi, o: algorithm.policy.apply(phi, o).mode())
        for place, action in world(learner, by_mode=True):
            np.testing.assert_allclose(action, mode(learner.params, jnp.array([place]))[0], rtol=1e-6)
        while step == 0 and not learner.full:
            world(learner, by_mode=False)
        if learner.full:
            learner.learn()


def test_a_memory_plays_each_from_where_it_was():
    algorithm = mrl.algorithms.rl2(toys.walk(), tasks=2, episodes=2)
    learner = mrl.Learner(algorithm, jax.jit(algorithm.init)(KEY).params)
    world(learner, by_mode=False)
    first = world(learner, by_mode=True)
    assert world(learner, by_mode=True) == first
    world(learner, by_mode=False)
    assert world(learner, by_mode=True) != first


def test_one_can_be_discarded_and_cut():
    algorithm = mrl.algorithms.maml(toys.walk(), tasks=2, episodes=3)
    learner = mrl.Learner(algorithm, jax.jit(algorithm.init)(KEY).params)
    first = learner.act([0.5], deterministic=True)
    learner.observe(-1.0, truncated=True)  # nothing is bootstrapped, so what follows is not asked for
    assert learner.returns == [-1.0]
    learner.act([0.5], deterministic=True)
    learner.discard()
    np.testing.assert_array_equal(learner.act([0.5], deterministic=True), first)
    learner.discard()
    assert not np.array_equal(learner.act([0.5]), first)


def test_what_does_not_go_together_is_refused():
    env = toys.walk()
    algorithm = mrl.algorithms.maml(env, tasks=2, episodes=3)
    theta = jax.jit(algorithm.init)(KEY).params
    learner = mrl.Learner(algorithm, theta)
    with pytest.raises(ValueError, match="deterministic is 1"):
        learner.act([0.0], deterministic=1)
    learner.act([0.0])
    learner.observe(0.0)
    with pytest.raises(ValueError, match="deterministic is True, and the episode began with False"):
        learner.act([0.0], deterministic=True)
    learner.act([0.0])

    class Modeless:
        def __init__(self, inner):
            self.sample, self.log_prob = inner.sample, inner.log_prob

    online = algorithm.online

    def act(theta, fast, percept):
        fast, distribution = online.act(theta, fast, percept)
        return fast, Modeless(distribution)

    learner = mrl.Learner(online._replace(act=act), theta)
    with pytest.raises(ValueError, match="deterministic is True, and the policy's distribution has no mode"):
        learner.act([0.0], deterministic=True)
    learner.act([0.0])
