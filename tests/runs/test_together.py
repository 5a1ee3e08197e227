"""Runs with numbers of their own in one program: each folder holds what it would hold alone."""

import contextlib
import csv
import dataclasses
import functools
import io
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from metarl_jax.runs import config as configs
from metarl_jax.runs import run as runs
from metarl_jax.runs import together
from metarl_jax.runs.config import AlgorithmConfig, Built
from metarl_jax.runs.console import cli
from metarl_jax.runs.console.signals import Interrupted
from metarl_jax.runs.sweeps import results
from metarl_jax.runs.together import Asked, as_many_as_fit, train_together
from metarl_jax.sharing import one_program
from tests import rows
from tests.runs.stub import ITERATIONS, STEPS, assert_same_run, make, newest, stub_algorithm, stub_env

FAILS = 13.0
"""a rate whose runs turn NaN"""


def algorithm(outer_lr):
    """The stub with steps that are `outer_lr` times as long; they turn NaN at `FAILS`."""
    base = stub_algorithm()

    def update(key, state):
        new, metrics = base.update(key, state)
        params = {"w": state.params["w"] + outer_lr * (new.params["w"] - state.params["w"]), "b": new.params["b"]}
        lost = (outer_lr == FAILS) & (state.iteration == 5)
        return new.replace(params=params), metrics | {"loss": jnp.where(lost, jnp.nan, metrics["loss"])}

    return base._replace(update=update)


member = one_program(algorithm)


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    """Every configuration builds it."""

    def build(config, **_):
        return Built(stub_env(), member(outer_lr=config.algorithm_options.outer_lr))

    monkeypatch.setattr(configs, "build", build)


def asked(folder, rate, **changes):
    options = AlgorithmConfig(adaptation_steps=STEPS, outer_lr=rate)
    config = make(folder / f"rate-{rate}", algorithm_options=options, traced=("outer_lr",), **changes)
    return Asked(config, Console(file=io.StringIO(), width=200))


