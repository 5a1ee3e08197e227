"""A run made of your own parts: an environment of pictures, a CNN, a schedule, normalisation and a curriculum.

``python docs/own_parts.py runs/mine`` trains, evaluates and draws; killed, the same command goes on.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import metarl_jax as mrl
from metarl_jax.envs import State

MOVES = jnp.array([[0, 1], [0, -1], [1, 0], [-1, 0]])


def seen(place, reward: jax.Array | float = 0.0):  # the picture shows where the agent is, and not the goal
    return State(jnp.zeros((8, 8, 1)).at[place[0], place[1], 0].set(1), reward, False, False, internal=place)


def step(task, state, action):
    place = jnp.clip(state.internal + MOVES[action], 0, 7)
    return seen(place, -jnp.abs(place - task).sum() / 14)


class Network(nn.Module):
    @nn.compact
    def __call__(self, picture):
        features = nn.relu(nn.Conv(4, (3, 3), strides=2)(picture)).reshape(-1)
        return nn.Dense(4)(nn.tanh(nn.Dense(32)(features)))


def nearby(distance, key, count):  # goals around the middle, further away with each iteration
    offset = jax.random.randint(key, (count, 2), -distance, distance + 1)
    return jnp.clip(4 + offset, 0, 7), distance


env = mrl.TaskEnv(
    sample_task=lambda key: jax.random.randint(key, (2,), 0, 8),
    reset=lambda key, task: seen(jax.random.randint(key, (2,), 2, 6)),
    step=step,
    observation_shape=(8, 8, 1),
    action_size=4,
    discrete=True,
    horizon=16,
    name="pictures",
)
network = Network()
policy = mrl.Policy(
    init=lambda key: network.init(key, jnp.zeros((8, 8, 1))),
    apply=lambda phi, picture: mrl.policies.Categorical(jnp.asarray(network.apply(phi, picture))),
)
curriculum = mrl.curriculum.TaskSampler(
    init=lambda: 1, sample=nearby, update=lambda distance, tasks, returns: jnp.minimum(distance + 1, 4)
)


def train(folder, iterations=60):
    return mrl.runs.train(
        env,
        "maml",
        folder,
        policy=policy,
        iterations=iterations,
        tasks=10,
        inner_lr=0.5,
        outer_lr=optax.cosine_decay_schedule(3e-3, iterations),
        normalize_observations=True,
        task_sampler=curriculum,
        checkpoint_every=10,
        eval_tasks=20,
    )


if __name__ == "__main__":
    train(sys.argv[1] if sys.argv[1:] else "runs/own-parts", *map(int, sys.argv[2:]))
