"""Videos of two bodies side by side: MP4 if ffmpeg is installed, else GIF. Drawn with Matplotlib, without OpenGL."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from metarl_jax.plot import BLUE, ORANGE
from metarl_jax.runs.pictures import scene
from metarl_jax.runs.pictures.plots import styled
from metarl_jax.runs.pictures.scene import Camera
from metarl_jax.runs.pictures.viewer import View, return_so_far
from metarl_jax.runs.storage import files

MAX_FRAMES = 100
STRIDE = 2
"""minimum number of steps per frame"""
SIZE = (8.0, 4.0)
"""inches, at 80 pixels each; MP4 requires even numbers of pixels"""
_DISC = np.exp(1j * np.linspace(0, 2 * np.pi, 28, endpoint=False)).view(float).reshape(-1, 2)


def moments(steps: int) -> range:
    """The time steps to draw, from 0 … `steps`."""
    return range(0, steps + 1, max(STRIDE, -(-(steps + 1) // MAX_FRAMES)))


def hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of points [P, 2], by Andrew's monotone chain."""
    ordered = sorted(set(map(tuple, points.tolist())))

    def half(sequence):
        chain: list[tuple[float, float]] = []
        for p in sequence:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return np.array([*half(ordered), *half(reversed(ordered))] or ordered[:1])


def silhouette(camera: Camera, points: np.ndarray, radius: float, center: np.ndarray) -> tuple[np.ndarray, float]:
    """Projected outline [corners, 2] of balls around points [P, 3], and their mean depth."""
    places, depth = camera.project(points, center)
    discs = places[:, None] + (scene.FOCAL * radius / depth)[:, None, None] * _DISC
    return hull(discs.reshape(-1, 2) if radius else places), float(depth.mean())


class _Panel:
    """One body on the ground; half the height of the axes is 1."""

    def __init__(self, axes: Axes, view: View, index: int, camera: Camera):
        self.view, self.camera, self.frame = view, camera, view.frame
        self.episode = view.episodes[index]
        self.position, self.rotation = (np.asarray(getattr(self.episode.look, name)) for name in ("pos", "rot"))
        self.returns, self.steps = return_so_far(self.episode), int(np.asarray(self.episode.valid).sum())
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[], facecolor="#eef2f7")
        axes.spines[:].set_color("#d7dce2")
        axes.set_title(view.labels[index], loc="left", fontsize=10, color=(ORANGE, BLUE)[index], fontweight="bold")
        self.text = axes.set_title("", loc="right", fontsize=10)
        self.ended = axes.text(-0.95, -0.94, "", fontsize=9)
        self.layers = [PolyCollection([], zorder=order) for order in range(4)]  # ground, shadows, marks, body
        for layer in self.layers:
            axes.add_collection(layer)

    def draw(self, moment: int) -> None:
        view, position = self.view, self.position[moment]
        center = np.array([*position[0, :2], self.frame.height])
        tiles, shadows, marks, bodies = self.layers
        if view.floor is not None:
            tiles.set_verts(self._tiles(center, view.floor))
            tiles.set_facecolor("#c5cedb")
        parts, shades = [], []
        for shape in view.shapes:
            points = scene.place(shape, position, self.rotation[moment])
            outline, depth = silhouette(self.camera, points, shape.radius, center)
            parts.append((depth, outline, np.array(shape.color)))
            if view.floor is not None:
                height = points[:, 2:] - view.floor
                foot = points + height * [0.25, 0.3, -1.0]
                shades.append(silhouette(self.camera, foot, 0.7 * shape.radius, center)[0])
        shadows.set_verts(shades)
        shadows.set_facecolor("#aab4c2")
        marks.set_verts(self._marks(center))
        marks.set(facecolor="none", edgecolor="#d9202a", linewidth=1.8)
        parts.sort(key=lambda part: -part[0])
        bodies.set_verts([outline for _, outline, _ in parts])
        bodies.set_facecolor([tuple(color) for *_, color in parts])
        bodies.set_edgecolor([tuple(0.45 * color) for *_, color in parts])
        bodies.set_linewidth(0.8)
        ended = moment >= self.steps < len(self.returns) - 1
        self.ended.set_text(f"ended after {self.steps} steps" if ended else "")
        self.text.set_text(f"return so far {self.returns[moment]:.2f}".replace("-", "−"))

    def _tiles(self, center: np.ndarray, floor: float) -> list[np.ndarray]:
        """Alternate tiles of the ground, without those behind the camera."""
        step, reach = scene.grid_step(self.frame.scale), 5 * self.frame.scale
        count, (i0, j0) = int(np.ceil(reach / step)), np.floor(center[:2] / step).astype(int)
        i, j = np.meshgrid(np.arange(i0 - count, i0 + count), np.arange(j0 - count, j0 + count))
        chosen = np.stack([i, j], -1)[(i + j) % 2 == 1]
        corners = (chosen[:, None] + [[0, 0], [1, 0], [1, 1], [0, 1]]) * step
        corners = np.concatenate([corners, np.full((*corners.shape[:2], 1), floor)], -1)
        places, depth = self.camera.project(corners, center)
        return list(places[(depth > 0.1 * self.camera.distance).all(-1)])

    def _marks(self, center: np.ndarray) -> list[np.ndarray]:
        view, size, height = self.view, self.frame.scale, self.view.floor or 0.0
        outlines = []
        if view.goal is not None:
            outlines += [np.array(view.goal) + radius * size * _DISC for radius in (0.05, 0.11)]
        if view.heading is not None:
            dx, dy = view.heading
            side = np.array([(0.95, 0.04), (1.3, 0.04), (1.3, 0.11), (1.5, 0)])
            arrow = np.concatenate([side, side[2::-1] * [1, -1]])
            outlines.append(center[:2] + size * arrow @ np.array([[dx, dy], [-dy, dx]]))
        flat = [np.column_stack([outline, np.full(len(outline), height)]) for outline in outlines]
        return [self.camera.project(points, center)[0] for points in flat]