def table(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("seeds", [2, rows.thorough(1)])
def test_each_has_the_numbers_that_it_has_alone(tmp_path, seeds):
    several = [asked(tmp_path, rate, seeds=seeds) for rate in (0.5, 1.0, 2.0)]
    assert list(train_together(several)) == [(0, None), (1, None), (2, None)]
    for config, _ in several:
        alone = dataclasses.replace(config, folder=str(tmp_path / "alone" / config.run_folder.name))
        runs.train_run(alone, Console(quiet=True))
        assert table(config.run_folder) == [pytest.approx(row, rel=1e-5) for row in table(alone.run_folder)]
        assert len(table(config.run_folder)) == ITERATIONS * seeds
        ours, theirs = (results.report(one.run_folder, one)["rows"]["adapted"]["mean"] for one in (config, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        ours, theirs = (sorted(p.name for p in folder.iterdir()) for folder in (config.run_folder, alone.run_folder))
        assert ours == theirs
    assert newest(several[0].config.run_folder, several[0].config).params["w"].shape == ((2, 3) if seeds == 2 else (3,))


def test_one_that_fails_stops_no_other_and_keeps_its_rows_and_checkpoint(tmp_path):
    several = [asked(tmp_path, rate) for rate in (0.5, FAILS, 2.0)]
    ended = dict(train_together(several))
    assert (ended[0], ended[2]) == (None, None)
    assert isinstance(ended[1], cli.RunStopped)
    assert str(ended[1]).startswith("stopped at iteration 5: 'loss' is nan; the last good checkpoint, of iteration 4")
    assert [len(table(config.run_folder)) for config, _ in several] == [ITERATIONS, 5, ITERATIONS]
    alone = asked(tmp_path / "alone", FAILS)
    with pytest.raises(cli.RunStopped, match="stopped at iteration 5: 'loss' is nan"):
        runs.train_run(*alone)
    ours, theirs = (table(one.config.run_folder) for one in (several[1], alone))
    assert ours == [pytest.approx(row, rel=1e-5) for row in theirs]


def test_with_patience_one_goes_on_as_it_would_alone(tmp_path):
    several = [asked(tmp_path, rate, on_nonfinite="skip", patience=2) for rate in (FAILS, 1.0)]
    assert [error for _, error in train_together(several)] == [None, None]
    undone = [[row["nonfinite"] for row in table(config.run_folder)] for config, _ in several]
    assert undone == [[0] * 5 + [1] + [0] * 4, [0] * ITERATIONS]


def test_all_may_fail(tmp_path):
    ((_, error),) = train_together([asked(tmp_path, FAILS)])
    assert "stopped at iteration 5" in str(error)


@pytest.fixture
def whole(tmp_path):
    several = [asked(tmp_path / "whole", rate) for rate in (0.5, 2.0)]
    list(train_together(several))
    return [config for config, _ in several]


def again(tmp_path, whole):
    """Goes on with what was begun, and compares with the runs that nobody stopped."""
    several = [asked(tmp_path, rate) for rate in (0.5, 2.0)]
    assert [error for _, error in train_together(several)] == [None, None]
    for config, (ours, _) in zip(whole, several, strict=True):
        assert_same_run(config.run_folder, ours.run_folder, ours)


def test_a_signal_writes_checkpoints_and_the_same_call_goes_on(tmp_path, whole, monkeypatch):
    plain, sent = together._Run.take, []

    def take(run, chunk, live):
        if chunk.done >= 3 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        plain(run, chunk, live)

    with monkeypatch.context() as patched:
        patched.setattr(together._Run, "take", take)
        with pytest.raises(Interrupted, match=r"iteration \d of 10 is saved"):
            list(train_together([asked(tmp_path, rate) for rate in (0.5, 2.0)]))
    config = asked(tmp_path, 0.5).config
    assert 3 <= newest(config.run_folder, config).iteration < ITERATIONS
    again(tmp_path, whole)


def test_killed_between_two_checkpoints_each_goes_on_from_its_own(tmp_path, whole, monkeypatch):
    plain = together._Run.take

    def take(run, chunk, live):
        if chunk.done >= 8 and run.config.algorithm_options.outer_lr == 2.0:
            raise KeyboardInterrupt
        plain(run, chunk, live)

    with monkeypatch.context() as patched:
        patched.setattr(together._Run, "take", take)
        with pytest.raises(KeyboardInterrupt):
            list(train_together([asked(tmp_path, rate) for rate in (0.5, 2.0)]))
    at = [int(newest(config.run_folder, config).iteration) for config, _ in (asked(tmp_path, r) for r in (0.5, 2.0))]
    assert at == [8, 4]
    again(tmp_path, whole)


def test_a_folder_that_cannot_go_on_stops_no_other(tmp_path):
    several = [asked(tmp_path, rate) for rate in (0.5, 2.0)]
    several[0].config.run_folder.mkdir(parents=True)
    (several[0].config.run_folder / "notes").touch()
    (first, error), second = train_together(several)
    assert (first, type(error)) == (0, cli.UserError)
    assert second == (1, None)


def test_files_of_one_that_cannot_be_closed_stop_no_other(tmp_path, monkeypatch):
    several = [asked(tmp_path, rate) for rate in (0.5, 1.0)]
    opened = together.opened

    @contextlib.contextmanager
    def full(config, *arguments):
        with opened(config, *arguments) as session:
            yield session
        if config is several[1].config:
            raise OSError("no space left")

    monkeypatch.setattr(together, "opened", full)
    (_, none), (_, error) = train_together(several)
    assert (none, str(error)) == (None, "no space left")
    assert results.report(several[0].config.run_folder, several[0].config) is not None


def test_no_more_are_trained_at_once_than_fit(tmp_path, monkeypatch):
    config = asked(tmp_path, 0.5, seeds=2).config
    assert as_many_as_fit(config, 8) == 8
    bound = functools.partial(_fits, seeds=9)
    monkeypatch.setattr(together, "check_run", bound)
    assert as_many_as_fit(config, 8) == 4
    monkeypatch.setattr(together, "check_run", functools.partial(_fits, seeds=1))
    assert as_many_as_fit(config, 8) == 1


def _fits(built, config, *, seeds):
    if config.seeds > seeds:
        raise ValueError("too much")
