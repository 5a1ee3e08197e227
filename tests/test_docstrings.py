"""The examples in docstrings run, and print what they say."""

import dataclasses
import doctest
import importlib
import inspect
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import pytest

import metarl_jax as mrl
from metarl_jax.envs import FAMILIES

# Where a newcomer looks first.
DOCUMENTED = [
    "metarl_jax.base.MetaAlgorithm",
    "metarl_jax.base.TaskEnv",
    "metarl_jax.envs.check",
    "metarl_jax.envs.make",
    "metarl_jax.envs.register",
    "metarl_jax.envs.fixed.fix_task",
    "metarl_jax.evaluation.evaluate",
    "metarl_jax.learner.Learner",
    "metarl_jax.plot.adaptation_curve",
    "metarl_jax.plot.learning_curve",
    "metarl_jax.policies.networks.mlp",
    "metarl_jax.runs.load.load",
    "metarl_jax.runs.save.save",
    "metarl_jax.training.train",
    "metarl_jax.zoo.store.load",
]
NAMES = {"dataclasses": dataclasses, "jax": jax, "jnp": jnp, "mrl": mrl, "pathlib": pathlib}
NAMES["tempfile"] = tempfile
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.thorough
@pytest.mark.parametrize("name", DOCUMENTED)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    families = dict(FAMILIES)
    module, _, attribute = name.rpartition(".")
    thing = getattr(importlib.import_module(module), attribute)
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", dict(NAMES), name, None, None)
    assert test.examples, f"{name} has no example"
    report: list[str] = []
    try:
        failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    finally:
        FAMILIES.clear()
        FAMILIES.update(families)
    assert not failed, "".join(report)
