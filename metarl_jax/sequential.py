"""What algorithms with a memory share: a `MetaAlgorithm` whose trials are sequential episodes, trained by PPO."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import checks, devices, inner, outer, policies
from metarl_jax.base import AdvantageEstimator, MetaAlgorithm, MetaObjective, Online, RecurrentPolicy, TaskEnv, Trial
from metarl_jax.entry import entry_points
from metarl_jax.outer.trials import Weights
from metarl_jax.rollout import trial as run_trial
from metarl_jax.types import AVERAGES, Adaptation, MetaState, Percept, PyTree, Trajectory, strongly_typed

TrialEstimator = Callable[[Trajectory, jax.Array], tuple[jax.Array, jax.Array]]
"""``(trial as an episode, V(s_t)) → (advantage, what V is to learn)``, each [1, X], in units of return"""


def _estimator(
    advantage: str | AdvantageEstimator, discount: float | None, lambda_: float | None, discount_states: bool
) -> tuple[TrialEstimator, float, float]:
    """The advantage along a whole trial: named, with γ and λ over its steps, or a user's function.

    Returns:
        The estimator, the γ that it has along the trial, and the one by which every episode's rewards are to be
        discounted before. One of the two is 1.
    """
    given = {name: value for name, value in {"discount": discount, "lambda_": lambda_}.items() if value is not None}
    if callable(advantage):
        if given:
            raise ValueError(f"advantage is a function, so it takes no {sorted(given)}; build them into the function")
        if discount_states:
            raise ValueError(
                "discount_states is True, and advantage is a function, which sees the trial as one episode and would "
                "discount it again; choose 'returns' or 'gae' with a discount"
            )
        return lambda trajectory, values: (advantage(trajectory), inner.reward_to_go(trajectory)), 1.0, 1.0
    accepted = inspect.signature(checks.choose("advantage", advantage, inner.ADVANTAGES)).parameters
    for name in given:
        if name not in accepted:
            raise ValueError(f"advantage {advantage!r} takes no {name}; leave {name} out, or choose 'gae'")
    gamma = checks.share("discount", given.get("discount", accepted["discount"].default))
    gamma, of_rewards = (1.0, gamma) if discount_states else (gamma, 1.0)
    if advantage == "returns":
        plain = inner.returns(gamma)
        return lambda trajectory, values: (plain(trajectory), plain(trajectory)), gamma, of_rewards
    factor = checks.share("lambda_", given.get("lambda_", accepted["lambda_"].default))

    def gae(trajectory: Trajectory, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        following = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
        estimate = inner.gae_of_values(trajectory, values, following, gamma, factor)
        return estimate, estimate + values

    return gae, gamma, of_rewards


def make_recurrent(
    env: TaskEnv, policy: RecurrentPolicy | Mapping[str, Any] | None, memory_size: int
) -> RecurrentPolicy:
    """π with a memory as it is, or made by `metarl_jax.policies.gru` of the given options.

    Raises:
        ValueError: it is neither, or an option is unknown.
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
    accepted = ("hidden", "activation", "encoder", "gated", "init_std", "min_std", "learn_std")
    for option in policy or {}:
        if option not in accepted:
            raise checks.unknown("option of the policy", option, accepted)
    return policies.gru(env, memory_size, **dict(policy or {}))


def usual_minibatches(tasks: int) -> int:
    """Steps per pass where nobody says how many: 4, or less where that does not divide the tasks."""
    return max(number for number in range(1, 5) if tasks % number == 0)


