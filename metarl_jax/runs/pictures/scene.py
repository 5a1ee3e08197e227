"""Geometry of a Brax system, as convex shapes on its links, and the camera shared by pages and videos.

This module does not import Brax or MuJoCo; it reads a system's fields by name.
"""

from typing import Any, NamedTuple

import numpy as np

PLANE, HEIGHT_FIELD, SPHERE, CAPSULE, _ELLIPSOID, CYLINDER, BOX = range(7)  # MuJoCo's geom types; 7 is a mesh
HIDDEN_GROUP = 3
"""MuJoCo's viewers hide geoms of this group and higher: collision shapes that duplicate visible ones"""
RIM = 16
"""number of corners of a cylinder's end"""
FOCAL = 2.6
"""focal length in units of half the picture's height; passed to viewer.html with the data"""
DEFAULT_COLORS = ((0.5, 0.5, 0.5), (0.4, 0.33, 0.26))
"""default colours of MuJoCo and Brax, replaced by `BODY` or `WORLD`, which contrast with the ground"""
BODY, WORLD = (0.85, 0.62, 0.36), (0.74, 0.77, 0.81)


class Shape(NamedTuple):
    """A rigid body on one link: the convex hull of balls of equal radius around `points`."""

    link: int
    """index of the link; −1 is the world"""
    points: np.ndarray
    """[P, 3] metres, in the link's frame"""
    radius: float
    """metres"""
    color: tuple[float, float, float]
    """red, green, blue in [0, 1]"""


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] turned by unit quaternions [..., 4] (w first); leading axes broadcast."""
    w, axis = quaternion[..., :1], quaternion[..., 1:]
    cross = 2 * np.cross(axis, vector)
    return vector + w * cross + np.cross(axis, cross)


def _outline(kind: int, size: np.ndarray, bound: float) -> tuple[np.ndarray, float]:
    """Points [P, 3] in the geom's frame and the radius around them."""
    if kind == CAPSULE:
        return np.array([[0, 0, -size[1]], [0, 0, size[1]]]), size[0]
    if kind == CYLINDER:
        angle = np.linspace(0, 2 * np.pi, RIM, endpoint=False)
        rim = np.stack([size[0] * np.cos(angle), size[0] * np.sin(angle), np.full(RIM, size[1])], -1)
        return np.concatenate([rim, rim * [1, 1, -1]]), 0.0
    if kind == BOX:
        return size * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T, 0.0
    return np.zeros((1, 3)), size[0] if kind == SPHERE else bound  # others as their bounding sphere


def shapes(system: Any) -> list[Shape]:
    """The visible bodies of a Brax system, in the order of its geoms, without planes and height fields.

    Args:
        system: Brax's System: MuJoCo's model with `geom_type`, `geom_size`, `geom_pos`, `geom_quat`, `geom_bodyid`,
            `geom_rgba`, `geom_group` and `geom_rbound`. Body 0 is the world, bodies 1 … n are the links.
    """
    fields = ("type", "size", "pos", "quat", "bodyid", "rgba", "group", "rbound")
    columns = [np.asarray(getattr(system, f"geom_{name}")).tolist() for name in fields]
    visible = []
    for kind, size, position, quaternion, body, rgba, group, bound in zip(*columns, strict=True):
        if kind in (PLANE, HEIGHT_FIELD) or rgba[3] == 0 or group >= HIDDEN_GROUP:
            continue
        points, radius = _outline(kind, np.array(size), bound)
        points = np.array(position) + rotate(np.array(quaternion), points)
        color = tuple(round(c, 3) for c in rgba[:3])
        if color in DEFAULT_COLORS:
            color = BODY if body > 0 else WORLD
        visible.append(Shape(body - 1, points, float(radius), color))
    return visible


def floor(system: Any) -> float | None:
    """Height of the lowest ground plane, metres; None if there is none."""
    heights = np.asarray(system.geom_pos)[np.asarray(system.geom_type) == PLANE, 2]
    return float(heights.min()) if len(heights) else None


def place(shape: Shape, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The shape's points in the world [..., P, 3], given positions [..., links, 3] and rotations [..., links, 4]."""
    if shape.link < 0:
        return np.broadcast_to(shape.points, (*position.shape[:-2], *shape.points.shape))
    turned = rotate(rotation[..., shape.link, None, :], shape.points)
    return position[..., shape.link, None, :] + turned


class Camera(NamedTuple):
    """A perspective camera looking at a centre; both panels share it, with separate centres."""

    azimuth: float
    """viewing direction, radians; π/2 looks along +y, so that +x is to the right"""
    elevation: float
    """elevation above the ground, radians"""
    distance: float
    """distance from the centre, metres"""

    def project(self, points: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points [..., 3] → picture coordinates [..., 2] (half the height is 1) and depths [...] in metres."""
        (ca, sa), (ce, se) = ((np.cos(a), np.sin(a)) for a in (self.azimuth, self.elevation))
        right, up = np.array([sa, -ca, 0]), np.array([se * ca, se * sa, ce])
        offset = points - center
        depth = offset @ np.array([ce * ca, ce * sa, -se]) + self.distance
        return FOCAL * np.stack([offset @ right, offset @ up], -1) / depth[..., None], depth


class Frame(NamedTuple):
    """Centre and scale of pictures of a body; the centre follows the first link along the ground."""

    height: float
    """height of the centre, metres"""
    scale: float
    """largest distance of a point of the body from the centre at the start, metres"""


def frame(shapes: list[Shape], position: np.ndarray, rotation: np.ndarray) -> Frame:
    """The frame of a body, from link positions [links, 3] and rotations [links, 4] at one time step."""
    bodies = np.concatenate([place(shape, position, rotation) for shape in shapes if shape.link >= 0])
    height = (bodies[:, 2].min() + bodies[:, 2].max()) / 2
    return Frame(float(height), float(np.linalg.norm(bodies - [*position[0, :2], height], axis=-1).max()))


def choose_camera(shapes: list[Shape], position: np.ndarray, rotation: np.ndarray) -> Camera:
    """A side view if the body moves in the xz plane, a view from above if it is flat, else in between.

    Args:
        shapes: shapes of the body.
        position: [steps, links, 3] of some episodes.
        rotation: [steps, links, 4].
    """
    scale = frame(shapes, position[0], rotation[0]).scale
    extent = np.ptp(np.concatenate([place(s, position[0], rotation[0]) for s in shapes if s.link >= 0]), axis=0)
    if extent[2] < 0.2 * extent[:2].max():
        elevation = 62
    elif np.ptp(position[:, 0, 1]) < 0.02 * scale:
        elevation = 12
    else:
        elevation = 28
    return Camera(float(np.pi / 2), float(np.radians(elevation)), FOCAL * scale / 0.6)


def grid_step(scale: float) -> float:
    """Width of the ground tiles, metres: 1, 2 or 5 times a power of ten, about half the body's size."""
    power = 10.0 ** np.floor(np.log10(scale / 2))
    return float(power * max(m for m in (1, 2, 5) if m * power <= scale / 2))
