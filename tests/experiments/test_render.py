"""Rendering at toy size: what is drawn is what was simulated, and the page runs in a browser, offline."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image, ImageChops
from rich.console import Console

from metarl_jax.commands import render as script
from metarl_jax.runs.checkpoint.states import restore
from metarl_jax.runs.config import AlgorithmConfig, EvaluationConfig, PolicyConfig, TrainConfig, build
from metarl_jax.runs.config.file import read_config
from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.pictures import render, scene, video, viewer
from metarl_jax.runs.pictures.replay import Episode
from metarl_jax.runs.session import opened
from metarl_jax.training import streams

T = 6


@pytest.fixture(autouse=True, scope="module")
def _an_unchanged_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_jax", lambda task=None: None)
        patch.setattr(video, "shutil", SimpleNamespace(which=lambda name: None))  # no ffmpeg, whatever is installed
        yield


MAML_OPTIONS = AlgorithmConfig(episodes=4, inner_lr=(1.0,))


def untrained(folder, task, algorithm="maml", algorithm_options=MAML_OPTIONS, **options):
    """A run folder with the checkpoint that every run starts with: nothing is compiled but θ."""
    config = TrainConfig(
        task=task,
        algorithm=algorithm,
        folder=str(folder),
        algorithm_options=algorithm_options,
        policy=PolicyConfig(hidden=(4,)),
        evaluation=EvaluationConfig(eval_tasks=2, eval_steps=2),
        **options,
    )
    with opened(config, False, False, Console(quiet=True)):
        pass
    return folder


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The renders of a reacher's run: one compilation of its physics for all tests."""
    folder = untrained(tmp_path_factory.mktemp("runs") / "reacher", "reacher-goal", horizon=T)
    script.main([str(folder), "--tasks", "2", "--brax-viewer"])
    return folder / "renders"


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("runs") / "point", "point-nav", horizon=T)


def page_data(path):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_the_tasks_and_the_adaptation_are_those_of_the_evaluation(point):
    report = evaluate_run(point, Console(quiet=True))
    config = read_config(point)
    built, theta = build(config, split="test"), restore(config)[0].params
    key = streams(jax.random.key(config.evaluation.eval_seed)).evaluate
    held = render._record(
        key, built, theta, lambda _, state: state.observation, tasks=2, steps=2, episodes=3, horizon=T
    )
    np.testing.assert_allclose(held.returns.mean(-1), report["rows"]["adapted"]["per_task"], rtol=1e-5)
    before, after = held.episodes
    assert before.look.shape == (2, 3, T + 1, 2)
    assert not np.allclose(before.reward, after.reward)
    np.testing.assert_array_equal(before.look[:, :, 0], after.look[:, :, 0])


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_page_holds_both_bodies_of_every_task(rendered):
    text = (rendered / "bodies.html").read_text()
    assert "http" not in text, "the page must need nothing but itself"
    found = page_data(rendered / "bodies.html")
    assert found["title"] == "reacher-goal@v1 (test), maml"
    assert len(found["views"]) == 2
    for view in found["views"]:
        assert view["title"] == "goal ({:.2f}, {:.2f})".format(*view["goal"]).replace("-", "−")
        assert view["dt"] == pytest.approx(0.02)
        assert [e["label"] for e in view["episodes"]] == ["before adaptation", "after 1 inner step"]
        before, after = (np.array(e["links"]) for e in view["episodes"])
        assert before.shape == after.shape == (T + 1, 3, 7)
        np.testing.assert_array_equal(before[0], after[0])
        assert not np.allclose(before, after)
        np.testing.assert_allclose(before[:, 2, :2], np.broadcast_to(view["goal"], (T + 1, 2)), atol=2e-3)
        for episode in view["episodes"]:
            assert episode["returns"][0] == 0
            assert len(episode["returns"]) == T + 1
            assert episode["steps"] == T
            assert (np.diff(episode["returns"]) < 0).all()
            # The reward says where the tip was, up to the charge for the control of at most 0.02.
            elbow = np.array(episode["links"])[1:, 1]
            tip = elbow[:, :3] + scene.rotate(elbow[:, 3:], np.array([0.11, 0, 0]))
            distance = np.linalg.norm(tip[:, :2] - view["goal"], axis=-1)
            charge = -np.diff(episode["returns"]) - distance
            assert ((charge > -1e-3) & (charge < 0.021)).all()