def frames(view: View) -> Iterator[np.ndarray]:
    """Pictures [height, width, 3] uint8 of the time steps in `moments`."""
    figure = Figure(figsize=SIZE, dpi=80)
    canvas = FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.86, wspace=0.03)
    steps = len(np.asarray(view.episodes[0].reward))
    camera = view.camera
    panels = [_Panel(axes, view, i, camera) for i, axes in enumerate(figure.subplots(1, 2))]
    title = figure.suptitle("", fontsize=11, parse_math=False)
    for moment in moments(steps):
        title.set_text(f"{view.title}, {moment * view.dt:.2f} s")
        for panel in panels:
            panel.draw(moment)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


@styled
def write_video(view: View, path: Path) -> Path:
    """Writes a video in real time.

    Args:
        view: the two episodes.
        path: path without suffix; ``.mp4`` or ``.gif`` is added.

    Returns:
        The file.

    Raises:
        OSError: ffmpeg failed, or the file cannot be written.
    """
    seconds = moments(len(np.asarray(view.episodes[0].reward))).step * view.dt
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        return _write_gif(view, path.with_name(f"{path.name}.gif"), seconds)
    path = path.with_name(f"{path.name}.mp4")
    pictures = np.stack(list(frames(view)))
    form = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{pictures.shape[2]}x{pictures.shape[1]}"]
    command = [ffmpeg, "-y", "-loglevel", "error", *form, "-r", f"{1 / seconds:.6f}", "-i", "-", "-pix_fmt", "yuv420p"]
    with files.whole(path, "xb") as file:
        # `file:` keeps ffmpeg from reading text before a colon as a protocol; the format is not in the temporary name.
        target = ["-f", "mp4", f"file:{os.path.abspath(file.name)}"]
        ffmpeg_run = subprocess.run([*command, *target], input=pictures.tobytes(), capture_output=True, check=False)
        if ffmpeg_run.returncode:
            raise OSError(f"ffmpeg could not write {path}: {ffmpeg_run.stderr.decode(errors='replace').strip()[-200:]}")
    return path


def _write_gif(view: View, path: Path, seconds: float) -> Path:
    pictures = [Image.fromarray(picture).quantize(128, dither=Image.Dither.NONE) for picture in frames(view)]
    # GIF durations are in 1/100 s, and browsers slow down frames shorter than 2/100 s.
    duration = max(20, round(1000 * seconds))
    with files.whole(path, "xb") as file:
        pictures[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=duration,
            loop=0,
            optimize=False,
        )
    return path
