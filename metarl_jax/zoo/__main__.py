"""Adds a run to the zoo of this checkout.

python -m metarl_jax.zoo add runs/mine point-nav/promp --command "python experiments/train.py ..." --hardware "..."
"""

import argparse
from pathlib import Path

from metarl_jax.zoo.store import add

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m metarl_jax.zoo", description="Add a run to the zoo.")
    parser.add_argument("what", choices=["add"])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--command", required=True)
    parser.add_argument("--hardware", required=True)
    arguments = parser.parse_args()
    print(add(arguments.run, arguments.name, arguments.command, arguments.hardware))