def test_the_animation_has_a_frame_every_other_step_and_two_different_halves(rendered):
    frames = Image.open(rendered / "task-1.gif")
    assert frames.n_frames == len(video.moments(T)) == 4
    assert frames.info["duration"] == 40
    frames.seek(frames.n_frames - 1)
    picture = frames.convert("RGB")
    middle = picture.width // 2
    halves = [picture.crop((x, 60, x + middle, picture.height)) for x in (0, middle)]
    assert ImageChops.difference(*halves).getbbox()
    assert (rendered / "task-2.gif").exists()


@pytest.mark.parametrize("steps", [1, 2, 50, 199, 200, 1000])
def test_animations_stay_short(steps):
    chosen = video.moments(steps)
    assert chosen[0] == 0
    assert 1 <= len(chosen) <= video.MAX_FRAMES
    assert chosen.step >= 2


def test_braxs_own_pages_say_where_the_body_is(rendered):
    names = [f"brax-{number}-{when}.html" for number in (1, 2) for when in ("before", "after")]
    assert {path.name for path in rendered.glob("brax-*")} == set(names)
    assert "viewer" in (rendered / names[0]).read_text()


def test_hull_drops_what_lies_inside():
    inside = np.random.default_rng(0).uniform(-0.7, 0.7, (50, 2))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    found = video.hull(np.concatenate([inside, corners]))
    assert {tuple(p) for p in found} == {tuple(p) for p in corners}
    assert video.hull(np.ones((3, 2))).tolist() == [[1, 1]]


def toy_view(title="goal", links=2):
    def episode(shift):
        position = np.zeros((4, links, 3))
        position[:, :, 0] = shift * np.arange(4)[:, None] + np.arange(links)
        rotation = np.broadcast_to([1.0, 0, 0, 0], (4, links, 4))
        look = type("Links", (), {"pos": position, "rot": rotation})
        return Episode(look=look, reward=np.ones(3), valid=np.array([True, True, False]))

    shapes = [scene.Shape(link, np.array([[0, 0, 0.1], [0.5, 0, 0.3]]), 0.1, (0.5, 0.5, 0.5)) for link in range(links)]
    return viewer.View(title, shapes, 0.0, 0.05, (episode(0.1), episode(-0.1)), heading=(0.0, 1.0))


def test_titles_cannot_break_the_page():
    title = "</script><b>&"
    text = viewer.page(title, [toy_view(title)])
    assert title not in text
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp;</title>" in text
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data)["views"][0]["title"] == title


