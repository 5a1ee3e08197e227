"""A self-contained HTML page that shows two bodies side by side; it works offline."""

import html
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.runs.pictures import scene
from metarl_jax.runs.pictures.replay import Episode
from metarl_jax.runs.pictures.scene import Camera, Frame, Shape

TEMPLATE = Path(__file__).with_name("viewer.html")
LABELS = ("before adaptation", "after adaptation")


class View(NamedTuple):
    """Two episodes of one task, before and after adaptation. Their `look` is Brax's Transform of the links."""

    title: str
    shapes: list[Shape]
    floor: float | None
    """height of the ground, metres"""
    dt: float
    """seconds per step"""
    episodes: tuple[Episode, Episode]
    labels: tuple[str, str] = LABELS
    goal: tuple[float, float] | None = None
    """goal position on the ground, metres"""
    heading: tuple[float, float] | None = None
    """goal direction along the ground"""
    speed: bool = False
    """whether to show the mean speed along x"""

    @property
    def frame(self) -> Frame:
        """Frame shared by both episodes."""
        links = self.episodes[0].look
        return scene.frame(self.shapes, np.asarray(links.pos[0]), np.asarray(links.rot[0]))

    @property
    def camera(self) -> Camera:
        """Camera shared by both episodes."""
        position, rotation = (
            np.concatenate([np.asarray(getattr(episode.look, name)) for episode in self.episodes])
            for name in ("pos", "rot")
        )
        return scene.choose_camera(self.shapes, position, rotation)


def return_so_far(episode: Episode) -> np.ndarray:
    """[T+1] cumulative reward."""
    return np.concatenate([[0.0], np.cumsum(np.asarray(episode.reward, np.float64))])


def _numbers(values: Any, digits: int = 4) -> list:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def _episode(episode: Episode, label: str) -> dict[str, Any]:
    links = np.concatenate([np.asarray(episode.look.pos), np.asarray(episode.look.rot)], -1)
    return {
        "label": label,
        "links": _numbers(links),
        "returns": _numbers(return_so_far(episode)),
        "steps": int(np.asarray(episode.valid).sum()),
    }


def data(title: str, views: list[View]) -> dict[str, Any]:
    """Data for the page's script: lengths in metres; `links` are [T+1][links][x y z, w x y z]."""
    return {
        "title": title,
        "focal": scene.FOCAL,
        "views": [
            {
                "title": view.title,
                "dt": view.dt,
                "floor": view.floor,
                "grid": scene.grid_step(view.frame.scale),
                "camera": view.camera._asdict(),
                **view.frame._asdict(),
                "goal": view.goal,
                "heading": view.heading,
                "speed": view.speed,
                "shapes": [shape._asdict() | {"points": _numbers(shape.points)} for shape in view.shapes],
                "episodes": [_episode(e, label) for e, label in zip(view.episodes, view.labels, strict=True)],
            }
            for view in views
        ],
    }


def page(title: str, views: list[View]) -> str:
    """The page's HTML. The fragment ``#task=2&t=0.5`` in its address shows that view at 0.5 s, paused.

    Raises:
        ValueError: a number is not finite.
    """
    try:
        text = json.dumps(data(title, views), allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError("an episode holds a position or reward that is NaN or infinite; it cannot be drawn") from error
    # Escapes "</script>" and "<!--" in titles, which would end the script or hide its end.
    page = TEMPLATE.read_text(encoding="utf-8").replace("TITLE", html.escape(title), 1)
    return page.replace("DATA", text.replace("<", "\\u003c"), 1)
