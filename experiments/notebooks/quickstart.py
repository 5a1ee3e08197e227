# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: learn to learn in 2-D navigation
#
# A point must reach a goal that it cannot see. One policy-gradient step on twenty episodes has to be enough to find it,
# for any goal: that is what θ is trained for. Everything below runs on CPU in about two minutes; put
# `"cheetah-vel"` in place of `"point-nav"` and it is Brax.

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import metarl_jax as mrl

ITERATIONS = int(os.environ.get("QUICKSTART_ITERATIONS", "100"))

# %% [markdown]
# An environment is a distribution over tasks p(M); the task is an argument of `reset` and `step`. An algorithm is
# four pure functions: `init`, `update`, `adapt`, `gradient`.

# %%
env = mrl.envs.make("point-nav", action_scale=10.0)
policy = mrl.policies.mlp(env, min_std=0.1)
algorithm = mrl.algorithms.make("promp", env, tasks=20, episodes=20, inner_lr=0.1, policy=policy)
state = algorithm.init(jax.random.key(0))
update = jax.jit(algorithm.update)

# %% [markdown]
# A meta-iteration samples tasks, adapts to each, and moves θ so that adaptation works better.
# `metrics["return"]` is the mean return of an episode before and after the inner step.

# %%
history = []
for iteration in range(ITERATIONS):
    state, metrics = update(jax.random.fold_in(jax.random.key(1), iteration), state)
    history.append(metrics["return"])
    if iteration % 20 == 0 or iteration == ITERATIONS - 1:
        before, after = metrics["return"]
        print(f"iteration {iteration:3d}: return {before:7.2f} before, {after:7.2f} after one inner step")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4))
for label, values in zip(("before adaptation", "after one step"), np.array(history).T, strict=True):
    axes[0].plot(values, label=label)
axes[0].set(xlabel="meta-iteration", ylabel="return of an episode", title="Meta-training")
axes[0].legend()

# Adapt to one task: phi = f_theta(D). `adapt` is the function that training itself uses.
task = env.sample_task(jax.random.key(2))
out = jax.jit(algorithm.adapt)(jax.random.key(3), state.params, task)
print(f"goal {task.goal}, return {out.returns[0].mean():.2f} before and {out.returns[1].mean():.2f} after")

for stage, label in enumerate(("before adaptation", "after one step")):
    for episode in range(3):
        steps = out.trajectory.valid[stage, episode]
        path = out.trajectory.observation[stage, episode][steps]
        axes[1].plot(*path.T, color=f"C{stage}", alpha=0.7, label=label if episode == 0 else None)
axes[1].plot(*task.goal, "k*", markersize=14, label="hidden goal")
axes[1].set(xlabel="x", ylabel="y", title="Episodes in one new task", aspect="equal")
axes[1].legend()
plt.show()

# %% [markdown]
# The meta-gradient itself is a function too: an estimate of ∇J(θ) from fresh data, an ascent direction.

# %%
gradient, info = jax.jit(algorithm.gradient)(jax.random.key(4), state.params)
print(jax.tree.map(lambda leaf: leaf.shape, gradient))
print(f"norm {info['meta_gradient_norm']:.3f}")
