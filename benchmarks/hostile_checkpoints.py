"""Hostile cases with checkpoints: damaged, swapped, of other runs, and requested by invalid names."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile_configurations import DEEP, text, written
from benchmarks.hostile_files import RESUME, fifo
from benchmarks.hostile_tools import (
    DONE,
    DREW,
    DREW_OR_REFUSED,
    EITHER,
    EVERY,
    ITERATIONS,
    REFUSED,
    Case,
    Keeps,
    Place,
    Prepare,
)

NEWEST = ITERATIONS - EVERY
_BEFORE = NEWEST - EVERY


def record(change: Callable[[dict[str, Any]], Any], iteration: int = NEWEST) -> Prepare:
    """Changes a checkpoint's record and updates its digest."""

    def prepare(place: Place) -> None:
        from metarl_jax.runs.checkpoint.leaves import proof

        path = place.run / "checkpoints" / str(iteration) / "record" / "metadata"
        old = json.loads(path.read_text(encoding="utf-8"))
        old.pop("proof")
        new = change(old)
        path.write_text(json.dumps(new | {"proof": proof(new)} if isinstance(new, dict) else new), encoding="utf-8")

    return prepare


def both(change: Callable[[dict[str, Any]], Any]) -> Prepare:
    """Applies a change to both checkpoints."""

    def prepare(place: Place) -> None:
        for iteration in (NEWEST, _BEFORE):
            record(change, iteration)(place)

    return prepare


def checkpoint(change: Callable[[Path], object]) -> Prepare:
    """Applies a change to the folder ``checkpoints``."""
    return lambda place: change(place.run / "checkpoints")


def _swapped(folder: Path) -> None:
    (folder / str(NEWEST)).rename(folder / "swap")
    (folder / str(_BEFORE)).rename(folder / str(NEWEST))
    (folder / "swap").rename(folder / str(_BEFORE))


def _states_swapped(folder: Path) -> None:
    one, two = (folder / str(iteration) / "state" for iteration in (NEWEST, _BEFORE))
    one.rename(folder.parent / "swap")
    two.rename(one)
    (folder.parent / "swap").rename(two)


def _foreign(place: Place, **changes: Any) -> None:
    """Replaces the checkpoints by those of another configuration with the same name."""
    import dataclasses

    import jax.numpy as jnp

    from metarl_jax.runs import config as configs
    from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
    from metarl_jax.runs.checkpoint.states import initial_state
    from metarl_jax.types import MetaState

    shutil.rmtree(place.run / "checkpoints")
    other = dataclasses.replace(place.lab.config, **changes)
    state = initial_state(configs.build(other), other)
    checkpoints = Checkpoints(place.run, other, state, write=True)
    checkpoints.save(MetaState(state.params, state.opt_state, jnp.int32(NEWEST)))
    checkpoints.close()


def _policy(**options: Any) -> Any:
    from metarl_jax.runs.config.options import PolicyConfig

    return PolicyConfig(**options)


def _every_file(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in (folder / str(NEWEST) / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(content(path.read_bytes()))

    return change


def _meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"schema": 1}')


def _huge(folder: Path) -> None:
    """Sets the arrays' shapes to 10¹² rows."""
    for path in (folder / str(NEWEST) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b'"shape":[2', b'"shape":[2000000000000'))