def assemble_trials(
    env: TaskEnv,
    policy: RecurrentPolicy,
    *,
    tasks: int = 100,
    episodes: int = 2,
    adaptation_steps: int = 0,
    burn_in: int | None = 0,
    horizon: int | None = None,
    advantage: str | AdvantageEstimator = "gae",
    discount: float | None = None,
    lambda_: float | None = None,
    discount_states: bool = False,
    normalized: bool = True,
    average: str = "horizon",
    outer_lr: outer.OuterRate = 1e-3,
    outer_optimizer: optax.GradientTransformation | None = None,
    epochs: int = 4,
    minibatches: int | None = None,
    clip: float = 0.2,
    entropy_weight: float = 0.01,
    entropy_half_life: int | None = None,
    value_weight: float = 0.5,
    value_clip: float | None = None,
    max_gradient_norm: float | None = 1.0,
    bptt: int | None = None,
    remat: bool = False,
    task_chunk: int | None = None,
) -> MetaAlgorithm:
    """θ by PPO on whole trials of a policy with a memory; f_θ is the memory, which acts at every step.

    A trial is H = (`adaptation_steps` + 1)·`episodes` sequential episodes, a stage each: S = H and N = 1. So it takes
    as many episodes of a task as a gradient-based algorithm with the same two options, and `adapt` with more of them is
    a longer trial.

    Args:
        env: p(M) and its MDPs.
        policy: π_θ.
        tasks: B, trials per meta-iteration, a task each.
        episodes: with `adaptation_steps`, H.
        adaptation_steps: with `episodes`, H.
        burn_in: K, episodes whose rewards do not count, 0 … H − 1; None means 0: here every episode counts.
        horizon: T, environment steps per episode; None means the environment's.
        advantage: along the trial: "gae" with the policy's own values, "returns", or a function of the trial as one
            episode, a `Trajectory` with leaves [1, H·T, ...].
        discount: γ per step of the trial, along which it discounts what an action leads to, in later episodes too; None
            means the estimator's default. The usual estimator, which is the gradient of no function where γ < 1.
        discount_states: γᵗ weighs the reward at time t of its episode instead, and nothing is discounted from one
            episode to the next: J(θ) is then the discounted return of the counted episodes, and `gradient` its
            gradient under the same conditions as without discount.
        lambda_: λ of "gae"; None means its default.
        normalized: whether the advantages of all tasks together are brought to mean 0 and standard deviation 1, see
            `metarl_jax.outer.normalize_over_tasks`.
        average: what the sums over a trial's steps are divided by: "horizon", T per episode, or "valid", the number of
            steps taken; see `metarl_jax.types.Trajectory.mean`.
        outer_lr: Adam's rate, or a schedule of it; see `metarl_jax.outer.descent`.
        outer_optimizer: instead of Adam.
        epochs: passes over the same trials.
        minibatches: steps per pass, each on as many whole trials; it must divide `tasks`. None means 4, or less where
            that does not.
        clip: ε, the range of the ratio.
        entropy_weight: of the entropy in nats, summed over the steps taken and divided like the rest of the loss.
        entropy_half_life: meta-iterations in which that weight halves, so that what is costly to try is tried early and
            left in the end; None means that it stays.
        value_weight: of the values' squared error, in units of 1/(1 − γ) or of the trial's length, whichever is less.
        value_clip: range around the data's values within which the values' loss has a gradient away from them, in the
            same units; None means that there is none. See `metarl_jax.outer.trial_loss`.
        max_gradient_norm: larger gradients are scaled down to it; None leaves them.
        bptt: steps after which backpropagation through the memory is cut; None means full.
        remat: recompute the memory's steps in the backward pass instead of storing them.
        task_chunk: tasks at a time; None means all at once.

    Raises:
        ValueError: a value is out of range, or two options do not go together.
    """
    checks.integer("episodes", episodes)
    checks.integer("adaptation_steps", adaptation_steps, least=0)
    length = episodes * (adaptation_steps + 1)
    burn_in = 0 if burn_in is None else burn_in
    if checks.integer("burn_in", burn_in, least=0) >= length:
        raise ValueError(f"burn_in is {burn_in}; a trial has {length} episodes, so it must lie in 0..{length - 1}")
    sizes = Trial(
        tasks=tasks,
        episodes=1,
        adaptation_steps=length - 1,
        burn_in=burn_in,
        horizon=env.horizon if horizon is None else horizon,
    )
    minibatches = usual_minibatches(tasks) if minibatches is None else minibatches
    outer.check_minibatches(minibatches, tasks)
    for name, value in {"bptt": bptt, "task_chunk": task_chunk, "entropy_half_life": entropy_half_life}.items():
        if value is not None:
            checks.integer(name, value)
    normalized = checks.boolean("normalized", normalized)
    memory = outer.Memory(checks.boolean("remat", remat), task_chunk)
    discount_states = checks.boolean("discount_states", discount_states)
    estimate, gamma, of_rewards = _estimator(advantage, discount, lambda_, discount_states)
    average = checks.one_of("average", average, AVERAGES)
    weights = Weights(
        clip=checks.positive("clip", clip),
        entropy=checks.non_negative("entropy_weight", entropy_weight),
        value=checks.non_negative("value_weight", value_weight),
        value_clip=None if value_clip is None else checks.positive("value_clip", value_clip),
    )
    of_episode = min(sizes.horizon, 1 / max(1 - of_rewards, 1e-9))
    scale = float(min(length * of_episode, 1 / max(1 - gamma, 1e-9)))
    step = outer.descent(outer_lr=outer_lr, outer_optimizer=outer_optimizer, max_gradient_norm=max_gradient_norm)
    optimizer = outer.gradient_steps(step, epochs, minibatches)

    def one_trial(key, theta, task, kept, length=length):
        def averaged(memory, episode):
            return kept(memory, dataclasses.replace(episode, average=average))

        return run_trial(key, env, policy, theta, task, length, sizes.horizon, averaged)

    def collect(key, theta):
        def kept(memory, episode):
            return outer.Trials(episode, policy.params(theta, memory))

        def of_task(index):
            task_key, data_key = jax.random.split(jax.random.fold_in(key, index))
            return one_trial(data_key, theta, env.sample_task(task_key), kept)[1]

        return memory.over_tasks(of_task, jnp.arange(tasks))

    @jax.named_scope("adapt")
    def prepare(theta, trials):
        """The fixed data of the outer loss, with advantages, leaves [B, X, ...]."""

        def of_task(trial):
            trajectory = jax.tree.map(lambda leaf: leaf[:, 0], trial.trajectory)
            sequence = outer.as_sequence(env, trajectory, burn_in, of_rewards)
            value = outer.replay_sequence(policy, theta, sequence).value
            valid = sequence.trajectory.valid
            found, target = estimate(sequence.trajectory, jnp.where(valid, scale * value[None], 0))
            found = jnp.where(valid, found, 0)[0]
            return dataclasses.replace(sequence, advantage=found, target=target[0], value=value)

        data = memory.over_tasks(of_task, trials)
        if normalized:
            whole = outer.normalize_over_tasks(data.advantage, data.target, data.trajectory.valid[:, 0])
            data = dataclasses.replace(data, advantage=whole)
        return jax.lax.stop_gradient(data)

    def objective(weights: Weights) -> MetaObjective:
        def of_task(theta, sequence):
            replayed = outer.replay_sequence(policy, theta, sequence, bptt, remat)
            return outer.trial_loss(sequence, replayed, weights, scale)

        return memory.mean_over_tasks(of_task)

    def init(key):
        theta = strongly_typed(policy.init(key))
        return MetaState(params=theta, opt_state=optimizer.init(theta), iteration=jnp.zeros((), jnp.int32))

    def update(key, state):
        devices.check_minibatches(minibatches, tasks, devices.count(devices.TASKS))
        trials = collect(key, state.params)
        data = prepare(state.params, trials)
        halvings = 0.0 if entropy_half_life is None else state.iteration / entropy_half_life
        now = objective(weights._replace(entropy=weights.entropy * 0.5**halvings))
        theta, opt_state, metrics = optimizer.update(now, state.params, state.opt_state, data)
        state = MetaState(params=theta, opt_state=opt_state, iteration=state.iteration + 1)
        return state, outer.describe(trials.trajectory, trials.params) | metrics

    def gradient(key, theta: PyTree):
        trials = collect(key, theta)
        data = prepare(theta, trials)
        # ∇J alone: entropy and the values' error serve the training and are no part of J.
        plain = objective(weights._replace(entropy=0.0, value=0.0))
        (loss, metrics), descent = plain.value_and_gradient(theta, data)
        ascent = jax.tree.map(jnp.negative, descent)
        return ascent, outer.describe(trials.trajectory, trials.params) | metrics | {
            "loss": loss,
            "meta_gradient_norm": optax.tree.norm(ascent),
        }

    def adapt(key, theta, task, steps=None):
        def kept(memory, episode):  # summed up episode by episode, so that nothing else need outlive one
            return episode.returns, episode, episode.lengths

        own = length if steps is None else episodes * (checks.integer("steps", steps, 0) + 1)
        memory, seen = one_trial(key, theta, task, kept, own)
        return Adaptation(policy.params(theta, memory), *seen)

    return entry_points(init, update, adapt, gradient, online=_online(env, policy, sizes.horizon))


def _online(env: TaskEnv, policy: RecurrentPolicy, horizon: int) -> Online:
    """The memory where somebody else steps the environment."""

    def act(theta: PyTree, memory: PyTree, percept: Percept):
        memory = policy.remember(theta, memory, percept)
        return memory, policy.act(theta, memory, percept.observation)[0]

    def episode(key):
        def kept(memory, trajectory):
            return trajectory

        theta, task = policy.init(key), env.sample_task(key)
        return jax.tree.map(lambda leaf: leaf[0], run_trial(key, env, policy, theta, task, 1, horizon, kept)[1])

    def stage():
        return jax.eval_shape(episode, jax.random.key(0))

    return Online(lambda key, theta: policy.start(theta), act, policy.params, None, stage, horizon, env)
