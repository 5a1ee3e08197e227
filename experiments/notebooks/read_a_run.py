# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading and plotting a run
#
# A run is a folder of plain files. This notebook makes a short one with the command line, then reads its
# configuration, its metrics and its evaluation, draws them, and loads θ for an evaluation of its own.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import metarl_jax as mrl
from metarl_jax.runs.pictures.plots import read_metrics

folder = Path(tempfile.mkdtemp()) / "run"
options = "--task point-nav --algorithm promp --iterations 40 --tasks 20 --episodes 10 --min-std 0.1 --seed 3"
command = [sys.executable, "-c", "import sys; from metarl_jax.commands.entry import train; sys.exit(train())"]
subprocess.run([*command, *options.split(), "--folder", str(folder)], check=True, capture_output=True)
print(*sorted(path.name for path in folder.iterdir()), sep="\n")

# %% [markdown]
# In a shell the same is `python experiments/train.py --task point-nav …`, or `metarl-train` with an installed wheel.
#
# `config.json` has all settings, `evaluation.json` the returns on held-out tasks.

# %%
config = json.loads((folder / "config.json").read_text())
print({name: config[name] for name in ("task", "algorithm", "iterations", "seed")})
report = json.loads((folder / "evaluation.json").read_text())
for name, row in report["rows"].items():
    pairs = zip(row["mean"], row["standard_error"], strict=True)
    print(f"{name:12}", " ".join(f"{mean:7.1f} ± {error:.1f}" for mean, error in pairs))

# %% [markdown]
# `metrics.csv` has a row for each iteration (and seed). `read_metrics` returns its columns as arrays; pandas reads
# the file as well.

# %%
metrics = read_metrics(folder / "metrics.csv")
print(*metrics, sep=", ")

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
millions = np.cumsum(metrics["environment_steps"]) / 1e6
axes[0].plot(millions, metrics["return_0"], label="before the inner step")
axes[0].plot(millions, metrics["return_1"], label="after it")
axes[0].set(xlabel="environment steps (millions)", ylabel="return of an episode", title="Return")
axes[0].legend()
axes[1].plot(metrics["iteration"], metrics["meta_gradient_norm"])
axes[1].set(xlabel="iteration", title="Norm of the meta-gradient", yscale="log")
adapted = np.array(report["rows"]["adapted"]["per_task"])
axes[2].plot(adapted.T, color="C1", alpha=0.3)
axes[2].plot(adapted.mean(0), color="k", marker="o", label="mean")
axes[2].set(xlabel="inner steps", ylabel="return", title="Held-out tasks", xticks=range(adapted.shape[1]))
axes[2].legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# `mrl.load` gives the environment, the algorithm and θ. The environment draws test tasks unless another split is
# named, and `evaluate` takes more inner steps than training had.

# %%
run = mrl.load(folder)
rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(0), run.params, num_tasks=20, steps=4)
print(rows["adapted"])
