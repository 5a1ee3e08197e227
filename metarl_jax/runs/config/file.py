"""The configuration of a run as `config.json`, and the differences that a resumed run may have."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from metarl_jax.checks import unknown
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.storage import files, json_text

# Fields that --resume --override may change. None of them changes the result of an earlier iteration, except for
# rounding (devices) and after a NaN.
SAFE_TO_CHANGE = frozenset(
    {"iterations", "checkpoint_every", "keep", "wandb", "evaluation", "devices", "on_nonfinite", "patience"}
)
# The location of the folder and the origin of the values do not make runs different.
_NO_DIFFERENCE = frozenset({"folder", "preset"})

# Behaviour of runs whose configuration lacks the field, where today's default differs.
_BEFORE = {"algorithm_options": {"average": "valid"}}

_RESTORE = "restore it: every checkpoint's record holds the configuration too"


def read_config(folder: Path, name: str = "config.json") -> TrainConfig:
    """The configuration of a run folder, with `folder` set to its present location.

    Raises:
        ValueError: the folder is not a run folder, or its config.json cannot be read.
    """
    path = folder / name
    if not files.there(path):
        what = f"has no {name}, so it is no run folder" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}; experiments/train.py makes one")
    try:
        text = files.read(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); {_RESTORE}") from error
    return dataclasses.replace(from_json(text, str(path)), folder=str(folder))


def task_of(folder: Path, name: str = "config.json") -> str | None:
    """The name of a run's task, or None if it cannot be read; a later step reports the reason."""
    try:
        return read_config(folder, name).task
    except (ValueError, OSError):
        return None


def write_config(config: TrainConfig, folder: Path) -> None:
    """Writes config.json atomically."""
    files.write(folder / "config.json", to_json(config))


def to_json(config: TrainConfig) -> str:
    """The text of `config.json`."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, source: str = "the configuration") -> TrainConfig:
    """The configuration that `to_json` wrote; fields that it lacks are as they were before there were such fields.

    Raises:
        ValueError: it is not JSON, a field is unknown, or a value has the wrong type or range.
    """
    try:
        data = json_text.loads(text)
    except ValueError as error:
        raise ValueError(f"{source} is not JSON: {error}; {_RESTORE}") from error
    for part, before in _BEFORE.items():
        if isinstance(data, dict) and isinstance(data.get(part), dict):
            data[part] = before | data[part]
    return _from_dict(TrainConfig, data, source)


def _from_dict(cls: type, data: Any, source: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{source} holds {data!r} where an object is needed; {_RESTORE}")
    hints = typing.get_type_hints(cls)
    for name in sorted(data.keys() - hints.keys()):
        raise ValueError(f"{unknown(f'field of {source}', name, hints)}, or use the metarl_jax that wrote it")
    return cls(**{name: _convert(name, value, hints[name], source) for name, value in data.items()})


def _convert(name: str, value: Any, hint: Any, source: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _from_dict(typing.cast(type, hint), value, source)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in allowed:
        if typing.get_origin(kind) is tuple and isinstance(value, list):
            return tuple(_convert(name, entry, typing.get_args(kind)[0], source) for entry in value)
        if kind == tuple[float, ...] and isinstance(value, int | float) and not isinstance(value, bool):
            return (float(value),)  # one rate, as it was written before there could be several
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    raise ValueError(f"{source}: {name} is {value!r}; it must be {getattr(hint, '__name__', hint)}")


def differences(stored: TrainConfig, wanted: TrainConfig) -> tuple[list[str], list[str]]:
    """One line per field in which the run that goes on differs from what was stored: (fixed, safe to change)."""
    fixed: list[str] = []
    safe: list[str] = []
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(stored, field.name), getattr(wanted, field.name)
        if field.name in _NO_DIFFERENCE or old == new:
            continue
        if dataclasses.is_dataclass(old):
            pairs = [(f.name, getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old)]
        else:
            pairs = [(field.name, old, new)]
        changeable = field.name in SAFE_TO_CHANGE
        if field.name == "checkpoint_every" and "rollback" in (stored.on_nonfinite, wanted.on_nonfinite):
            changeable = False  # it says where a rollback goes back to
        if field.name == "iterations" and "constant" not in (stored.outer_lr_schedule, wanted.outer_lr_schedule):
            changeable = False  # over which the rate falls
        lines = [f"{name} was {before!r}, now {after!r}" for name, before, after in pairs if before != after]
        (safe if changeable else fixed).extend(lines)
    return fixed, safe