_D = f"checkpoints/{NEWEST}"
# change of the checkpoints, command, required end, and error line
_CHECKPOINTS: dict[str, tuple[Prepare, str, dict[int, Keeps], str]] = {
    "of another algorithm": (lambda place: _foreign(place, algorithm="fomaml"), RESUME, REFUSED, "algorithm was"),
    "with a critic": (lambda place: _foreign(place, algorithm="tmaml"), "evaluate run", REFUSED, "algorithm was"),
    "of other layers": (
        lambda place: _foreign(place, policy=_policy(hidden=(3,))),
        "evaluate run",
        REFUSED,
        "hidden was|another state",
    ),
    "of another task": (lambda place: _foreign(place, task="point-robot"), RESUME, REFUSED, "task was"),
    "of another seed": (lambda place: _foreign(place, seed=5), RESUME, REFUSED, "seed was"),
    "of two seeds": (lambda place: _foreign(place, seeds=2), "evaluate run", REFUSED, "seeds was"),
    "swapped": (checkpoint(_swapped), RESUME, REFUSED, "no whole checkpoint"),
    "whose states are swapped": (checkpoint(_states_swapped), RESUME, REFUSED, "no whole checkpoint"),
    "of schema 1": (checkpoint(_meta), "evaluate run", REFUSED, "are of schema 1"),
    "of schema 99": (both(lambda old: old | {"schema": 99}), RESUME, REFUSED, "are of schema 99"),
    "of a schema that is a word": (both(lambda old: old | {"schema": "2"}), "evaluate run", REFUSED, "schema"),
    "whose record is a list": (both(lambda old: [old]), RESUME, REFUSED, "no whole checkpoint"),
    "whose record says nothing": (both(lambda old: {}), "render run", REFUSED, "no whole checkpoint"),
    "whose layout is a number": (both(lambda old: old | {"layout": 3}), RESUME, REFUSED, "checkpoint"),
    "whose configuration is a word": (both(lambda old: old | {"configuration": "x"}), RESUME, REFUSED, "checkpoint"),
    "whose iteration is another": (both(lambda old: old | {"iteration": 10**30}), RESUME, REFUSED, "no whole"),
    "whose iteration is a word": (both(lambda old: old | {"iteration": "x"}), "evaluate run", REFUSED, "no whole"),
    "whose score is NaN": (both(lambda old: old | {"score": float("nan")}), RESUME, DONE, ""),
    "whose score is a word": (both(lambda old: old | {"score": "best"}), RESUME, EITHER, "checkpoint|score"),
    "whose versions are a word": (record(lambda old: old | {"versions": "x"}), RESUME, EITHER, "checkpoint|versions"),
    "whose versions are markup": (
        record(lambda old: old | {"versions": {"jax": "[/red]"}}),
        RESUME,
        EITHER,
        "checkpoint",
    ),
    "whose newest record is nested deep": (written(DEEP, f"{_D}/record/metadata"), RESUME, DONE, ""),
    "whose newest record has a key twice": (
        text(lambda old: old.replace("{", '{"schema": 3, ', 1), f"{_D}/record/metadata"),
        RESUME,
        EITHER,
        "checkpoint",
    ),
    "whose newest state is cut": (checkpoint(_every_file(lambda old: old[:-3])), RESUME, DONE, ""),
    "whose newest state is random": (checkpoint(_every_file(lambda old: os.urandom(len(old)))), RESUME, DONE, ""),
    "whose newest state is zeros": (checkpoint(_every_file(lambda old: bytes(len(old)))), "evaluate run", DREW, ""),
    "whose newest state is 10¹² long": (checkpoint(_huge), RESUME, DONE, ""),
    "whose newest state is a pickle": (
        checkpoint(_every_file(lambda old: b"cos\nsystem\n(S'touch pwned'\ntR.")),
        RESUME,
        DONE,
        "",
    ),
    "whose newest manifest is a pipe": (
        lambda place: fifo(place.run / _D / "state" / "manifest.ocdbt"),
        RESUME,
        DONE | REFUSED,
        "manifest|checkpoint",
    ),
    "whose newest is a file": (
        checkpoint(lambda path: (shutil.rmtree(path / str(NEWEST)), (path / str(NEWEST)).write_text("x"))),
        RESUME,
        EITHER,
        "checkpoint",
    ),
    "whose newest is a link to the one before": (
        checkpoint(lambda path: (shutil.rmtree(path / str(NEWEST)), (path / str(NEWEST)).symlink_to(str(_BEFORE)))),
        RESUME,
        EITHER,
        "checkpoint",
    ),
    "beside one of iteration 10³⁰": (
        checkpoint(lambda path: (path / str(10**30)).mkdir()),
        RESUME,
        EITHER,
        "checkpoint",
    ),
    "beside one of iteration −1": (checkpoint(lambda path: (path / "-1").mkdir()), RESUME, DONE, ""),
    "beside one of iteration ٣": (checkpoint(lambda path: (path / "٣").mkdir()), RESUME, EITHER, "checkpoint"),
    "beside one of iteration 0196": (
        checkpoint(lambda path: (path / f"0{NEWEST}").mkdir()),
        RESUME,
        EITHER,
        "checkpoint",
    ),
    "beside a stranger's file": (checkpoint(lambda path: (path / "notes.txt").write_text("mine")), RESUME, DONE, ""),
    "beside 1,000 unfinished ones": (
        checkpoint(lambda path: [(path / f"{i}.orbax-checkpoint-tmp").mkdir() for i in range(1000)]),
        RESUME,
        DONE,
        "",
    ),
}

_ASKED = {"-1": REFUSED, "٣": REFUSED, "999": REFUSED, "../../outside": REFUSED, "": REFUSED, "9" * 5000: REFUSED,
          "[/red]": REFUSED, str(NEWEST): DREW_OR_REFUSED}  # fmt: skip

CASES: tuple[Case, ...] = (
    *(
        Case(
            kind="checkpoints",
            name=f"{what}, {command.split()[0]}",
            command=command,
            prepare=(prepare,),
            ends=ends,
            says=says,
        )
        for what, (prepare, command, ends, says) in _CHECKPOINTS.items()
    ),
    *(
        Case(
            kind="checkpoints",
            name=f"asked for {asked[:20]!a}, evaluate",
            command="evaluate run",
            words=(f"--checkpoint={asked}",),
            ends=ends,
            says="checkpoint",
        )
        for asked, ends in _ASKED.items()
    ),
)
