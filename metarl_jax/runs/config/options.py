"""What the command line can say of an algorithm and of its policy; a part of `metarl_jax.runs.config.TrainConfig`.

Importing this module loads no JAX, so that a script's help text can answer at once.
"""

import dataclasses
from typing import Annotated

import tyro

FLAG_NAMES = {"lambda_": "gae_lambda"}
"""Options whose flag has the name that other libraries have, since theirs here is made for Python."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Policy network; None is the library's default."""

    hidden: tuple[int, ...] | None = None
    """sizes of the hidden layers (None: 64 64)"""
    activation: str | None = None
    """tanh or relu (None: tanh)"""
    channels: tuple[int, ...] | None = None
    """of the convolutions that read the pictures of an observation, one layer each (None: 16 32)"""
    distribution: str | None = None
    """of real actions: gaussian, which is unbounded; squashed, its image under tanh, or beta, both in [-1, 1]: see
    the --env-option action_scale of the task (None: gaussian)"""
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

    # <generated: flags> from the algorithms' option structs, by docs/tables.py
    tasks: int | None = None
    """B, tasks per meta-iteration (None: 20; rl2, rl2-hyper: 100; self-tuning: 1)"""
    episodes: int | None = None
    """N, episodes per stage and task (None: 20; rl2, rl2-hyper: 2)"""
    adaptation_steps: int | None = None
    """L, inner steps of a trial; 0 means none (a memory adapts without, see rl2) (None: 1; rl2, rl2-hyper: 0; lpg:
    5)"""
    discount: float | None = None
    """γ of the advantage estimator; None means 0.99 for "gae" and 1 for "returns". Advantages hold γ^{k−t} and not γᵗ:
    the usual estimator, which is the gradient of no function where γ < 1 (lpg: 0.99; self-tuning: 0.95)"""
    lambda_: Annotated[float | None, tyro.conf.arg(name="gae-lambda", aliases=["--lambda_"])] = None
    """λ of generalised advantage estimation; None means 1 (self-tuning: 0.95)"""
    normalized: bool | None = None
    """whether "gae" scales each task's stage to mean 0 and standard deviation 1; None means that it does (rl2,
    rl2-hyper, self-tuning: True)"""
    average: str | None = None
    """what the sums over a stage's steps are divided by: "horizon", the N·T steps that its episodes had room for, so
    that gradient times T is the gradient of an episode's mean return; or "valid", the steps that they took, as in
    published codes (None: horizon)"""
    normalize_observations: bool | None = None
    """shift and scale each component of the observations to mean 0 and standard deviation 1 of all training so far, see
    metarl_jax.normalization (None: False)"""
    normalize_rewards: bool | None = None
    """divide rewards by the standard deviation of an episode's discounted reward so far, of all training so far (None:
    False)"""
    remat: bool | None = None
    """recompute inner steps in the backward pass instead of storing their activations, which saves memory (None:
    False)"""
    task_chunk: int | None = None
    """tasks at a time in both phases, which saves memory; None means all at once and, on a CPU, in the outer gradient
    as many as its caches hold"""
    advantage: str | None = None
    """estimator of both loops: "gae", "returns", or a function of one task's trajectory, whose attribute discount is
    its γ, if it has one (None: gae)"""
    outer_lr: float | None = None
    """Adam's rate in the outer loop, or a schedule of it, which counts outer steps (None: 0.001)"""
    max_gradient_norm: float | None = None
    """outer gradients with a larger norm are scaled down to it; None leaves them (rl2, rl2-hyper: 1.0; lpg: 0.5)"""
    inner_optimizer: str | None = None
    """update rule of the inner steps: "sgd", "clipped_sgd", "momentum", "adam", "rmsprop", "parameter_rates",
    "tensor_rates", "curvature", or a function inner_lr → InnerOptimizer, see metarl_jax.inner.INNER_OPTIMIZERS (None:
    sgd; meta-curvature: curvature; meta-sgd: parameter_rates)"""
    inner_lr: tuple[float, ...] | None = None
    """α, one rate, one per inner step, of which the last serves all further steps of training, or a schedule: a
    function of the step's number 0, 1, 2, … (None: 0.1; cavia: 1.0)"""
    discount_states: bool | None = None
    """whether γᵗ weights the step at time t, in both loops and in the credit, so that J(θ) is the discounted return and
    gradient its gradient under the same conditions as without discount (None: False)"""
    burn_in: int | None = None
    """stages that the objective does not count, 0 to L; None means L, so that only the last one counts. Of a memory
    episodes, 0 to H − 1, and None means 0 (lpg, self-tuning: 1; rl2, rl2-hyper: 0)"""
    std_lr: tuple[float, ...] | None = None
    """α of the policy's standard deviation; None means inner_lr"""
    baseline: str | None = None
    """V that "gae" subtracts: "linear_feature", "linear_time", "leave_one_out", "previous_fit", "value_network",
    "zero", a Baseline or a Critic; None means the first of linear_feature, linear_time and zero that the steps of a
    stage suffice for, see metarl_jax.inner.choose_baseline"""
    entropy_weight: float | None = None
    """weight of the policies' entropy in the outer loss; 0 leaves it out (None: 0.0; rl2, rl2-hyper, self-tuning:
    0.01)"""
    surrogate: str | None = None
    """inner loss: "score_function", "likelihood_ratio", "dice", "loaded_dice", or a function, see
    metarl_jax.inner.SURROGATES (None: score_function; dice, tmaml: dice; loaded-dice: loaded_dice; promp:
    likelihood_ratio)"""
    inner_lr_beyond: str | None = None
    """how α continues in more steps than those of training: "decay", which halves it at each step, "inverse_sqrt", for
    hundreds of steps, or "constant" (None: decay)"""
    stage_steps: int | None = None
    """budget of environment steps per stage and task, as published samplers have it: as many whole episodes count as
    reach it, at most episodes; None means all of them"""
    fast_parameters: str | None = None
    """what the inner steps move: "all", "head" (the last layer and the standard deviation), "context", or a function φ
    → a tree like φ of booleans (None: all; anil: head; cavia: context)"""
    multi_step_iterations: int | None = None
    """meta-iterations over which the weights of the counted stages before the last fall from equal to 0, as in MAML++;
    None keeps them equal. See metarl_jax.outer.annealed_stages"""
    credit: float | None = None
    """weight of the sampled update's score term; True is 1, for the unbiased gradient (None: 0.0; e-maml: 1.0)"""
    credit_estimator: str | None = None
    """what that term weights an episode's score with: "return", that of the later stages, unbiased and noisy; or
    "influence", what the episode itself changed of it, see metarl_jax.outer.CREDITS (None: return)"""
    epochs: int | None = None
    """passes over the same data per meta-iteration (promp, rl2, rl2-hyper; None: 4; promp: 5)"""
    minibatches: int | None = None
    """steps per pass over the data, each on as many whole tasks; it must divide tasks. None means 4, or less where that
    does not divide them (promp, rl2, rl2-hyper; promp: 1)"""
    clip: float | None = None
    """ε, the range of the clipped ratio (promp, rl2, rl2-hyper; None: 0.2; promp: 0.3)"""
    value_weight: float | None = None
    """weight of the values' squared error, in units of 1/(1 − γ) or of the trial's length, whichever is less (rl2,
    rl2-hyper, self-tuning; None: 0.5)"""
    entropy_half_life: int | None = None
    """meta-iterations in which the entropy's weight halves, so that costly actions are tried early and no longer at the
    end; None means that it stays (rl2, rl2-hyper)"""
    value_clip: float | None = None
    """range around the data's values within which the values' loss has a gradient away from them, in the same units;
    None means no range. See metarl_jax.outer.trial_loss (rl2, rl2-hyper)"""
    bptt: int | None = None
    """steps after which backpropagation through the memory is cut; None means never (rl2, rl2-hyper)"""
    memory_size: int | None = None
    """numbers in the memory (rl2, rl2-hyper; None: 64)"""
    sigma: float | None = None
    """standard deviation of the perturbations of θ (es-maml; None: 0.1)"""
    rank_shaping: bool | None = None
    """whether returns are replaced by their ranks (es-maml; None: True)"""
    dice_lambda: float | None = None
    """how fast the second derivative forgets the past; 1 means never (loaded-dice; None: 0.9)"""
    max_agent_gradient_norm: float | None = None
    """norm that one agent's outer gradient is scaled down to, before the mean over agents; None leaves it (lpg)"""
    lifetime: int | None = None
    """updates after which an agent is renewed (lpg; None: 500)"""
    rule_size: int | None = None
    """LSTM units of the rule (lpg; None: 64)"""
    prediction_size: int | None = None
    """categories of an agent's prediction vector y (lpg; None: 30)"""
    prediction_weight: float | None = None
    """α_y, weight of the predictions' KL divergence in an update (lpg; None: 0.5)"""
    policy_entropy_weight: float | None = None
    """outer weight of the policy's entropy after the updates (lpg; None: 0.01)"""
    prediction_entropy_weight: float | None = None
    """outer weight of the predictions' entropy after the updates (lpg; None: 0.001)"""
    policy_target_weight: float | None = None
    """outer weight of the squared policy targets (lpg; None: 0.001)"""
    prediction_target_weight: float | None = None
    """outer weight of the squared prediction targets (lpg; None: 0.001)"""
    max_kl: float | None = None
    """bound of the trust region, in nats (maml-trpo; None: 0.01)"""
    inner_kl_weight: float | None = None
    """η, weight of the KL divergence before adaptation (promp; None: 0.0005)"""
    inner_kl_target: float | None = None
    """KL in nats that η is to keep, by doubling and halving; None means that η stays (promp)"""
    tuned: tuple[str, ...] | None = None
    """hyperparameters that θ holds, of discount, lambda_, entropy_weight, value_weight, learning_rate (self-tuning;
    None: discount lambda_ entropy_weight value_weight learning_rate)"""
    outer_discount: float | None = None
    """γ of the loss that θ is judged by (self-tuning; None: 0.99)"""
    outer_lambda: float | None = None
    """λ of the loss that θ is judged by (self-tuning; None: 0.95)"""
    bootstrap: int | None = None
    """steps to the bootstrapped target; 0 means the loss of the next rollout (self-tuning; None: 0)"""
    return_scale: float | None = None
    """typical size of a return, the unit of the critics; None means the horizon (self-tuning)"""
    # <end of generated>
    option: tuple[str, ...] = ()
    """further options of the algorithm, as NAME=VALUE"""
