"""Modules of the user's own that the scripts import, so that they know the environments and algorithms these register.

A run's folder does not name them: what a stranger's folder holds is data, and never what is executed.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "METARL_IMPORT"
"""environment variable with the modules, separated by commas; processes that a script starts inherit it"""

HELP = "Every script takes --import MODULE: a module of yours that registers environments or algorithms."


def named() -> list[str]:
    """The modules that the variable names.

    Raises:
        ValueError: one is no name of a module.
    """
    modules = [module for module in os.environ.get(VARIABLE, "").split(",") if module]
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"{VARIABLE} has {module!r}; it must be the name of a module, such as my_module")
    return modules


def taken_from(argv: Sequence[str]) -> list[str]:
    """The words of a command line without ``--import MODULE``, which may stand several times; `load` imports them.

    Raises:
        ValueError: what follows is no name of a module.
    """
    kept, modules, words = [], [], iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--import":
            kept.append(word)
            continue
        value = value if equals else next(words, "")
        if not all(part.isidentifier() for part in value.split(".")):
            raise ValueError(
                f"--import is {value!r}; it must be the name of a module, such as my_module for my_module.py"
            )
        modules.append(value)
    if modules:
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*named(), *modules]))
    return kept


def find() -> list[str]:
    """The modules to import, after the working folder was made known to Python if one of them is there.

    Raises:
        ValueError: a module is neither there nor installed, or both, so that the wrong one could be meant.
    """
    folder = Path.cwd()
    for module in named():
        first = module.split(".")[0]
        here = (folder / f"{first}.py").exists() or (folder / first / "__init__.py").exists()
        spec = importlib.util.find_spec(first)
        if spec is None and not here:
            raise ValueError(f"there is no module {module!r} to import, neither in {folder} nor installed")
        if spec is None:  # last, so that nothing in the folder stands for a package that others import
            sys.path.append(str(folder))
        elif here and not (spec.has_location and Path(spec.origin or "").resolve().is_relative_to(folder.resolve())):
            raise ValueError(
                f"module {module!r} is in {folder}, and Python knows another one, {spec.origin}; give yours another "
                "name"
            )
    return named()


def load(modules: Sequence[str]) -> None:
    """Imports them; what their own code raises is not touched."""
    for module in modules:
        importlib.import_module(module)
