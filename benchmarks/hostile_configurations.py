"""Hostile cases with configurations: damaged, forged, edited by hand."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.hostile_files import RESUME
from benchmarks.hostile_tools import (
    REFUSED,
    Case,
    Place,
    Prepare,
)


def text(change: Callable[[str], str | bytes], name: str = "config.json") -> Prepare:
    """Changes the text of a file."""

    def prepare(place: Place) -> None:
        new = change((place.run / name).read_text(encoding="utf-8"))
        (place.run / name).write_bytes(new if isinstance(new, bytes) else new.encode("utf-8", "surrogatepass"))

    return prepare


def written(content: str | bytes, name: str = "config.json") -> Prepare:
    """Replaces the content of a file."""
    return text(lambda _: content, name)


def config(**changes: Any) -> Prepare:
    """Edits config.json; a name with a double underscore is a field of a group."""

    def change(old: str) -> str:
        data = json.loads(old)
        for name, value in changes.items():
            group, _, field = name.rpartition("__")
            (data[group] if group else data)[field] = value
        return json.dumps(data)

    return text(change)


def _cell(name: str, literal: str) -> Prepare:
    """Inserts the text of a value into config.json, for values that `json.dumps` would not write."""
    return text(lambda old: old.replace(f'"{name}": {json.loads(old)[name]}', f'"{name}": {literal}'))


DEEP = "[" * 100_000 + "]" * 100_000
# change of config.json, and error line; all scripts must reject it
_CONFIGS: dict[str, tuple[Prepare, str]] = {
    "nested 100,000 deep": (written(DEEP), "config.json"),
    "with a field nested 100,000 deep": (_cell("iterations", DEEP), "config.json"),
    "with 10,000 digits": (_cell("iterations", "9" * 10_000), "config.json"),
    "with 1e999": (_cell("iterations", "1e999"), "iterations is inf"),
    "with -Infinity": (config(algorithm_options__inner_lr=[float("-inf")]), "inner_lr"),
    "with NaN": (config(algorithm_options__discount=float("nan")), "discount is nan"),
    "with a key twice": (text(lambda old: '{"seed": 3, ' + old.lstrip()[1:]), "seed"),
    "with a key twice, the same": (text(lambda old: '{"seed": 0, ' + old.lstrip()[1:]), "seed"),
    "followed by another": (text(lambda old: old + old), "config.json is not JSON"),
    "with a comment": (text(lambda old: "// mine\n" + old), "config.json is not JSON"),
    "in UTF-16": (text(lambda old: old.encode("utf-16")), "config.json"),
    "with a byte order mark": (text(lambda old: old.encode("utf-8-sig")), "config.json"),
    "of zeros": (written(b"\0" * 4096), "config.json"),
    "10 MB of words": (written(b'"' + b"x" * 10**7 + b'"'), "config.json"),
    "null": (written("null"), "config.json"),
    "with null for a number": (config(iterations=None), "iterations is None"),
    "with a list for a word": (config(task=["point-nav"]), "task is"),
    "with an object for a word": (config(task={"name": "point-nav"}), "task is"),
    "with a word for a group": (config(policy="mlp"), "config.json"),
    "with a half of a letter": (config(task="\ud800"), "^error: "),
    "with markup for a task": (config(task="[/red]"), r"\[/red\]"),
    "with a path for a task": (config(task="../../outside"), "unknown environment"),
    "with a module for an algorithm": (config(algorithm="os.system"), "unknown algorithm"),
    "with a module for a surrogate": (config(algorithm_options__surrogate="os.system"), "unknown surrogate"),
    "with a program for an option": (
        config(algorithm_options__option=["outer_lr=__import__('os').system('touch pwned')"]),
        "outer_lr",
    ),
    "with a program for an option of the task": (
        config(env_option=["action_scale=__import__('os').system('touch pwned')"]),
        "action_scale",
    ),
    "with 10¹² hidden units": (config(policy__hidden=[10**12]), "hidden"),
    "with 10⁹ seeds": (config(seeds=10**9), "seeds"),
    "with another algorithm": (config(algorithm="fomaml"), "algorithm"),
    "with other layers": (config(policy__hidden=[3]), "hidden"),
    "with another seed": (config(seed=7), "seed"),
    "of a later version": (config(shards=4), "use the metarl_jax that wrote it"),
}
_SCRIPTS = (RESUME, "evaluate run", "render run")


def _configs() -> list[Case]:
    return [
        Case(
            kind="configurations",
            name=f"{what}, {(command := _SCRIPTS[number % 3]).split()[0]}",
            command=command,
            prepare=(prepare,),
            ends=REFUSED,
            says=says,
            shell='ulimit -v 12000000; exec "$@"',
        )
        for number, (what, (prepare, says)) in enumerate(_CONFIGS.items())
    ]


CASES: tuple[Case, ...] = tuple(_configs())
