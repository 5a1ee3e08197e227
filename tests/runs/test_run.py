import dataclasses
import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import algorithms
from metarl_jax.runs import config as configs
from metarl_jax.runs import run as runs
from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
from metarl_jax.runs.config import Built, TrainConfig
from metarl_jax.runs.config.file import read_config, write_config
from metarl_jax.runs.console.cli import RunStopped, UserError
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.pictures.plots import read_metrics
from tests.runs.stub import (
    EPISODES,
    ITERATIONS,
    STEPS,
    assert_same_run,
    contents,
    make,
    newest,
    stub_algorithm,
    stub_env,
)


def test_a_run_leaves_everything(whole, console):
    left = {path.name for path in whole.iterdir()}
    assert left >= {"config.json", "metrics.csv", "timing.csv", "tensorboard", "checkpoints"}
    assert left >= {"learning_curve.png", "adaptation.png", "evaluation.json"}
    lines = (whole / "metrics.csv").read_text().splitlines()
    assert lines[0] == "iteration,seed,return_0,return_1,gain,environment_steps,loss,nonfinite"
    assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(ITERATIONS)]
    assert read_config(whole) == make(whole)
    text = console.file.getvalue()
    assert "iteration 10/10" in text
    assert str(whole / "evaluation.json") in text
    assert any(path.stat().st_size for path in (whole / "tensorboard").iterdir())


def test_resumed_equals_uninterrupted_byte_for_byte(whole, tmp_path, console):
    folder = tmp_path / "resumed"
    runs.train_run(make(folder, iterations=6), console)
    with pytest.raises(UserError, match=r"iterations was 6, now 10; --override goes on with the new values"):
        runs.train_run(make(folder), console, resume=True)
    runs.train_run(make(folder), console, resume=True, override=True)
    assert_same_run(folder, whole, make(whole))
    assert read_config(folder).iterations == ITERATIONS


def test_other_metrics_than_before_end_a_resume_with_a_line(whole, tmp_path, console, monkeypatch):
    """As when an environment's `measure` has changed while a job waited in a queue."""
    folder, plain = tmp_path / "changed", stub_algorithm()
    runs.train_run(make(folder, iterations=6), console)

    def update(key, state):
        state, metrics = plain.update(key, state)
        return state, metrics | {"success": metrics["loss"]}

    monkeypatch.setattr(configs, "build", lambda config, **_: Built(stub_env(), plain._replace(update=update)))
    before = (folder / "metrics.csv").read_bytes()
    with pytest.raises(
        UserError, match=r"metrics are others than those of .*metrics.csv: new are success, gone are none"
    ):
        runs.train_run(make(folder), console, resume=True, override=True)
    assert (folder / "metrics.csv").read_bytes() == before


def test_a_killed_run_resumes_although_rows_were_logged_after_its_checkpoint(whole, tmp_path, console, monkeypatch):
    folder = tmp_path / "killed"
    save = Checkpoints.save

    def killed(self, state, score=None):
        if int(state.iteration) == 8:
            raise KeyboardInterrupt
        save(self, state, score)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            runs.train_run(make(folder), console)
    with (folder / "metrics.csv").open("a") as file:
        file.write("8,0,0.1,")  # cut in the middle of a row
    assert len((folder / "metrics.csv").read_text().splitlines()) == 10
    runs.train_run(make(folder), console, resume=True)
    assert_same_run(folder, whole, make(whole))


def test_a_damaged_newest_checkpoint_costs_only_time(whole, tmp_path, console):
    folder = tmp_path / "damaged"
    runs.train_run(make(folder, iterations=9), console)
    write_config(make(folder), folder)
    for file in (folder / "checkpoints" / "9" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"no")
    runs.train_run(make(folder), console, resume=True)
    assert "checkpoint 9 is damaged" in console.file.getvalue()
    assert "going back to checkpoint 8" in console.file.getvalue()
    assert_same_run(folder, whole, make(whole))


@pytest.mark.parametrize(("options", "metric"), [({"nan_metric_at": 6}, "loss"), ({"nan_state_at": 6}, "state")])
def test_numbers_that_are_not_finite_stop_the_run(tmp_path, stub, console, options, metric):
    stub(**options)
    folder = tmp_path / "nan"
    with pytest.raises(
        RunStopped, match=rf"iteration 6: '{metric}' .* checkpoint, of iteration 4, is in .*checkpoints"
    ) as e:
        runs.train_run(make(folder), console)
    assert "\n" not in str(e.value)
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 6  # everything before is logged
    assert int(newest(folder, make(folder)).iteration) == 4


