"""Trains one run per combination of options, and shows all results in one table.

python experiments/sweep.py --folder sweeps/lr --grid inner_lr=0.05,0.1 outer_lr=0.001,0.003 -- --task point-nav
python experiments/sweep.py --folder sweeps/random --random outer_lr=log:1e-4:1e-2 tasks=int:5:40 --samples 10 \
    -- --preset point-nav
python experiments/sweep.py --folder sweeps/kl --grid max_kl=0.003,0.01,0.03 --seeds 3 --cluster slurm \
    --slurm time=240 partition=gpu gpus_per_node=1 -- --preset point-nav-finn2017
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import sys

from metarl_jax.commands.sweep import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
