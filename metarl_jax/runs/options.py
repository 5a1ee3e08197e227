"""What the command line can say of an algorithm and of its policy; a part of `metarl_jax.runs.config.TrainConfig`.

Importing this module loads no JAX, so that a script's help text can answer at once.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Policy network; None is the library's default."""

    hidden: tuple[int, ...] | None = None
    """sizes of the hidden layers (None: 64 64)"""
    activation: str | None = None
    """tanh or relu (None: tanh)"""
    init_std: float | None = None
    """standard deviation of the actions at initialisation, in units of the action (None: 1)"""
    min_std: float | None = None
    """smooth floor under that standard deviation (None: no floor)"""
    learn_std: bool | None = None
    """whether both loops move the standard deviation (None: True)"""
    encoder: tuple[int, ...] | None = None
    """rl2's memory sees the states before and after a step, its action and reward through relu layers of these sizes
    (None: the step as it is, without the state before)"""
    gated: bool | None = None
    """True: the observation gates what rl2's policy reads of its memory (None: False)"""
    context_size: int | None = None
    """components of a context beside the observation, which --fast-parameters context adapts (None: 5 in cavia, else
    none)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Inner and outer loop; None is the algorithm's own default."""

    tasks: int | None = None
    """B, tasks of one meta-iteration (None: 20; self-tuning: 1; rl2, rl2-hyper: 100)"""
    episodes: int | None = None
    """N, episodes per stage and task (None: 20; rl2, rl2-hyper: 2)"""
    stage_steps: int | None = None
    """budget of environment steps per stage and task, as published samplers have it: as many whole episodes as reach
    it, at most --episodes (None: all --episodes)"""
    adaptation_steps: int | None = None
    """L, inner steps of one trial; a memory has (L + 1)·N sequential episodes (None: 1; lpg: 5; rl2, rl2-hyper: 0)"""
    burn_in: int | None = None
    """stages that the objective does not count, 0 to L; of a memory, episodes (None: all but the last, in lpg and
    self-tuning the first, in rl2 and rl2-hyper none)"""
    multi_step_iterations: int | None = None
    """meta-iterations over which the last stage becomes the only one that counts, of the gradient-based algorithms
    (None: all counted stages always do)"""
    inner_lr: tuple[float, ...] | None = None
    """rate of the inner steps, or one rate per step, of which the last repeats (None: 0.1; cavia: 1.0)"""
    inner_lr_beyond: str | None = None
    """how the rate goes on in an evaluation of more steps than those of training: decay, which halves it at every step,
    inverse_sqrt, for hundreds of steps, or constant (None: decay)"""
    std_lr: float | None = None
    """rate of the inner steps for the standard deviation (None: that of the others)"""
    inner_optimizer: str | None = None
    """update rule of the inner steps: sgd, momentum, adam, parameter_rates, tensor_rates or curvature (None: the
    algorithm's own, mostly sgd)"""
    fast_parameters: str | None = None
    """what the inner steps move: all, head or context (None: the algorithm's own, mostly all)"""
    surrogate: str | None = None
    """loss of an inner step: score_function, likelihood_ratio, dice or loaded_dice (None: the algorithm's own)"""
    credit: float | None = None
    """weight of the sampled update's score term, 1 for the unbiased gradient (None: 1 in e-maml, else none)"""
    credit_estimator: str | None = None
    """what that term weighs an episode's score with: return, that of the later stages, or influence, what the episode
    changed of it (None: return)"""
    advantage: str | None = None
    """advantage estimator of both loops: gae or returns (None: gae)"""
    baseline: str | None = None
    """what gae subtracts: linear_feature, linear_time, leave_one_out, previous_fit, value_network or zero (None:
    value_network in tmaml, else linear_feature where a stage has steps enough for it, linear_time or zero)"""
    normalized: bool | None = None
    """whether gae brings each task's stage to mean 0 and standard deviation 1 (None: True)"""
    discount: float | None = None
    """γ of the advantage estimator (None: the estimator's own)"""
    lambda_: float | None = None
    """λ of generalised advantage estimation (None: the estimator's own)"""
    discount_states: bool | None = None
    """whether γᵗ weighs the step at time t, so that the objective is the discounted return (None: False, the usual
    estimator)"""
    average: str | None = None
    """what a stage's losses are divided by: horizon, the steps that its episodes had room for, so that the objective is
    an episode's return; or valid, the steps that they took, as in published codes (None: horizon)"""
    outer_lr: float | None = None
    """Adam's rate in the outer loop, of all but maml-trpo (None: 0.001); --outer-lr-schedule and --warmup change it as
    training goes on"""
    epochs: int | None = None
    """passes over the same data per meta-iteration, of promp, rl2 and rl2-hyper (None: 5; rl2, rl2-hyper: 4)"""
    clip: float | None = None
    """range ε of the clipped ratio, of promp, rl2 and rl2-hyper (None: 0.3; rl2, rl2-hyper: 0.2)"""
    inner_kl_target: float | None = None
    """KL in nats that weight is to keep, by doubling and halving (promp; None: the weight stays)"""
    inner_kl_weight: float | None = None
    """weight of the KL divergence before adaptation (promp; None: 0.0005)"""
    dice_lambda: float | None = None
    """how fast the second derivative forgets the past, 1 for never (loaded-dice; None: 0.9)"""
    sigma: float | None = None
    """standard deviation of the perturbations of θ (es-maml; None: 0.1)"""
    rank_shaping: bool | None = None
    """whether returns are replaced by their ranks (es-maml; None: True)"""
    max_kl: float | None = None
    """trust region, in nats (maml-trpo; None: 0.01)"""
    remat: bool | None = None
    """recompute inner steps in the backward pass, to save memory (None: False)"""
    task_chunk: int | None = None
    """tasks at a time, to save memory (None: all at once)"""
    memory_size: int | None = None
    """numbers in the memory (rl2, rl2-hyper; None: 64)"""
    entropy_half_life: int | None = None
    """meta-iterations in which the entropy's weight halves (rl2, rl2-hyper; None: it stays)"""
    minibatches: int | None = None
    """steps per pass over the data, each on as many whole tasks (promp, rl2, rl2-hyper; None: 1; rl2, rl2-hyper: up to
    4)"""
    bptt: int | None = None
    """steps after which backpropagation through the memory is cut (rl2, rl2-hyper; None: never)"""
    tuned: tuple[str, ...] | None = None
    """hyperparameters that θ holds: discount, lambda_, entropy_weight, value_weight, learning_rate (self-tuning; None:
    all five)"""
    entropy_weight: float | None = None
    """weight of the policy's entropy in the outer loss; in self-tuning that of its start
    (None: 0.0; rl2, rl2-hyper, self-tuning: 0.01)"""
    value_clip: float | None = None
    """how far the values' loss lets a value move from that of the data (rl2, rl2-hyper; None: it may)"""
    value_weight: float | None = None
    """weight of the values' error (rl2, rl2-hyper, and self-tuning at the start; None: 0.5)"""
    outer_discount: float | None = None
    """γ of the loss that θ is judged by (self-tuning; None: 0.99)"""
    outer_lambda: float | None = None
    """λ of the loss that θ is judged by (self-tuning; None: 0.95)"""
    bootstrap: int | None = None
    """steps to the bootstrapped target, 0 for the loss of the next rollout (self-tuning; None: 0)"""
    return_scale: float | None = None
    """typical size of a return, the unit of the critics (self-tuning; None: the horizon)"""
    lifetime: int | None = None
    """updates after which an agent is renewed (lpg; None: 500)"""
    max_gradient_norm: float | None = None
    """norm that larger outer gradients are scaled down to, of all but maml-trpo
    (None: none; rl2, rl2-hyper: 1.0; lpg: 0.5)"""
    max_agent_gradient_norm: float | None = None
    """norm that one agent's gradient is scaled down to, before the mean over agents (lpg; None: no limit)"""
    rule_size: int | None = None
    """LSTM units of the learned rule (lpg; None: 64)"""
    prediction_size: int | None = None
    """categories of an agent's prediction vector (lpg; None: 30)"""
    prediction_weight: float | None = None
    """weight of the predictions' KL divergence in an update (lpg; None: 0.5)"""
    policy_entropy_weight: float | None = None
    """outer weight of the policy's entropy after the updates (lpg; None: 0.01)"""
    prediction_entropy_weight: float | None = None
    """outer weight of the predictions' entropy after the updates (lpg; None: 0.001)"""
    policy_target_weight: float | None = None
    """outer weight of the squared policy targets (lpg; None: 0.001)"""
    prediction_target_weight: float | None = None
    """outer weight of the squared prediction targets (lpg; None: 0.001)"""
    option: tuple[str, ...] = ()
    """further options of the algorithm, as NAME=VALUE"""
