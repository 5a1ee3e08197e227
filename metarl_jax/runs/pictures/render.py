"""Implements experiments/render.py: held-out tasks before and after adaptation, as pages, videos and plots."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.inner.adapter import policy_of
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.states import params_of_seeds, restore
from metarl_jax.runs.config import Built
from metarl_jax.runs.config.file import read_config
from metarl_jax.runs.console import talk
from metarl_jax.runs.console.cli import user_errors
from metarl_jax.runs.memory import bytes_of_episode, check_fits
from metarl_jax.runs.pictures.replay import Episode, record
from metarl_jax.runs.storage import files
from metarl_jax.runs.storage.folder import check_own
from metarl_jax.training import streams
from metarl_jax.types import PyTree, numbered

PATHS = 10
"""episodes drawn per task of a point family; robots are shown in one episode"""


class Recording(NamedTuple):
    """Recorded episodes of held-out tasks; all leaves have a leading axis of tasks."""

    tasks: PyTree
    returns: jax.Array
    """[tasks, S, N] returns during adaptation, as in evaluation.json"""
    episodes: tuple[Episode, Episode]
    """episodes before and after adaptation, leaves [tasks, episodes, ...]"""


def _is_point(env: TaskEnv, task: PyTree, revealed: int) -> bool:
    """Whether the task has a goal in the plane and the observation is a position in it (plus the revealed task)."""
    has_goal = getattr(getattr(task, "goal", None), "shape", None) == (2,)
    return has_goal and env.observation_shape is None and env.observation_size - revealed == 2


def _record(
    key, built: Built, theta: PyTree, look: Any, *, tasks: int, steps: int, episodes: int, horizon: int
) -> Recording:
    """Adapts to the first held-out tasks of an evaluation, with its random draws, and then records episodes.

    Episode n uses the same key before and after adaptation: that of the stage after the last of the trial.
    """
    env, (adapt, policy) = built.env, (built.algorithm.adapt, built.algorithm.policy)
    assert policy is not None
    task_key, adapt_key, _ = jax.random.split(key, 3)  # as in metarl_jax.evaluation; a test checks this

    def one(index):
        task, key = env.sample_task(jax.random.fold_in(task_key, index)), jax.random.fold_in(adapt_key, index)
        adapted = adapt(key, theta, task, steps=steps)
        keys = numbered(jax.random.fold_in(key, steps + 1), episodes)
        pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), policy_of(theta), adapted.params)

        def of_policy(params):
            return jax.vmap(lambda key: record(key, env, policy, params, task, lambda s: look(task, s), horizon))(keys)

        # One program runs both policies; the results are unstacked outside.
        return task, adapted.returns, jax.vmap(of_policy)(pair)

    task_batch, returns, both = jax.device_get(jax.jit(jax.vmap(one))(jnp.arange(tasks)))
    before, after = jax.tree.map(lambda leaf: leaf[:, 0], both), jax.tree.map(lambda leaf: leaf[:, 1], both)
    return Recording(task_batch, returns, (before, after))


def _links(env: TaskEnv):
    """``(task, state) → poses of all links``."""
    assert env.scene is not None
    scene = env.scene
    return lambda task, state: scene(task, state)[1].x


def _check_drawable(env: TaskEnv, config: configs.TrainConfig) -> None:
    task = jax.eval_shape(env.sample_task, jax.random.key(0))
    revealed = sum(leaf.size for leaf in jax.tree.leaves(task)) if config.reveal_task else 0
    if env.scene is None and not _is_point(env, task, revealed):
        raise ValueError(
            f"{env.name} has neither a body nor a path in the plane, so there is nothing to render; "
            f"experiments/show_tasks.py {config.task} draws its tasks"
        )


def render_run(
    folder: Path,
    console: Console,
    *,
    tasks: int = 3,
    steps: int | None = None,
    seed: int | None = None,
    split: str | None = None,
    output: Path | None = None,
    video: bool = True,
    brax_viewer: bool = False,
) -> list[Path]:
    """Renders episodes of a run's newest checkpoint and first seed in held-out tasks, before and after adaptation.

    Args:
        folder: the run folder.
        console: where the files are listed.
        tasks: number of tasks, the first of those that `evaluate_run` uses.
        steps: inner steps; None: the L of training, at least 1.
        seed: seed of the held-out tasks; None: the run's `eval_seed`.
        split: split of the tasks; None: the run's `eval_split`.
        output: folder of the results; None: ``renders`` in the run folder, or ``renders-SPLIT`` if the split is not
            "test".
        video: also write a video per task of a robot.
        brax_viewer: also write Brax's pages of a robot.

    Returns:
        The files.

    Raises:
        UserError: bad input, or a task family that cannot be drawn.
    """
    with user_errors(), talk.status(console, "setting up"):
        checks.integer("tasks", tasks)
        check_own(folder)
        config = read_config(folder)
        overrides = {name: value for name, value in (("eval_seed", seed), ("eval_split", split)) if value is not None}
        # `replace` validates the given values.
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **overrides))
        trained_steps = configs.algorithm_value(config, "adaptation_steps")
        steps = checks.integer("steps", max(1, trained_steps or 1) if steps is None else steps)
        split = config.evaluation.eval_split
        built = configs.build(config, split=split)
        env = built.env
        _check_drawable(env, config)
        if built.algorithm.policy is None:
            raise ValueError(f"{config.algorithm} does not say which policy acts, so its episodes cannot be recorded")
        state, notes = restore(config)
        theta = params_of_seeds(state, config.seeds)[0]
        phi = jax.eval_shape(built.algorithm.policy.init, jax.random.key(0))
        if jax.tree.structure(policy_of(theta)) != jax.tree.structure(phi):
            raise ValueError(f"θ of {config.algorithm} does not act by itself, so there is no 'before' to draw")
        horizon = configs.algorithm_value(config, "horizon") or env.horizon
        sizes = {"tasks": tasks, "steps": steps, "horizon": horizon}
        check_fits("the recorded episodes", tasks * bytes_of_episode(env, horizon), sizes)
        if output is None:
            output = folder / ("renders" if split == "test" else f"renders-{split}")
        output.mkdir(parents=True, exist_ok=True)
    for note in notes:
        talk.note(console, note)
    key = streams(jax.random.key(config.evaluation.eval_seed)).evaluate
    title = f"{env.name}, {config.algorithm}"
    labels = ("before adaptation", f"after {steps} inner step{'s'[: steps > 1]}")
    with talk.status(console, f"adapting to {tasks} held-out tasks"):
        if env.scene is None:
            recording = _record(key, built, theta, lambda _, s: s.observation[:2], **sizes, episodes=PATHS)
        else:
            recording = _record(key, built, theta, _links(env), **sizes, episodes=1)
    with talk.status(console, "drawing"):
        if env.scene is None:
            results = _draw_points(recording, output, title, labels)
        else:
            results = _draw_bodies(recording, env, output, title, labels, video, brax_viewer)
    for file, meaning in results.items():
        talk.file(console, file, meaning)
    return list(results)


def _of_task(tree: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _draw_points(recording: Recording, output: Path, title: str, labels: tuple[str, str]) -> dict[Path, str]:
    from metarl_jax.runs.pictures import task_pictures

    count = len(recording.returns)
    tasks = [_of_task(recording.tasks, i) for i in range(count)]
    task_pictures.draw_paths(
        [(task_pictures.describe(task), np.asarray(task.goal)) for task in tasks],
        [(_of_task(recording.episodes[0], i), _of_task(recording.episodes[1], i)) for i in range(count)],
        output / "paths.png",
        title=title,
        labels=labels,
    )
    return {output / "paths.png": f"{PATHS} episodes in each of {count} held-out tasks"}


def _draw_bodies(
    recording: Recording,
    env: TaskEnv,
    output: Path,
    title: str,
    labels: tuple[str, str],
    video: bool,
    brax_viewer: bool,
) -> dict[Path, str]:
    from metarl_jax.runs.pictures import viewer
    from metarl_jax.runs.pictures.video import write_video

    assert env.scene is not None
    reset = jax.jit(env.reset)
    views, systems = [], []
    for index in range(len(recording.returns)):
        task = _of_task(recording.tasks, index)
        systems.append(env.scene(task, reset(jax.random.key(0), task))[0])
        views.append(_view(systems[-1], recording, index, labels))
    page = output / "bodies.html"
    with user_errors():  # raises for values that are not finite
        files.write(page, viewer.page(title, views))
    results = {page: "both bodies of every task, side by side; opens in a browser, offline"}
    for number, view in enumerate(views, start=1):
        if video:
            results[write_video(view, output / f"task-{number}")] = view.title
    for number, (view, system) in enumerate(zip(views, systems, strict=True), start=1):
        for name, episode in zip(("before", "after"), view.episodes, strict=True):
            if brax_viewer:
                from metarl_jax.envs.brax_page import brax_page

                page = output / f"brax-{number}-{name}.html"
                with user_errors():
                    files.write(page, brax_page(system, episode.look))
                results[page] = f"Brax's own viewer, {name} adaptation; needs the network when opened"
    return results


def _view(system: Any, recording: Recording, index: int, labels: tuple[str, str]) -> Any:
    from metarl_jax.runs.pictures import scene, task_pictures
    from metarl_jax.runs.pictures.viewer import View

    task = _of_task(recording.tasks, index)
    fields = task_pictures.leaves(task)
    goal, direction = fields.get("goal"), fields.get("direction")
    heading = None
    if direction is not None and direction.shape in ((), (2,)):
        heading = (float(direction), 0.0) if direction.ndim == 0 else tuple(direction.tolist())
    before, after = (_of_task(_of_task(episodes, index), 0) for episodes in recording.episodes)
    return View(
        title=task_pictures.describe(task),
        shapes=scene.shapes(system),
        floor=scene.floor(system),
        dt=float(system.opt.timestep),
        episodes=(before, after),
        labels=labels,
        goal=tuple(goal.tolist()) if goal is not None and goal.shape == (2,) else None,
        heading=heading,
        speed="target" in fields,
    )
