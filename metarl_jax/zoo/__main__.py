"""Adds a run to the zoo of this checkout.

python -m metarl_jax.zoo add runs/mine point-nav/promp --command "python experiments/train.py ..." --hardware "..."

`METARL_IMPORT` names the modules that register an environment or an algorithm of your own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metarl_jax.runs.console import cli


def main(argv: Sequence[str]) -> None:
    """The command line, without the program's name; raises UserError where the run cannot be added."""
    parser = argparse.ArgumentParser(prog="python -m metarl_jax.zoo", description="Add a run to the zoo.")
    parser.add_argument("what", choices=["add"])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--command", required=True)
    parser.add_argument("--hardware", required=True)
    arguments = parser.parse_args(argv)
    cli.import_modules()
    with cli.user_errors():
        from metarl_jax.zoo.store import add

        print(add(arguments.run, arguments.name, arguments.command, arguments.hardware))


if __name__ == "__main__":
    sys.exit(cli.run(main))
