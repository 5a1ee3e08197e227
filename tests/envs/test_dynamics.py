"""Tasks that change the physics: every shipped pair of knob and backend acts, every other is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax.envs import dynamics
from metarl_jax.envs.brax_adapter import BACKENDS, RUNNING_BACKENDS, simulator
from tests import rows

PERTURBED = ("walker-params", "hopper-params", "cheetah-mass", "ant-params")
KNOBS = tuple(dynamics.FIELDS)


def acting(backend):
    return [knob for knob in KNOBS if backend in dynamics.FIELDS[knob]]


@functools.cache
def motion(backend, robot="hopper"):
    """q̇ after driven steps on the ground, [1 + knobs]: unchanged, then one knob × 0.3 each."""
    physics = simulator(robot, backend)
    system, knobs = physics.env.sys, acting(backend)

    def run(factors):
        changes = dynamics.scaled(system, backend, dict(zip(knobs, factors, strict=True)))
        q = jnp.asarray(system.init_q, float).at[1].add(-0.05)  # into the ground, so that it slides
        state = physics.init(changes, q, jnp.full(system.qd_size(), 0.3).at[:2].set(jnp.array([1.0, -0.3])))
        drive = jnp.linspace(-0.8, 0.8, system.act_size())
        return jax.lax.scan(lambda s, _: (physics.advance(changes, s, drive), None), state, length=10)[0].qd

    one_each = jnp.concatenate([jnp.ones((1, len(knobs))), 1 - 0.7 * jnp.eye(len(knobs))])
    return np.asarray(jax.jit(jax.vmap(run))(one_each))


@pytest.mark.parametrize(
    ("backend", "knob"),
    [
        pytest.param(backend, knob, marks=[] if backend in ("spring", "mujoco") else pytest.mark.slow)
        for backend in RUNNING_BACKENDS
        for knob in acting(backend)
    ],
)
def test_every_shipped_knob_moves_the_motion(backend, knob):
    # On spring it is the joints' constraints that are stiff; elsewhere joints are, and the hopper's are not.
    qd = motion(backend, "halfcheetah" if knob == "stiffness" and backend != "spring" else "hopper")
    assert np.isfinite(qd).all()
    change = np.abs(qd[1 + acting(backend).index(knob)] - qd[0]).max()
    assert change > 1e-3, change


def test_the_table_names_arrays_that_the_model_has():
    for backend in (*BACKENDS[:2], "mujoco"):
        system = simulator("hopper", backend).env.sys
        for knob in acting(backend):
            assert dynamics.elements(system, backend, knob) >= 1


@pytest.mark.parametrize(
    ("knob", "backend"), [(k, b) for k in KNOBS for b in RUNNING_BACKENDS if b not in dynamics.FIELDS[k]]
)
def test_a_knob_without_effect_is_refused(knob, backend):
    with pytest.raises(ValueError, match=f"knob '{knob}' has no effect on the backend '{backend}'; it acts on"):
        dynamics.fields(knob, backend)
    with pytest.raises(ValueError, match="has no effect on the backend"):
        envs.make("hopper-params", backend=backend, knobs=("mass", knob))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"knobs": ("weight",)}, ["unknown dynamics knob 'weight'", "mass", "gravity"]),
        ({"knobs": ("frictoin",)}, ["did you mean 'friction'"]),
        ({"knobs": "mass"}, ["knobs is 'mass'", "must be a tuple"]),
        ({"knobs": ()}, ["knobs is ()"]),
        ({"knobs": 5}, ["knobs is 5"]),
        ({"knobs": ("mass", "mass")}, ["knobs is ('mass', 'mass')", "different"]),
        ({"exponent_range": (0.0, 1000.0)}, ["exponent_range is (0.0, 1000.0)", "±10"]),
        (
            {"knobs": ("stiffness",), "backend": "generalized"},
            ["'stiffness' has no effect on this robot", "is 0"],
        ),
        ({"exponent_range": (1.0, 1.0)}, ["exponent_range is (1.0, 1.0)", "low < high"]),
        ({"per_element": "no"}, ["per_element is 'no'", "True or False"]),
        ({"mass_scale": 0.0}, ["mass_scale is 0.0", "positive"]),
        ({"observation": "all"}, ["unknown observation 'all'", "joints"]),
        ({"alive": float("nan")}, ["alive is nan"]),
    ],
)
def test_bad_options(options, parts):
    with pytest.raises(ValueError, match=r"\S") as error:
        envs.make("hopper-params", **options)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", rows.of_environments(PERTURBED))
def test_a_hundred_tasks_give_a_hundred_next_states(name, recording):
    """From one state and one action, as many at a time as the recordings have lanes: compiled already."""
    recorded = recording(name)
    lanes = len(recorded.keys)
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1, 10], (lanes, *leaf.shape[2:])), recorded.states)
    action = jnp.broadcast_to(recorded.actions[:1, 10], (lanes, recorded.env.action_size))
    following = []
    for keys in jax.random.split(jax.random.key(5), (-(-100 // lanes), lanes)):
        tasks = jax.vmap(recorded.env.sample_task)(keys)
        following.append(np.asarray(jax.vmap(recorded.env.step)(tasks, one, action).observation))
    assert len(np.unique(np.concatenate(following)[:100], axis=0)) == 100


def test_factors_have_the_papers_distribution():
    env = envs.make("walker-params")
    scale = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 500)).scale
    assert {name: leaf.shape[1:] for name, leaf in scale.items()} == {
        "mass": (7,),
        "inertia": (7,),
        "friction": (8,),
        "damping": (7,),
    }
    for name, leaf in scale.items():
        base = 1.3 if name == "damping" else 1.5
        u = np.log(np.asarray(leaf, np.float64)) / np.log(base)
        unit = np.sort((u.ravel() + 3) / 6)
        n = unit.size
        assert np.abs(unit - (np.arange(n) + 0.5) / n).max() < 2.2 / np.sqrt(n)  # Kolmogorov
        assert np.abs(np.corrcoef(u.T) - np.eye(u.shape[1])).max() < 5 / np.sqrt(500)
    assert not np.array_equal(scale["mass"], scale["inertia"])


def test_one_factor_for_all():
    env = envs.make("hopper-params", per_element=False, knobs=("mass", "gravity"))
    task = env.sample_task(jax.random.key(0))
    assert {name: leaf.shape for name, leaf in task.scale.items()} == {"mass": (), "gravity": ()}


def test_scaled_arrays_are_what_the_physics_reads_times_the_factors():
    """On spring Brax reads m^(1 − s), which for the ant, whose s is 1, would leave a factor on m without effect."""
    for robot, s_mass, s_inertia in (("halfcheetah", 0.3, 0.8), ("ant", 1.0, 1.0), ("walker2d", 0.0, 1.0)):
        system = simulator(robot, "spring").env.sys
        mass = np.asarray(system.link.inertia.mass, np.float64)
        factors = np.linspace(0.5, 2, len(mass))
        changes = dynamics.scaled(system, "spring", {"mass": factors}, {"density": 3.0, "gear": 0.5})
        np.testing.assert_allclose(changes["link.inertia.mass"], 3 * mass ** (1 - s_mass) * factors, rtol=1e-5)
        inertia = np.asarray(system.link.inertia.i, np.float64)
        expected = 3 * np.diagonal(inertia, axis1=1, axis2=2) ** (1 - s_inertia)
        np.testing.assert_allclose(np.diagonal(changes["link.inertia.i"], axis1=1, axis2=2), expected, rtol=1e-5)
        assert changes["spring_mass_scale"] == changes["spring_inertia_scale"] == 0
        gear = np.asarray(system.actuator.gear)
        np.testing.assert_array_equal(changes["actuator.gear"], gear / 2)
    gear = np.asarray(simulator("halfcheetah", "spring").env.sys.actuator.gear)
    assert gear.dtype == np.int32  # which half an odd gear would be cut to


@pytest.mark.parametrize(("robot", "family"), [("halfcheetah", "cheetah-dir"), rows.thorough("ant", "ant-dir")])
def test_factors_of_one_leave_brax_s_own_physics(robot, family, recording):
    physics = simulator(robot, "spring")
    recorded = recording(family)
    start = jax.tree.map(lambda leaf: leaf[:, 3], recorded.states.internal)
    control = jnp.clip(recorded.actions[:, 3], -1, 1)
    ones = dynamics.scaled(physics.env.sys, "spring", {"density": 1.0})
    heavy = dynamics.scaled(physics.env.sys, "spring", {"density": 1.5})
    batched = jax.tree.map(lambda a, b: jnp.stack([a, b] * (len(control) // 2)), ones, heavy)
    changed = jax.vmap(physics.advance)(batched, start, control)
    plain = jax.vmap(lambda state, action: physics.advance({}, state, action))(start, control)
    np.testing.assert_allclose(changed.q[::2], plain.q[::2], atol=2e-4)
    np.testing.assert_allclose(changed.qd[::2], plain.qd[::2], atol=2e-2)
    assert (np.abs(changed.qd[1::2] - plain.qd[1::2]).max(-1) > 0.05).all()


def test_a_step_takes_the_mass_of_its_own_task(recording):
    """spring keeps the masses of the reset in its state, from which a step in another task must not take them."""
    recorded = recording("cheetah-mass")
    env, lanes = recorded.env, len(recorded.keys)
    state = jax.tree.map(lambda leaf: leaf[:, 4], recorded.states)
    other = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), recorded.tasks)
    after = jax.vmap(env.step)(other, state, recorded.actions[:, 4])
    forged = state.replace(internal=state.internal.replace(mass=jnp.ones_like(state.internal.mass)))
    np.testing.assert_array_equal(
        after.observation, jax.vmap(env.step)(other, forged, recorded.actions[:, 4]).observation
    )
    assert lanes == len(np.unique(np.asarray(after.internal.mass)[:, 0]))
