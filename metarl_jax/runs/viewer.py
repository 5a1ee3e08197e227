"""One HTML page that shows two bodies side by side; it needs nothing but itself, so it opens offline."""

import html
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.runs import scene
from metarl_jax.runs.replay import Episode
from metarl_jax.runs.scene import Camera, Frame, Shape

TEMPLATE = Path(__file__).with_name("viewer.html")
LABELS = ("before adaptation", "after adaptation")


class View(NamedTuple):
    """One task and two episodes in it, before and after adaptation. Their `look` is Brax's Transform of the links."""

    title: str
    shapes: list[Shape]
    floor: float | None
    """height of the ground, metres"""
    dt: float
    """seconds between two moments"""
    episodes: tuple[Episode, Episode]
    labels: tuple[str, str] = LABELS
    goal: tuple[float, float] | None = None
    """a place on the ground to mark, metres"""
    heading: tuple[float, float] | None = None
    """a direction along the ground to mark"""
    speed: bool = False
    """whether the mean speed along x is of interest"""

    @property
    def frame(self) -> Frame:
        """One for both."""
        links = self.episodes[0].look
        return scene.frame(self.shapes, np.asarray(links.pos[0]), np.asarray(links.rot[0]))

    @property
    def camera(self) -> Camera:
        """One for both."""
        position, rotation = (
            np.concatenate([np.asarray(getattr(episode.look, name)) for episode in self.episodes])
            for name in ("pos", "rot")
        )
        return scene.choose_camera(self.shapes, position, rotation)


def return_so_far(episode: Episode) -> np.ndarray:
    """[T+1] sum of the rewards of the steps taken so far."""
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
    """What the page's script reads: lengths in metres, `links` are [T+1][links][x y z, w x y z]."""
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
    """The page's HTML. ``#task=2&t=0.5`` behind its address shows one moment: that view, half a second in, paused.

    Raises:
        ValueError: a number is not finite, so that there is no picture of it.
    """
    try:
        text = json.dumps(data(title, views), allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError("an episode holds a position or reward that is NaN or infinite; it cannot be drawn") from error
    # Neither "</script>" nor "<!--" in a title may end the script or hide its end.
    page = TEMPLATE.read_text(encoding="utf-8").replace("TITLE", html.escape(title), 1)
    return page.replace("DATA", text.replace("<", "\\u003c"), 1)
