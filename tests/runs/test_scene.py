"""Shapes are where MuJoCo has them, and the camera sees them where it should."""

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from metarl_jax.envs.brax_adapter import simulator
from metarl_jax.runs.pictures import scene


@pytest.mark.parametrize("robot", ["reacher", "halfcheetah", "ant", "humanoid"])
def test_shapes_are_where_mujoco_has_them(robot):
    """Ends of capsules and centres of spheres, by MuJoCo's own kinematics of the same model."""
    system = simulator(robot, "spring").env.sys
    model = system.mj_model
    moment = mujoco.MjData(model)
    moment.qpos[:] = np.asarray(system.init_q) + 0.1 * np.random.default_rng(0).normal(size=model.nq)
    mujoco.mj_kinematics(model, moment)
    found = scene.shapes(system)
    seen = [i for i in range(model.ngeom) if model.geom_type[i] != mujoco.mjtGeom.mjGEOM_PLANE]
    assert len(found) == len(seen) > 5
    for shape, i in zip(found, seen, strict=True):
        along = moment.geom_xmat[i].reshape(3, 3)[:, 2]
        ends = [0.0] if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_SPHERE else [-1.0, 1.0]
        expected = [moment.geom_xpos[i] + end * model.geom_size[i, 1] * along for end in ends]
        placed = scene.place(shape, moment.xpos[1:], moment.xquat[1:])
        np.testing.assert_allclose(placed, expected, atol=1e-6)
        assert shape.radius == pytest.approx(model.geom_size[i, 0])
    assert scene.floor(system) == 0


def test_links_are_mujocos_bodies():
    """What the pipeline state says of the links is what MuJoCo says of the bodies, index shifted by one."""
    physics = simulator("reacher", "spring")
    q = jnp.array([0.3, -0.7, 0.1, -0.05])
    links = physics.init({}, q, jnp.zeros(4)).x
    moment = mujoco.MjData(physics.env.sys.mj_model)
    moment.qpos[:] = q
    mujoco.mj_kinematics(physics.env.sys.mj_model, moment)
    np.testing.assert_allclose(links.pos, moment.xpos[1:], atol=1e-5)
    np.testing.assert_allclose(np.abs((np.asarray(links.rot) * moment.xquat[1:]).sum(-1)), 1, atol=1e-5)


def test_boxes_and_cylinders_have_their_corners():
    box, _ = scene._outline(scene.BOX, np.array([1.0, 2.0, 3.0]), 9.0)
    assert {tuple(np.abs(corner)) for corner in box} == {(1, 2, 3)}
    assert len(np.unique(box, axis=0)) == 8
    cylinder, radius = scene._outline(scene.CYLINDER, np.array([0.5, 2.0, 0.0]), 9.0)
    np.testing.assert_allclose(np.hypot(*cylinder[:, :2].T), 0.5)
    assert (radius, *sorted(set(cylinder[:, 2]))) == (0, -2, 2)
    assert scene._outline(7, np.zeros(3), 0.4)[1] == 0.4  # a mesh, as its bounding sphere


def test_the_camera_looks_at_the_centre_and_far_is_small():
    camera = scene.Camera(np.pi / 2, 0.0, 10.0)
    places, depth = camera.project(np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 10, 0]]), np.zeros(3))
    f = scene.FOCAL / 10
    np.testing.assert_allclose(places, [[0, 0], [f, 0], [0, f], [f / 2, 0]], atol=1e-12)
    np.testing.assert_allclose(depth, [10, 10, 10, 20])