def test_an_existing_folder_is_refused_and_left_alone(whole, console):
    before = contents(whole)
    with pytest.raises(UserError, match=r"exists; go on with it by --resume, or choose another by --folder"):
        runs.train_run(make(whole), console)
    with pytest.raises(UserError, match="iterations is 3, and .* has done 10; choose at least 10"):
        runs.train_run(make(whole, iterations=3), console, resume=True, override=True)
    with pytest.raises(UserError, match="seed was 0, now 5"):
        runs.train_run(make(whole, seed=5), console, resume=True)
    with pytest.raises(UserError, match="algorithm was 'maml', now 'promp'"):
        runs.train_run(make(whole, algorithm="promp"), console, resume=True)
    assert contents(whole) == before


def test_a_run_that_was_killed_before_it_could_be_resumed_starts_afresh(whole, tmp_path, console):
    folder = tmp_path / "unborn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl_jax.runs.session.write_config", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(RunStopped, match="stopped by SIGINT: the run had not begun; start it again"):
            runs.train_run(make(folder), console)
    assert {path.name for path in folder.iterdir()} >= {"checkpoints", "metrics.csv", "lock"}
    (folder / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        runs.train_run(make(folder), console)
    (folder / "mine.txt").unlink()
    (folder / "wandb").mkdir()
    runs.train_run(make(folder), console)
    assert_same_run(folder, whole, make(whole))


def test_a_run_that_lost_its_configuration_is_left_alone(tmp_path, stub, console):
    """A killed run has nothing beside what one before its first iteration has, but for later checkpoints."""
    folder = tmp_path / "run"
    runs.train_run(make(folder), console)
    for name in ("config.json", "evaluation.json", "adaptation.png", "learning_curve.png"):
        (folder / name).unlink()
    before = contents(folder)
    with pytest.raises(UserError, match="exists"):
        runs.train_run(make(folder), console)
    assert contents(folder) == before


def test_nothing_to_resume_or_to_evaluate(tmp_path, stub, console):
    with pytest.raises(UserError, match="does not exist"):
        runs.train_run(make(tmp_path / "none"), console, resume=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"has no config\.json"):
        evaluate_run(tmp_path, console)


def test_a_file_in_the_way_is_refused(tmp_path, stub, console):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        runs.train_run(make(tmp_path / "file"), console)
    assert (tmp_path / "file").read_text() == "precious"


def test_evaluation_repeats_itself_and_follows_the_schema(whole, console):
    first = json.loads((whole / "evaluation.json").read_text())
    report = evaluate_run(whole, console)
    assert report == first == json.loads((whole / "evaluation.json").read_text())
    assert {"task", "algorithm", "split", "num_tasks", "episodes_per_step", "rows", "inner_lr"} <= first.keys()
    assert (first["task"], first["algorithm"], first["split"], first["num_tasks"]) == ("stub", "maml", "test", 40)
    assert first["rows"].keys() == {"adapted", "random_init"}
    for row in first["rows"].values():
        assert row["steps"] == list(range(STEPS + 1))
        assert np.shape(row["per_task"]) == (40, STEPS + 1)
        np.testing.assert_allclose(row["mean"], np.mean(row["per_task"], 0))
        for name in ("standard_error", "median", "iqm", "gain_mean", "gain_standard_error"):
            assert np.shape(row[name]) == (STEPS + 1,)
        assert row["episodes"] == [EPISODES * step for step in range(STEPS + 1)]
        assert row["environment_steps"] == [EPISODES * stub_env().horizon * step for step in range(STEPS + 1)]
        assert row["counted_mean"] == row["mean"][-1]  # maml's own burn-in
    assert (first["burn_in"], first["stages_in_training"]) == (STEPS, STEPS + 1)
    row = evaluate_run(whole, console, burn_in=1)["rows"]["adapted"]
    np.testing.assert_allclose(row["counted_mean"], np.mean(row["mean"][1:]))
    before = (whole / "evaluation.json").read_bytes()
    own = np.atleast_1d(configs.algorithm_value(read_config(whole), "inner_lr")).tolist()
    assert evaluate_run(whole, console, seed=1)["rows"] != first["rows"]
    assert evaluate_run(whole, console, inner_lr=[1.0] * 9)["inner_lr"][0] == 1.0
    assert (whole / "evaluation.json").read_bytes() == before
    names = {path.stem.removeprefix("evaluation-") for path in whole.glob("evaluation-*")}
    assert names >= {"tasks-1", "rates-1.0_to_1.0_06b6acb9"}
    assert evaluate_run(whole, console, burn_in=0, inner_lr=own, seed=first["seed"])["burn_in"] == 0
    assert (whole / "evaluation.json").read_bytes() != before
    assert evaluate_run(whole, console, tasks=4)["num_tasks"] == 4


def test_evaluation_of_another_checkpoint_leaves_the_newests_alone(whole, console):
    before = (whole / "evaluation.json").read_bytes()
    report = evaluate_run(whole, console, checkpoint="8")
    assert report["iteration"] == 8
    assert json.loads((whole / "evaluation-8.json").read_text()) == report
    assert evaluate_run(whole, console, checkpoint="best")["iteration"] in (4, 8, 10)
    assert (whole / "evaluation.json").read_bytes() == before
    with pytest.raises(UserError, match=r"checkpoint is 'nwest'; it must be 'newest', 'best' or one of \[4, 8, 10\]"):
        evaluate_run(whole, console, checkpoint="nwest")


def test_an_evaluation_that_is_not_finite_writes_nothing(whole, console, stub, monkeypatch):
    before = (whole / "evaluation.json").read_bytes()
    algorithm = stub_algorithm()
    broken = algorithm._replace(
        adapt=lambda *a, **steps: algorithm.adapt(*a, **steps).replace(returns=np.full((STEPS + 1, EPISODES), np.nan))
    )
    monkeypatch.setattr(configs, "build", lambda config, **_: Built(stub_env(), broken))
    with pytest.raises(UserError, match="NaN or infinite"):
        evaluate_run(whole, console)
    assert (whole / "evaluation.json").read_bytes() == before


def test_seeds_are_trained_evaluated_and_resumed_together(tmp_path, stub, console):
    config = make(tmp_path / "seeds", seed=3, seeds=3)
    runs.train_run(config, console)
    table = read_metrics(tmp_path / "seeds" / "metrics.csv")
    report = json.loads((tmp_path / "seeds" / "evaluation.json").read_text())
    assert report["training_seeds"] == [3, 4, 5]
    for number, seed in enumerate((3, 4, 5)):
        alone = tmp_path / f"alone-{seed}"
        runs.train_run(make(alone, seed=seed), console)
        expected = read_metrics(alone / "metrics.csv")
        for name, values in expected.items():
            np.testing.assert_allclose(table[name][number::3], values, rtol=1e-5, atol=1e-6, err_msg=name)
        row = json.loads((alone / "evaluation.json").read_text())["rows"]["adapted"]
        assert report["per_seed"][number]["seed"] == seed
        np.testing.assert_allclose(report["per_seed"][number]["rows"]["adapted"]["mean"], row["mean"], rtol=1e-5)
    means = np.array([of["rows"]["adapted"]["mean"] for of in report["per_seed"]])
    np.testing.assert_allclose(report["rows"]["adapted"]["mean"], means.mean(0))
    np.testing.assert_allclose(report["rows"]["adapted"]["standard_error"], means.std(0, ddof=1) / np.sqrt(3))
    stopped = make(tmp_path / "stopped", seed=3, seeds=3, iterations=6)
    runs.train_run(stopped, console)
    runs.train_run(dataclasses.replace(stopped, iterations=ITERATIONS), console, resume=True, override=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "seeds", config)


def test_an_algorithm_without_sizes_among_its_options_runs(tmp_path, registry, console):
    """A registered function that takes the environment alone: what it adapts by is seen from what it gives."""
    plain = stub_algorithm()

    def adapt(key, theta, task, steps=STEPS):
        return plain.adapt(key, theta, jnp.zeros(()), steps)

    algorithms.register("bare", lambda env, policy=None: plain._replace(adapt=adapt))
    config = TrainConfig(task="point-nav", horizon=5, algorithm="bare", iterations=2, folder=str(tmp_path / "run"))
    report = json.loads((runs.train_run(config, console) / "evaluation.json").read_text())
    assert (report["adaptation_steps_in_training"], report["rows"]["adapted"]["steps"]) == (STEPS, [0, 1, 2, 3])
