# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A memory against gradient steps
#
# Two kinds of f_θ on the same tasks. `promp` collects ten episodes, takes a policy-gradient step and collects ten more. `rl2`
# is a recurrent policy: its memory runs through all episodes of the trial, and it can change what it does at each step. Both
# are trained with the same number of environment steps and then live through trials of twenty episodes.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import metarl_jax as mrl

EPISODES, HORIZON, STEPS = 10, 20, 1_200_000
env = mrl.envs.make("point-nav", horizon=HORIZON, action_scale=10.0)

# %% [markdown]
# A trial of `promp` has two stages of ten episodes. A trial of `rl2` has stages of one episode; it is trained on trials of
# four episodes and evaluated on longer ones.

# %%
algorithms = {
    "promp": mrl.algorithms.make(
        "promp", env, tasks=20, episodes=EPISODES, inner_lr=0.1, policy=mrl.policies.mlp(env, min_std=0.1)
    ),
    "rl2": mrl.algorithms.make("rl2", env, tasks=50, episodes=2, adaptation_steps=1),
}
params, curves = {}, {}
for name, algorithm in algorithms.items():
    state = algorithm.init(jax.random.key(0))
    update = jax.jit(algorithm.update)
    used, curve = 0, []
    while used < STEPS:
        state, metrics = update(jax.random.fold_in(jax.random.key(1), len(curve)), state)
        used += int(metrics["environment_steps"])
        curve.append((used, float(metrics["return"][-1])))
    params[name], curves[name] = state.params, np.array(curve)
    print(f"{name}: {len(curve)} meta-iterations, {used:,} environment steps, return {curve[-1][1]:.1f} at the end")

# %% [markdown]
# `adapt` runs a trial of any length. Here both get twenty episodes in each of 100 held-out tasks: `promp` takes one inner
# step after ten, `rl2` carries its memory through all of them.

# %%
STEPS_OF_TRIAL = {"promp": 1, "rl2": 2 * EPISODES - 1}
tasks = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(2), 100))
keys = jax.random.split(jax.random.key(3), 100)
returns = {}
for name, algorithm in algorithms.items():

    def trial(key, task, algorithm=algorithm, theta=params[name], steps=STEPS_OF_TRIAL[name]):
        return algorithm.adapt(key, theta, task, steps=steps).returns.reshape(-1)

    returns[name] = np.asarray(jax.jit(jax.vmap(trial))(keys, tasks))  # [tasks, episodes]
    print(f"{name}: first episode {returns[name][:, 0].mean():.1f}, last {returns[name][:, -1].mean():.1f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
for name, curve in curves.items():
    axes[0].plot(curve[:, 0] / 1e6, curve[:, 1], label=name)
axes[0].set(xlabel="environment steps (millions)", ylabel="return after adaptation", title="Meta-training")
for name, values in returns.items():
    mean, error = values.mean(0), values.std(0) / np.sqrt(len(values))
    episodes = np.arange(1, len(mean) + 1)
    axes[1].plot(episodes, mean, marker="o", markersize=3, label=name)
    axes[1].fill_between(episodes, mean - 2 * error, mean + 2 * error, alpha=0.2)
axes[1].set(xlabel="episode of the trial", ylabel="return", title="One trial, 100 held-out tasks (± 2 s.e.)")
for panel in axes:
    panel.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# On this family each reward tells something about the goal, so the memory finds it within the first episode, where a
# gradient step has to wait for its batch. That is not so in each family: the pages "Which f_θ for which problem" and "Every
# kind of f_θ on one axis" have families where the order is the other way round, and say what happens beyond p(M).
