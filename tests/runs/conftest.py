"""Runs of the stub, which the tests of run folders share."""

import functools
import io

import pytest
from rich.console import Console

import metarl_jax as mrl
from metarl_jax.runs import config as configs
from metarl_jax.runs import run as runs
from metarl_jax.runs.config import Built
from tests.runs.stub import make, stub_algorithm, stub_env

shared_stub = functools.cache(stub_algorithm)  # one algorithm is compiled once


@pytest.fixture
def registries():
    """What a test registers is forgotten afterwards."""
    known = mrl.envs.FAMILIES, mrl.algorithms.ALGORITHMS
    before = [dict(registry) for registry in known]
    yield
    for registry, content in zip(known, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def stub(monkeypatch):
    """Every configuration builds the stub; the fixture changes which."""

    def use(**options):
        algorithm = shared_stub(**options)
        monkeypatch.setattr(configs, "build", lambda config, **_: Built(stub_env(), algorithm))

    use()
    return use


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def whole(tmp_path, stub, console):
    """An uninterrupted run."""
    return runs.train_run(make(tmp_path / "whole"), console)
