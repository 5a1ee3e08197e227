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
# Two kinds of f_θ on the same tasks, bandits with five arms. A trial has forty pulls. `promp` pulls twenty times, takes
# one policy-gradient step and pulls twenty times more. `rl2` is a recurrent policy whose memory runs through all forty
# pulls, so it can change what it does after each of them. Both are trained with the same number of pulls.
#
# This is an illustration: one seed, and sizes chosen so that it runs in about a minute and the difference shows.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import metarl_jax as mrl

PULLS, BUDGET, TEST_TASKS = 40, 600_000, 2000

# %% [markdown]
# For `promp` an episode is one pull, and a stage has twenty episodes. For `rl2` the whole trial is one episode of forty
# pulls.

# %%
one_pull = mrl.envs.make("bernoulli-bandit", arms=5, horizon=1)
all_pulls = mrl.envs.make("bernoulli-bandit", arms=5, horizon=PULLS)
algorithms = {
    "promp": mrl.algorithms.make("promp", one_pull, tasks=200, episodes=PULLS // 2, inner_lr=5.0, outer_lr=3e-3),
    "rl2": mrl.algorithms.make("rl2", all_pulls, tasks=200, episodes=1, epochs=2, minibatches=4, outer_lr=2e-3),
}
params = {}
for name, algorithm in algorithms.items():
    state = algorithm.init(jax.random.key(0))
    update = jax.jit(algorithm.update)
    used = iterations = 0
    while used < BUDGET:
        state, metrics = update(jax.random.fold_in(jax.random.key(1), iterations), state)
        used += int(metrics["environment_steps"])
        iterations += 1
    params[name] = state.params
    print(f"{name}: {iterations} meta-iterations, {used:,} pulls")

# %% [markdown]
# `adapt` runs a trial in one task. Here it runs in 2,000 held-out bandits, and we keep the reward of each pull.

# %%
tasks = jax.vmap(one_pull.sample_task)(jax.random.split(jax.random.key(2), TEST_TASKS))
keys = jax.random.split(jax.random.key(3), TEST_TASKS)
rewards = {}
for name, algorithm in algorithms.items():

    def trial(key, task, algorithm=algorithm, theta=params[name]):
        return algorithm.adapt(key, theta, task).trajectory.reward.reshape(-1)

    rewards[name] = np.asarray(jax.jit(jax.vmap(trial))(keys, tasks))  # [tasks, pulls]
    half = PULLS // 2
    total = rewards[name].sum(1)
    print(
        f"{name}: {total.mean():.2f} ± {total.std() / np.sqrt(TEST_TASKS):.2f} of {PULLS} pulls pay; "
        f"first half {rewards[name][:, :half].mean():.3f}, second half {rewards[name][:, half:].mean():.3f}"
    )

# %%
best = np.asarray(tasks.probability).max(1).mean()
figure, axes = plt.subplots(figsize=(8, 4))
for name, values in rewards.items():
    mean, error = values.mean(0), values.std(0) / np.sqrt(TEST_TASKS)
    pulls = np.arange(1, PULLS + 1)
    axes.plot(pulls, mean, label=name)
    axes.fill_between(pulls, mean - 2 * error, mean + 2 * error, alpha=0.2)
axes.axhline(best, color="k", linestyle=":", label="the best arm")
axes.set(xlabel="pull of the trial", ylabel="share of pulls that pay", title="2,000 held-out bandits (± 2 s.e.)")
axes.legend()
plt.show()

# %% [markdown]
# The memory earns more over the whole trial, because it starts to use what it has seen after the first pulls. The
# gradient step has to wait for its batch, and its free first half explores at random; then it uses all of it at once.
# `promp` is trained for the second half only (the default `burn_in`), `rl2` for all pulls.
#
# Which one is better depends on the family and on how much data a task offers: the pages "Which f_θ for which problem"
# and "Every kind of f_θ on one axis" have families where the order is the other way round.
