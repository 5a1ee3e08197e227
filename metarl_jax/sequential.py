"""The assembly of algorithms with a memory: trials of sequential episodes, trained by PPO."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import checks, devices, inner, outer, policies
from metarl_jax.base import MetaAlgorithm, MetaObjective, Online, OuterOptimizer, RecurrentPolicy, TaskEnv
from metarl_jax.curriculum import task_of
from metarl_jax.entry import entry_points
from metarl_jax.options import MemoryOptions
from metarl_jax.outer.trials import Weights
from metarl_jax.rollout import trial as run_trial
from metarl_jax.types import (
    AVERAGES,
    Adaptation,
    Key,
    MetaState,
    Number,
    Percept,
    Played,
    PyTree,
    Trajectory,
    strongly_typed,
)

TrialEstimator = Callable[[Trajectory, jax.Array], tuple[jax.Array, jax.Array]]
"""``(trial as an episode, V(s_t)) → (advantage, what V is to learn)``, each [1, X], in units of return"""


class _Advantage(NamedTuple):
    """The advantage along a whole trial. One of the two discounts is 1."""

    estimate: TrialEstimator
    discount: float
    """γ per step of the trial"""
    reward_discount: float
    """γ per step of an episode, by which its rewards are discounted before"""


def _advantage(options: MemoryOptions) -> _Advantage:
    """The estimator that the options name, with γ and λ, or a user's function."""
    advantage = options.advantage
    discount_states = checks.boolean("discount_states", options.discount_states)
    factors = {"discount": options.discount, "lambda_": options.lambda_}
    factors = {name: value for name, value in factors.items() if value is not None}
    if callable(advantage):
        if factors:
            raise ValueError(f"advantage is a function, so it takes no {sorted(factors)}; build them into the function")
        if discount_states:
            raise ValueError(
                "discount_states is True, and advantage is a function, which sees the trial as one episode and would "
                "discount it again; choose 'returns' or 'gae' with a discount"
            )
        return _Advantage(lambda trial, values: (advantage(trial), inner.reward_to_go(trial)), 1.0, 1.0)
    accepted = inspect.signature(checks.choose("advantage", advantage, inner.ADVANTAGES)).parameters
    for name in factors:
        if name not in accepted:
            raise ValueError(f"advantage {advantage!r} takes no {name}; leave {name} out, or choose 'gae'")
    gamma = checks.share("discount", factors.get("discount", accepted["discount"].default))
    gamma, of_rewards = (1.0, gamma) if discount_states else (gamma, 1.0)
    if advantage == "returns":
        returns = inner.returns(gamma)
        return _Advantage(lambda trial, values: (returns(trial), returns(trial)), gamma, of_rewards)
    lambda_ = checks.share("lambda_", factors.get("lambda_", accepted["lambda_"].default))

    def gae(trial: Trajectory, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        following = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
        advantage = inner.gae_of_values(trial, values, following, gamma, lambda_)
        return advantage, advantage + values

    return _Advantage(gae, gamma, of_rewards)


def make_recurrent(
    env: TaskEnv, policy: RecurrentPolicy | Mapping[str, Any] | None, memory_size: int
) -> RecurrentPolicy:
    """The recurrent policy itself, or the one that `metarl_jax.policies.gru` makes from these options.

    Raises:
        ValueError: it is neither a policy nor options, or an option is unknown.
    """
    if isinstance(policy, RecurrentPolicy):
        for name, function in policy._asdict().items():
            checks.function(f"{name} of the policy", function)
        return policy
    if policy is not None and not isinstance(policy, Mapping):
        raise ValueError(
            f"policy is {policy!r}, which has no memory; it must be a metarl_jax.RecurrentPolicy, or options such as "
            "{'hidden': (64,)}; rl2-hyper takes a policy without memory"
        )
    accepted = ("hidden", "activation", "encoder", "gated", "channels", "distribution")
    accepted += ("init_std", "min_std", "learn_std")
    for option in policy or {}:
        checks.one_of("option of the policy", option, accepted)
    return policies.gru(env, memory_size, **dict(policy or {}))


def assemble_trials(env: TaskEnv, policy: RecurrentPolicy, options: MemoryOptions) -> MetaAlgorithm:
    """θ by PPO on whole trials of a policy with a memory; f_θ is the memory, which acts at every step.

    Args:
        env: p(M) and its MDPs.
        policy: π_θ.
        options: see `metarl_jax.options.MemoryOptions`, which says what a trial is.

    Raises:
        ValueError: a value is out of range, or two options do not go together.
    """
    learner = _learner(env, policy, options)
    functions = learner.init, learner.update, learner.adapt, learner.gradient
    return entry_points(*functions, online=_online(env, policy, learner.horizon))


def _learner(env: TaskEnv, policy: RecurrentPolicy, options: MemoryOptions) -> "_Learner":
    # Every episode is a stage, so what is counted in episodes elsewhere is checked as stages here.
    sizes = dataclasses.replace(
        options.trial(env.horizon), episodes=1, adaptation_steps=options.length - 1, burn_in=options.free_episodes
    )
    minibatches = options.steps_per_pass
    outer.check_minibatches(minibatches, sizes.tasks)
    for name in ("bptt", "task_chunk", "entropy_half_life"):
        if getattr(options, name) is not None:
            checks.integer(name, getattr(options, name))
    advantage = _advantage(options)
    of_episode = _sum_of_discounts(sizes.horizon, advantage.reward_discount)
    value_clip = options.value_clip
    return _Learner(
        env=env,
        policy=policy,
        options=dataclasses.replace(options, normalized=checks.boolean("normalized", options.normalized)),
        horizon=sizes.horizon,
        average=checks.one_of("average", options.average, AVERAGES),
        memory=outer.Memory(checks.boolean("remat", options.remat), options.task_chunk),
        advantage=advantage,
        scale=_sum_of_discounts(options.length * of_episode, advantage.discount),
        weights=Weights(
            clip=checks.positive("clip", options.clip),
            entropy=checks.non_negative("entropy_weight", options.entropy_weight),
            value=checks.non_negative("value_weight", options.value_weight),
            value_clip=None if value_clip is None else checks.positive("value_clip", value_clip),
        ),
        optimizer=outer.gradient_steps(options.descent(), options.epochs, minibatches),
    )


def _sum_of_discounts(length: Number, discount: Number) -> Number:
    """At most Σ_t γᵗ of infinitely many steps, at most the number of steps."""
    if checks.traced(discount) or checks.traced(length):
        return jnp.minimum(length, 1 / jnp.maximum(1 - discount, 1e-9))
    return float(min(length, 1 / max(1 - discount, 1e-9)))


@dataclasses.dataclass(frozen=True)
class _Learner:
    """The functions of a `MetaAlgorithm` that learns from trials of sequential episodes."""

    env: TaskEnv
    policy: RecurrentPolicy
    options: MemoryOptions
    horizon: int
    """T"""
    average: str
    memory: outer.Memory
    advantage: _Advantage
    scale: Number
    """the unit of the values, in units of return"""
    weights: Weights
    optimizer: OuterOptimizer

    def init(self, key: Key) -> MetaState:
        theta = strongly_typed(self.policy.init(key))
        return MetaState(params=theta, opt_state=self.optimizer.init(theta), iteration=jnp.zeros((), jnp.int32))

    def update(self, key: Key, state: MetaState):
        options = self.options
        devices.check_minibatches(options.steps_per_pass, options.tasks, devices.count(devices.TASKS))
        trials = self._collect(key, state.params)
        data = self._prepare(state.params, trials)
        half_life = options.entropy_half_life
        halvings = 0.0 if half_life is None else state.iteration / half_life
        weight = self.weights.entropy
        objective = self._objective(
            self.weights._replace(entropy=weight * 0.5**halvings if checks.is_on(weight) else 0.0)
        )
        theta, opt_state, metrics = self.optimizer.update(objective, state.params, state.opt_state, data)
        state = MetaState(params=theta, opt_state=opt_state, iteration=state.iteration + 1)
        return state, outer.joined(outer.describe(trials.trajectory, trials.params, self.env.measure), metrics)

    def gradient(self, key: Key, theta: PyTree):
        trials = self._collect(key, theta)
        data = self._prepare(theta, trials)
        # ∇J alone: entropy and the values' error serve the training and are no part of J.
        objective = self._objective(self.weights._replace(entropy=0.0, value=0.0))
        ascent, metrics = objective.ascent(theta, data)
        return ascent, outer.joined(outer.describe(trials.trajectory, trials.params, self.env.measure), metrics)

    def adapt(self, key: Key, theta: PyTree, task: PyTree, steps: int | None, deterministic=False) -> Adaptation:
        def record(memory, episode, *by_mode):  # sums, so that nothing else need outlive an episode
            played = [Played(other.returns, other.lengths) for other in by_mode] or [None]
            return episode.returns, episode, episode.lengths, None, *played

        options = self.options
        length = options.length if steps is None else options.episodes * (checks.integer("steps", steps, 0) + 1)
        also = policies.at_mode(self.policy) if deterministic else None
        memory, records = self._trial(key, theta, task, record, length, also)
        return Adaptation(self.policy.params(theta, memory), *records)

    def _trial(
        self,
        key: Key,
        theta: PyTree,
        task: PyTree,
        record: Callable,
        length: int,
        also: RecurrentPolicy | None = None,
    ):
        def averaged(memory, episode, *others):
            return record(memory, dataclasses.replace(episode, average=self.average), *others)

        return run_trial(key, self.env, self.policy, theta, task, length, self.horizon, averaged, also)

    def _collect(self, key: Key, theta: PyTree) -> outer.Trials:
        """Trials in fresh tasks, leaves [B, H, 1, T, ...]."""

        def record(memory, episode):
            return outer.Trials(episode, self.policy.params(theta, memory))

        def of_task(index):
            task, data_key = task_of(key, index, self.env, self.options.tasks)
            return self._trial(data_key, theta, task, record, self.options.length)[1]

        return self.memory.over_tasks(of_task, jnp.arange(self.options.tasks))

    @jax.named_scope("adapt")
    def _prepare(self, theta: PyTree, trials: outer.Trials) -> outer.Sequence:
        """The fixed data of the outer loss, with advantages, leaves [B, X, ...]."""

        def of_task(trial):
            trajectory = jax.tree.map(lambda leaf: leaf[:, 0], trial.trajectory)
            burn_in, of_rewards = self.options.free_episodes, self.advantage.reward_discount
            sequence = outer.as_sequence(self.env, trajectory, burn_in, of_rewards)
            value = outer.replay_sequence(self.policy, theta, sequence, needs_entropy=False).value
            valid = sequence.trajectory.valid
            values = jnp.where(valid, self.scale * value[None], 0)
            advantage, target = self.advantage.estimate(sequence.trajectory, values)
            advantage = jnp.where(valid, advantage, 0)[0]
            return dataclasses.replace(sequence, advantage=advantage, target=target[0], value=value)

        data = self.memory.over_tasks(of_task, trials)
        if self.options.normalized:
            normalized = outer.normalize_over_tasks(data.advantage, data.target, data.trajectory.valid[:, 0])
            data = dataclasses.replace(data, advantage=normalized)
        return jax.lax.stop_gradient(data)

    def _objective(self, weights: Weights) -> MetaObjective:
        needs_entropy = not isinstance(weights.entropy, float) or weights.entropy > 0
        how = self.options.bptt, self.memory.remat, needs_entropy

        def of_task(theta, sequence):
            replayed = outer.replay_sequence(self.policy, theta, sequence, *how)
            return outer.trial_loss(sequence, replayed, weights, self.scale)

        return self.memory.mean_over_tasks(of_task)


def _online(env: TaskEnv, policy: RecurrentPolicy, horizon: int) -> Online:
    """The memory for an environment that is stepped outside of the program."""

    def act(theta: PyTree, memory: PyTree, percept: Percept):
        memory = policy.remember(theta, memory, percept)
        return memory, policy.act(theta, memory, percept.observation)[0]

    def episode(key):
        def record(memory, trajectory):
            return trajectory

        theta, task = policy.init(key), env.sample_task(key)
        return jax.tree.map(lambda leaf: leaf[0], run_trial(key, env, policy, theta, task, 1, horizon, record)[1])

    def stage():
        return jax.eval_shape(episode, jax.random.key(0))

    return Online(lambda key, theta: policy.start(theta), act, policy.params, None, stage, horizon, env)