def test_what_is_not_finite_is_not_drawn():
    view = toy_view()
    view.episodes[0].look.pos[2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        viewer.page("title", [view])


def test_ffmpeg_is_used_where_it_is(tmp_path, monkeypatch):
    fake = tmp_path / "ffmpeg"
    fake.write_text(
        '#!/bin/sh\nfor last; do :; done\nlast=${last#file:}; echo "$@" > "$last.arguments"\ncat > "$last"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(video, "shutil", SimpleNamespace(which=lambda name: str(fake)))
    path = video.write_video(toy_view(), tmp_path / "task-1")
    assert path.name == "task-1.mp4"
    width, height = (round(80 * inches) for inches in video.SIZE)
    assert path.stat().st_size == len(video.moments(3)) * width * height * 3
    assert f"-s {width}x{height} -r 10.0" in path.with_name("task-1.mp4.tmp.arguments").read_text()
    fake.write_text("#!/bin/sh\ncat > /dev/null\necho no such codec >&2\nexit 1\n")
    with pytest.raises(OSError, match="no such codec"):
        video.write_video(toy_view(), tmp_path / "task-2")


def test_paths_of_a_point(point, tmp_path, capsys):
    script.main([str(point), "--tasks", "2", "--steps", "1", "--folder", str(tmp_path / "elsewhere")])
    path = tmp_path / "elsewhere" / "paths.png"
    assert str(path) in capsys.readouterr().out
    assert Image.open(path).convert("L").getextrema() == (0, 255)
    assert [p.name for p in path.parent.iterdir()] == ["paths.png"]


ONE_TASK = {
    "an oracle's": {"reveal_task": True},
    "learned rates, in normal units": {
        "algorithm": "meta-sgd",
        "algorithm_options": AlgorithmConfig(episodes=4, normalize_observations=True),
    },
}


@pytest.mark.parametrize("run", ONE_TASK)
def test_other_points_are_drawn_too(tmp_path, run):
    folder = untrained(tmp_path / "run", "point-nav", horizon=T, **ONE_TASK[run])
    script.main([str(folder), "--tasks", "1"])
    assert (folder / "renders" / "paths.png").exists()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["BANDIT"], "gaussian-bandit@v1 [(]test[)] has neither a body nor a path.*show_tasks.py gaussian-bandit"),
        (["MEMORY"], "rl2 does not say which policy acts"),
        (["POINT", "--tasks", "0"], "tasks is 0"),
        (["POINT", "--steps", "0"], "steps is 0"),
        (["POINT", "--seed", "-1"], "eval_seed is -1"),
        (["POINT", "--folder", "FILE"], "exists"),
        (["POINT", "--taks", "2"], "did you mean --tasks"),
    ],
)
def test_bad_input_is_one_line(point, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    names = {"POINT": str(point), "FILE": "file"}
    if "BANDIT" in arguments:
        names["BANDIT"] = str(untrained(tmp_path / "bandit", "gaussian-bandit"))
    if "MEMORY" in arguments:
        names["MEMORY"] = str(untrained(tmp_path / "memory", "point-nav", "rl2", AlgorithmConfig(episodes=2)))
    before = set(point.rglob("*"))
    assert cli.run(script.main, [names.get(a, a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error, re.IGNORECASE), error
    assert set(point.rglob("*")) == before


# --- in a browser ----------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def browse(address, profile):
    """The document after two seconds of the page's own time, and what the page said on its console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--window-size=1200,640"]
    options += ["--virtual-time-budget=2000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def canvases(document):
    """The data attributes of both canvases."""
    tags = re.findall(r"<canvas [^>]*>", document)
    return [dict(re.findall(r'data-(\w+)="([^"]*)"', tag)) for tag in tags]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_two_moving_bodies_and_says_nothing(rendered, tmp_path):
    control = tmp_path / "control.html"
    control.write_text("<script>nonsense()</script>")
    assert browse(control.as_uri(), tmp_path)[1], "errors would not be noticed"

    page = (rendered / "bodies.html").as_uri()
    shapes = len(page_data(rendered / "bodies.html")["views"][1]["shapes"])
    moments = {}
    for time in ("0", "0.06", None):
        document, said = browse(f"{page}#task=2" + ("" if time is None else f"&t={time}"), tmp_path)
        assert said == []
        moments[time] = canvases(document)
        assert [c["drawn"] for c in moments[time]] == [str(shapes)] * 2
    start, later, playing = moments["0"], moments["0.06"], moments[None]
    assert start[0]["points"] == start[1]["points"], "both start alike"
    assert later[0]["points"] != later[1]["points"]
    assert float(later[0]["moment"]) == pytest.approx(3, abs=0.01)
    assert all(a["points"] != b["points"] for a, b in zip(start, later, strict=True))
    assert playing[0]["moment"] == playing[1]["moment"]

    # The script's geometry is that of scene.py.
    view = page_data(rendered / "bodies.html")["views"][1]
    links = np.array(view["episodes"][1]["links"])[3]
    for shape in view["shapes"]:
        shape["points"] = np.array(shape["points"])
    expected = [scene.place(scene.Shape(**shape), links[:, :3], links[:, 3:]) for shape in view["shapes"]]
    found = np.array(later[1]["points"].split(), float).reshape(-1, 3)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-4)
