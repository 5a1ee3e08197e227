# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Comparing estimators
#
# Two questions about a meta-gradient: what is it an estimate of, and how noisy is it? A bandit with three arms is
# small enough to compute the exact answers. An episode is one pull, a stage is three pulls, and θ is three logits.
# There are 27 possible data sets D of a stage, so expectations over D are sums.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import metarl_jax as mrl
from metarl_jax.envs import State

REWARDS = jnp.array([1.0, 0.2, -0.5])
LOGITS = jnp.array([0.3, -0.2, 0.1])
PULLS, RATE = 3, 0.7


def still(reward: jax.Array | float = 0.0):
    return State(jnp.zeros(1), reward=reward, terminated=False, truncated=False)


env = mrl.TaskEnv(
    sample_task=lambda key: jax.random.uniform(key, (1,)),  # one bandit: the task changes nothing
    reset=lambda key, task: still(),
    step=lambda task, state, action: still(REWARDS[action]),
    observation_size=1,
    action_size=3,
    discrete=True,
    horizon=1,
)
policy = mrl.Policy(init=lambda key: LOGITS, apply=lambda logits, observation: mrl.policies.Categorical(logits))

# %% [markdown]
# ## Exact values
#
# R(φ) is the expected reward of a pull. The inner step is φ(D) = θ + α/N Σ ∇ log π(a_n) r_n.
#
# * The **sampled update** is J(θ) = E_D[R(φ(D))], and D depends on θ. Its gradient has a path term and a score term.
# * The **path derivative** differentiates φ(D) at fixed D. MAML follows it.
# * The **expected update** is R(E_D[φ(D)]), the limit of many pulls.

# %%
DATA = jnp.array(list(itertools.product(range(3), repeat=PULLS)))  # [27, 3]


def expected_reward(logits):
    return jax.nn.softmax(logits) @ REWARDS


def inner_step(theta, pulls):
    score = jax.nn.one_hot(pulls, 3) - jax.nn.softmax(theta)
    return theta + RATE * (score * REWARDS[pulls][:, None]).mean(0)


def probability(theta):  # of each data set
    return jnp.exp(jax.nn.log_softmax(theta)[DATA].sum(-1))


def after(theta):  # R(φ(D)) for each data set
    return jax.vmap(lambda pulls: expected_reward(inner_step(theta, pulls)))(DATA)


exact = {
    "sampled update": jax.grad(lambda theta: probability(theta) @ after(theta))(LOGITS),
    "path derivative": jax.grad(lambda theta: probability(LOGITS) @ after(theta))(LOGITS),
    "expected update": jax.grad(lambda theta: expected_reward(theta + RATE * jax.grad(expected_reward)(theta)))(LOGITS),
}
for name, gradient in exact.items():
    print(f"{name:16}", np.round(np.array(gradient), 4))

# %% [markdown]
# ## Estimates
#
# `algorithm.gradient` returns one estimate from fresh data. Its mean over many keys shows what it estimates; its
# spread is the noise. All estimators get the same number of tasks, and plain returns as advantages.

# %%
ESTIMATORS = {
    "fomaml": ("fomaml", {}),
    "maml": ("maml", {}),
    "promp (LVC)": ("promp", {}),
    "dice": ("dice", {}),
    "loaded-dice": ("loaded-dice", {}),
    "e-maml": ("e-maml", {}),
}
TASKS, KEYS = 64, 600

samples = {}
for label, (name, options) in ESTIMATORS.items():
    algorithm = mrl.algorithms.make(
        name, env, policy=policy, tasks=TASKS, episodes=PULLS, inner_lr=RATE, advantage=mrl.inner.returns(), **options
    )
    theta = algorithm.init(jax.random.key(0)).params
    many = jax.jit(jax.vmap(lambda key, algorithm=algorithm, theta=theta: algorithm.gradient(key, theta)[0]))
    samples[label] = np.asarray(many(jax.random.split(jax.random.key(1), KEYS)), np.float64)
    mean, error = samples[label].mean(0), samples[label].std(0) / np.sqrt(KEYS)
    print(f"{label:12}", "  ".join(f"{m:+.4f} ± {e:.4f}" for m, e in zip(mean, error, strict=True)))

# %% [markdown]
# Left: the mean of each estimator, first component, with two standard errors, and the exact values as lines. `e-maml`
# estimates the gradient of the sampled update. `maml` follows the path derivative, in which the score term is
# missing. The LVC surrogate of `promp` and DiCE add a part of the Hessian that `maml` leaves out; with one-step
# episodes they agree. Here that is nearly the same as the sampled update, with less noise. Right: the standard
# deviation of one estimate.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
for index, (label, values) in enumerate(samples.items()):
    component = values[:, 0]
    axes[0].errorbar(index, component.mean(), 2 * component.std() / np.sqrt(KEYS), fmt="o", capsize=4, label=label)
    axes[1].bar(index, np.sqrt(values.var(0).sum()))
for number, (name, gradient) in enumerate(exact.items()):
    axes[0].axhline(float(gradient[0]), color=f"C{7 + number}", linestyle=("-", "--", ":")[number], label=name)
axes[0].legend(*[handles[:3] for handles in axes[0].get_legend_handles_labels()], fontsize=8)
axes[0].set(title="Mean of the estimates", ylabel="∂J/∂θ₀")
axes[1].set(title=f"Noise of one estimate from {TASKS} tasks", ylabel="standard deviation")
for panel in axes:
    panel.set_xticks(range(len(samples)), samples, rotation=25)
figure.tight_layout()
plt.show()

# %% [markdown]
# The page "Which estimator for which use" measures the same on longer episodes, where the estimators differ more and
# noise decides.
