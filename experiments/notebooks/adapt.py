# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Adapt a trained start to a new task
#
# The package brings a few θ with it. One of them adapts to a task of yours in seconds: nothing is trained here.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import metarl_jax as mrl

print(*mrl.zoo.names(), sep="\n")
run = mrl.zoo.load("point-nav/maml-trpo")
print(f"{run.config.algorithm} on {run.env.name}, {run.iteration} meta-iterations")

# %% [markdown]
# A task of `point-nav` is a goal. `adapt` sees it by the rewards of twenty episodes a step alone. θ was trained
# for one inner step; `steps=3` takes two more, each with half of the rate before.

# %%
task = run.env.sample_task(jax.random.key(0)).replace(goal=jnp.array([0.35, -0.3]))
adapt = jax.jit(run.algorithm.adapt, static_argnames="steps")
out = adapt(jax.random.key(1), run.params, task, steps=3)
for step, returns in enumerate(out.returns):
    print(f"return after {step} inner steps: {returns.mean():7.2f}")

# %%
figure, panels = plt.subplots(1, 4, figsize=(13, 3.4), sharex=True, sharey=True)
for step, axes in enumerate(panels):
    for episode in range(5):
        taken = out.trajectory.valid[step, episode]
        path = out.trajectory.observation[step, episode][taken]
        axes.plot(*path.T, color="C0", alpha=0.6, linewidth=1)
    axes.plot(*task.goal, "*", color="C3", markersize=13)
    axes.set(title=f"{step} steps: return {out.returns[step].mean():.1f}", aspect="equal")
figure.tight_layout()

# %% [markdown]
# Is this goal typical? `evaluate` adapts to held-out tasks, and untrained parameters beside them from equal data.

# %%
rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(2), run.params, num_tasks=20, steps=3)
for name, row in rows.items():
    print(name, " ".join(f"{mean:.1f} ± {error:.1f}" for mean, error in zip(row.mean, row.standard_error, strict=True)))

# %% [markdown]
# φ is what `out.params` holds after the last step, and it acts by the algorithm's policy.

# %%
observation = run.env.reset(jax.random.key(3), task).observation
policy = run.algorithm.policy
assert policy is not None  # an algorithm of one's own need not say which policy acts
print("action", policy.apply(out.params, observation).sample(jax.random.key(4)))
