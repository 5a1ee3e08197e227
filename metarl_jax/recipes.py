"""How an algorithm or an environment was made, so that it can say so, and be made again from a folder."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """A call by name: ``algorithms.make(name, env, **options)``, or ``envs.make(name, **options)``."""

    name: str
    options: Mapping[str, Any]
    """as they were given"""
    made: Any
    """what the call made"""
    env: Any = None
    """an algorithm's environment"""
    about: str = ""
    """the call in words"""

    def replaced(self, thing: Any) -> list[str]:
        """The fields of `thing` that are no longer those of the call."""
        names = (
            [field.name for field in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else thing._fields
        )
        return [name for name in names if name != "recipe" and getattr(thing, name) != getattr(self.made, name)]


def by_names(self: Any) -> str:
    """A bundle of functions in one line, ``Policy(init=mlp.init, apply=mlp.apply)``: names instead of addresses.

    It is the `__repr__` of such a bundle.
    """
    names = {
        field: getattr(value, "__qualname__", repr(value)).replace(".<locals>", "")
        for field, value in zip(self._fields, self, strict=True)
        if field not in self._field_defaults or value != self._field_defaults[field]
    }
    return f"{type(self).__name__}({', '.join(f'{field}={name}' for field, name in names.items())})"
