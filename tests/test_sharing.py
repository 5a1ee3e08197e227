"""Algorithms that differ in numbers share one program, and learn as if each were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax import training
from metarl_jax.chunks import initial_state
from metarl_jax.sharing import program, stacked
from metarl_jax.training import train
from metarl_jax.types import MetaState
from tests import toys
from tests.runs.stub import stub_algorithm

SIZES = {"tasks": 2, "episodes": 3, "policy": {"hidden": (4,)}}
RATES = ((0.1, 1e-3), (0.3, 1e-2), (0.2, 3e-3))
KEY = jax.random.key(3)
env = toys.walk()


def maml(inner_lr, outer_lr):
    return mrl.algorithms.maml(env, inner_lr=inner_lr, outer_lr=outer_lr, **SIZES)


def trained(algorithm, key=KEY, iterations=3):
    *_, last = train(algorithm, key, iterations, chunk=iterations)
    return last


@pytest.fixture(scope="module")
def family():
    """The members of one program, trained and evaluated; how often each was made."""
    calls = []

    def make(**numbers):
        calls.append(numbers)
        return maml(**numbers)

    member = mrl.one_program(make)
    members, states, rows, made = [], [], [], []
    for inner, outer in RATES:
        before = len(calls)
        members.append(member(inner_lr=inner, outer_lr=outer))
        states.append(trained(members[-1]).state)
        rows.append(mrl.evaluation.evaluate(members[-1], env, KEY, states[-1].params, num_tasks=2)["adapted"].mean)
        made.append(len(calls) - before)
    return members, states, rows, made


def test_the_first_member_is_traced_and_the_others_are_not(family):
    first, *others = family[3]
    assert first > 3
    assert others == [2, 2], "one call checks the numbers, and one makes the start, which is not compiled"


def test_every_function_of_a_member_is_that_of_the_others(family):
    one, other = family[0][:2]
    for name in ("init", "update", "adapt", "gradient"):
        assert getattr(one, name).function is getattr(other, name).function


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def test_members_learn_and_adapt_as_algorithms_of_their_own(family):
    _, states, rows, _ = family
    for (inner, outer), state, mean in zip(RATES[:2], states, rows, strict=False):
        alone = maml(inner, outer)
        expected = trained(alone).state
        assert_close(state.params, expected.params)
        assert_close(mean, mrl.evaluation.evaluate(alone, env, KEY, state.params, num_tasks=2)["adapted"].mean)
    assert not np.allclose(rows[0], rows[1], rtol=1e-3), "the rates make a difference"


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_stacked_members_are_trained_at_once_each_with_its_numbers(family, monkeypatch, backend):
    """In sequence on a CPU, and by vmap as on an accelerator; the sizes of chunks keep the two programs apart."""
    members, states, _, _ = family
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    keys, chunk = jnp.stack([KEY] * len(members)), 3 if backend == "cpu" else 5
    *_, last = train(stacked(members), keys, 3, chunk=chunk)
    assert last.metrics["return"].shape[1:] == (3, 2)
    for r, state in enumerate(states):
        assert_close(jax.tree.map(lambda leaf, r=r: leaf[r], last.state.params), state.params)


def test_the_functions_of_a_member_are_compiled_as_others_are(family):
    """As in every example, and of what `mrl.load` returns of a member of a sweep."""
    member, params, task = family[0][1], family[1][1].params, env.sample_task(KEY)
    adapt = jax.jit(member.adapt, static_argnames="steps")
    expected = jax.jit(lambda: maml(*RATES[1]).adapt(KEY, params, task, steps=2))()
    assert_close(adapt(KEY, params, task, steps=2).params, expected.params)
    assert_close(jax.jit(member.adapt, static_argnums=3)(KEY, params, task, 2).params, expected.params)
    assert member.adapt == member.adapt != family[0][0].adapt


def test_numbers_reach_the_start_too():
    def scaled(scale):
        algorithm = maml(*RATES[0])

        def init(key):
            state = algorithm.init(key)
            return state.replace(params=jax.tree.map(lambda leaf: scale * leaf, state.params))

        return algorithm._replace(init=init)

    make = mrl.one_program(scaled)
    plain = initial_state(program(maml(*RATES[0]).init), KEY).params
    both = initial_state(stacked([make(scale=2.0), make(scale=3.0)]).init, jnp.stack([KEY, KEY])).params
    assert_close(initial_state(make(scale=4.0).init, KEY).params, jax.tree.map(lambda leaf: 4 * leaf, plain))
    assert_close(both, jax.tree.map(lambda leaf: jnp.stack([2 * leaf, 3 * leaf]), plain))


def test_a_member_is_described_and_saved_as_what_it_is(tmp_path):
    env = mrl.envs.make("point-nav", horizon=5)
    member = mrl.one_program(lambda inner_lr: mrl.algorithms.maml(env, inner_lr=inner_lr, **SIZES))(inner_lr=0.3)
    assert repr(member) == repr(mrl.algorithms.maml(env, inner_lr=0.3, **SIZES))
    state = initial_state(member.init, KEY)
    mrl.save(tmp_path / "run", member, state)
    loaded = mrl.load(tmp_path / "run")
    assert loaded.algorithm.recipe.options == member.recipe.options
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params)


@pytest.mark.parametrize(
    "members",
    [
        lambda make: [maml(*RATES[0]), maml(*RATES[1])],
        lambda make: [make(inner_lr=0.1, outer_lr=0.1), mrl.one_program(maml)(inner_lr=0.1, outer_lr=0.1)],
        lambda make: [make(inner_lr=0.1, outer_lr=0.1), maml(*RATES[0])],
    ],
    ids=["without numbers", "of two programs", "a stranger"],
)
def test_what_is_no_family_is_not_stacked(members):
    with pytest.raises(ValueError, match="members are not algorithms that one one_program made"):
        stacked(members(mrl.one_program(maml)))


def test_stacked_members_need_a_key_each_and_are_for_training_alone():
    make = mrl.one_program(maml)
    both = stacked([make(inner_lr=rate, outer_lr=0.1) for rate in (0.1, 0.2)])
    for keys, given in ((KEY, "a single key"), (jax.random.split(KEY, 3), "3 keys")):
        with pytest.raises(ValueError, match=rf"2 stacked algorithms need a key each, \[2\]; given: {given}"):
            next(train(both, keys, 1))
    for function in (both.adapt, both.gradient):
        with pytest.raises(ValueError, match="stacked algorithms are for training"):
            function(KEY, None)
    with pytest.raises(ValueError, match="there are no members to stack"):
        stacked([])


def test_what_made_an_episode_void_is_sought_with_the_numbers_of_its_run(monkeypatch):
    make, seen = mrl.one_program(maml), []
    monkeypatch.setattr(training, "first_void", lambda algorithm, *_: seen.append(algorithm.update.numbers))
    both = stacked([make(inner_lr=rate, outer_lr=0.5) for rate in (0.25, 0.75)])
    state = MetaState(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2, int))
    training.why_void(both, jnp.stack([KEY, KEY]), 0, state, 1)
    assert seen == [{"inner_lr": 0.75, "outer_lr": 0.5}]


def test_numbers_have_the_precision_of_the_thread_that_trains():
    def scaled(scale):
        base = stub_algorithm()

        def update(key, state):
            new, metrics = base.update(key, state)
            return new, metrics | {"scaled": jnp.asarray(scale, float)}

        return base._replace(update=update)

    for member in (scaled(0.5), mrl.one_program(scaled)(scale=0.5)):
        with jax.enable_x64(True):
            assert trained(member, jax.random.key(0)).metrics["scaled"][-1] == 0.5


def test_all_kinds_of_numbers_share_a_program():
    make = mrl.one_program(maml)
    kinds = [make(inner_lr=rate, outer_lr=1) for rate in (0.5, np.float64(0.5), np.float32(0.5), jnp.array(0.5))]
    assert [[type(number) for number in jax.tree.leaves(one.update)] for one in kinds] == [[float, float]] * 4


@pytest.mark.parametrize("given", [{"remat": True}, {"baseline": "zero"}, {"outer_lr": optax.constant_schedule(0.1)}])
def test_what_is_no_number_is_refused(given):
    make = mrl.one_program(lambda **numbers: mrl.algorithms.maml(env, **SIZES, **numbers))
    (name,) = given
    with pytest.raises(ValueError, match=rf"{name} is .*, which is no number that JAX may trace; set it where"):
        make(**given)


def test_a_size_is_no_number():
    make = mrl.one_program(lambda episodes: mrl.algorithms.maml(env, **SIZES | {"episodes": episodes}))
    with pytest.raises(ValueError, match="episodes is traced by JAX, as an argument of jit, .*a Python integer"):
        jax.eval_shape(lambda init, key: init(key), make(episodes=3).init, jax.random.key(0))


def test_a_number_is_checked_when_a_member_is_made():
    with pytest.raises(ValueError, match="inner_lr is -1"):
        mrl.one_program(maml)(inner_lr=-1.0, outer_lr=0.1)
