# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Adapt in an environment that is not ours
#
# A robot, or an environment of gymnasium, is stepped from outside: nothing of it is compiled, differentiated or
# vectorised. Here θ is meta-trained on a model in JAX, and `mrl.Learner` learns φ = f_θ(D) from the episodes of the
# real thing. The real thing is gymnasium's `CartPole-v1` with a changed body: pole, gravity and motor are others in
# each task, and the motor may be wired the other way round. Nothing tells the policy which body it has. The notebook
# takes less than half a minute on one CPU core.
#
# This is an illustration: one seed, and sizes chosen so that the difference shows in seconds.

# %%
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import struct

import metarl_jax as mrl
from metarl_jax.envs import State
from metarl_jax.evaluation import summarize

# %% [markdown]
# ## The model
#
# A cart of mass $m_c$ carries a pole of mass $m$ and half length $l$; $F = \pm f$ pushes it. With $M = m_c + m$ and
# $u = (F + m l \dot\vartheta^2 \sin\vartheta) / M$, Barto, Sutton and Anderson (1983) give, without friction,
#
# $$\ddot\vartheta = \frac{g \sin\vartheta - u \cos\vartheta}{l\,(4/3 - m \cos^2\vartheta / M)}, \qquad
# \ddot x = u - \frac{m l}{M} \ddot\vartheta \cos\vartheta.$$
#
# gymnasium takes Euler steps of 0.02 s, pays 1 for each, and ends an episode where $|x| > 2.4$ m or
# $|\vartheta| > 12°$. So does this environment. The body is the task, an argument of each step.


# %%
@struct.dataclass
class Body:
    length: jax.Array  # l in m, half of the pole's
    force: jax.Array  # f in N; negative where the motor is wired the other way round
    gravity: jax.Array  # g in m/s²


def sample_body(key):
    size, sign = jax.random.split(key)
    low, high = jnp.array([0.3, 8.0, 8.0]), jnp.array([0.8, 12.0, 12.0])
    length, force, gravity = jax.random.uniform(size, (3,), minval=low, maxval=high)
    return Body(length, force * jax.random.rademacher(sign, (), float), gravity)


def reset(key, body):
    start = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
    return State(start, reward=0.0, terminated=False, truncated=False)


def step(body, state, action, cart=1.0, pole=0.1, tau=0.02):
    x, speed, angle, turning = state.observation
    push = jnp.where(action == 1, body.force, -body.force)
    u = (push + pole * body.length * turning**2 * jnp.sin(angle)) / (cart + pole)
    turn = (body.gravity * jnp.sin(angle) - jnp.cos(angle) * u) / (
        body.length * (4 / 3 - pole * jnp.cos(angle) ** 2 / (cart + pole))
    )
    thrust = u - pole * body.length * turn * jnp.cos(angle) / (cart + pole)
    state = jnp.stack([x + tau * speed, speed + tau * thrust, angle + tau * turning, turning + tau * turn])
    fallen = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > 12 * jnp.pi / 180)
    return State(state, reward=1.0, terminated=fallen, truncated=False)


sizes = {"observation_size": 4, "action_size": 2, "discrete": True, "horizon": 100}
model = mrl.TaskEnv(sample_task=sample_body, reset=reset, step=step, name="cart-pole", **sizes)
print(model)

# %% [markdown]
# ## The real thing
#
# gymnasium's environment has the three numbers as attributes. From the same state, with the same pushes, both must go
# the same way until the pole falls.


# %%
def real(body):
    cart_pole = gymnasium.make("CartPole-v1", max_episode_steps=model.horizon)
    inside: Any = cart_pole.unwrapped
    inside.length, inside.force_mag, inside.gravity = float(body.length), float(body.force), float(body.gravity)
    inside.polemass_length = inside.masspole * inside.length
    return cart_pole


model_step, bodies = jax.jit(step), [sample_body(jax.random.key(number)) for number in range(6)]
generator, compared, worst = np.random.default_rng(0), 0, 0.0
for body in bodies:
    cart_pole = real(body)
    observation, _ = cart_pole.reset(seed=0)
    state = State(jnp.asarray(observation), 0.0, False, False)
    while not state.terminated:
        action = int(generator.integers(2))
        observation, reward, terminated, _, _ = cart_pole.step(action)
        state = model_step(body, state, action)
        worst = max(worst, float(np.abs(state.observation - observation).max()))
        assert (reward, terminated) == (state.reward, state.terminated)
        compared += 1
print(f"largest difference in {compared} steps: {worst:.0e}")

# %% [markdown]
# ## Meta-training on the model
#
# The push that saves the pole of one body fells that of another, so no single policy balances both. θ can only be a
# start from which an inner step finds out. The policy is linear in the observation, and Meta-SGD learns a rate for each
# of its parameters too.

# %%
sizes = {"tasks": 20, "episodes": 10, "policy": {"hidden": ()}}
algorithm = mrl.algorithms.make("meta-sgd", model, inner_lr=2.0, outer_lr=0.02, **sizes)
print(algorithm)
chunks = list(mrl.training.train(algorithm, jax.random.key(0), iterations=30))
theta = chunks[-1].state.params
before, after = np.concatenate([chunk.metrics["return"] for chunk in chunks])[-5:].mean(0)
print(f"last five iterations: {before:.0f} of {model.horizon} steps before the inner step, {after:.0f} after it")

# %% [markdown]
# ## Adaptation on gymnasium
#
# `Learner` has NumPy at both ends: `act` on an observation, step the world, `observe` what came of it, and `learn` when
# N episodes are together. Each body takes one inner step from ten episodes; ten more show what came of it.

# %%
learner = mrl.Learner(algorithm, theta)
per_body = []
for number, body in enumerate(bodies):
    cart_pole, stages = real(body), []
    learner.reset(seed=number)
    while len(stages) < 2:
        observation, _ = cart_pole.reset(seed=len(learner.returns))
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = cart_pole.step(learner.act(observation))
            over = learner.observe(float(reward), terminated, truncated, observation)
        if learner.full:
            stages.append(np.mean(learner.returns[-10:]))
            learner.learn()
    per_body.append(stages)
    print(
        f"pole {2 * body.length:.2f} m, motor {body.force:6.2f} N, gravity {body.gravity:5.2f} m/s²: "
        f"{' → '.join(f'{steps:.0f}' for steps in stages)} steps"
    )

# %% [markdown]
# `mrl.plot` draws into Matplotlib's axes: on the left what `train` has yielded, on the right the returns on gymnasium.

# %%
lengths = np.ones((len(per_body), 2, 10), int)  # of bodies, stages and episodes
row = summarize(np.array(per_body), lengths)
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
mrl.plot.learning_curve(chunks, axes[0], horizon=model.horizon, title="Meta-training on the model")
named = {"six bodies in gymnasium": row}
mrl.plot.adaptation_curve(named, axes[1], horizon=model.horizon, title="Adaptation on gymnasium")
plt.show()
