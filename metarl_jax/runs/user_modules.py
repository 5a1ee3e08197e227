"""Modules of the user's own that the scripts import, so that they know the environments and algorithms these register.

A run's folder does not name them: what a stranger's folder holds is data, and never what is executed.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "METARL_IMPORT"
"""environment variable with the modules, separated by commas; processes that a script starts inherit it"""

HELP = "Every script takes --import MODULE: a module of yours that registers environments or algorithms."


def _named() -> list[str]:
    return [module for module in os.environ.get(VARIABLE, "").split(",") if module]


def taken_from(argv: Sequence[str]) -> list[str]:
    """The words of a command line without ``--import MODULE``, which may stand several times; `load` imports them.

    Raises:
        ValueError: what follows is no name of a module.
    """
    kept, modules, words = [], _named(), iter(argv)
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
        os.environ[VARIABLE] = ",".join(dict.fromkeys(modules))
    return kept


def load() -> None:
    """Imports the modules, from the working folder or from what is installed.

    Raises:
        ValueError: there is no such module.
    """
    for module in _named():
        folder = str(Path.cwd())
        if folder not in sys.path:  # last, so that nothing in it stands for a package that others import
            sys.path.append(folder)
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports what is not
            raise ValueError(f"there is no module {module!r} to import, neither in {folder} nor installed") from error
