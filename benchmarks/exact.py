"""Exact meta-gradients of finite problems by enumeration: a second implementation, sharing no code with the library.

Conventions. θ and φ are logits [X, A] of a tabular softmax policy, d = X·A. Everything is per step: R(φ) = E[G]/T with
G the undiscounted return of an episode of T steps. Stage s collects a data set D_s of N episodes with φ_s, and

    φ_{s+1} = φ_s + α_s ĝ(φ_s; D_s),  ĝ = 1/(N T) Σ_{n,t} A_t g_t,  A_t = Σ_{k≥t} r_k − b(s_t),  g_t = ∇log π(a_t|s_t)

The objective is the mean of R(φ_s) over the counted stages: those with s ≥ burn_in, by default the last alone. There
are L = len(rates) inner steps, so L + 1 stages; the last one's data are never enumerated, since R is exact.

Two ways that check each other: the objectives are differentiated by autodiff, with R from the state distribution; the
estimators' expectations are closed formulas in NumPy, with ∇R from the enumerated episodes.
"""

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ESTIMATORS = ("plain", "likelihood_ratio", "dice", "loaded_dice", "first_order")


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A tabular MDP that starts in state 0; a bandit has X = 1 and T = 1."""

    transition: np.ndarray
    """[X, A, X] P(x'|x, a)"""
    reward: np.ndarray
    """[X, A]"""
    horizon: int
    """T"""
    logits: np.ndarray
    """[X, A] θ to start from"""
    baseline: np.ndarray | None = None
    """[X] b; None means 0"""


BANDIT = Problem(
    transition=np.ones((1, 3, 1)),
    reward=np.array([[1.0, 0.2, -0.5]]),
    horizon=1,
    logits=np.array([[0.3, -0.2, 0.1]]),
)
"""Three arms with fixed rewards."""

MDP = Problem(
    transition=np.array(
        [
            [[0.0, 0.8, 0.2], [0.0, 0.0, 1.0]],
            [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        ]
    ),
    reward=np.array([[-0.5, 0.5], [3.0, 0.0], [-1.5, 1.0]]),
    horizon=3,
    logits=np.array([[0.2, -0.1], [-0.3, 0.2], [0.1, 0.3]]),
)
"""Three states and steps: the first action costs 1 more where it leads to the state that pays, and may miss it."""


class Episodes(NamedTuple):
    """Every episode of a problem that can occur, E of them."""

    states: np.ndarray
    """[E, T]"""
    actions: np.ndarray
    """[E, T]"""
    rewards: np.ndarray
    """[E, T]"""
    advantages: np.ndarray
    """[E, T] A_t = Σ_{k≥t} r_k − b(s_t)"""
    chance: np.ndarray
    """[E] probability of the transitions; the last one, which nobody sees, is left out"""

    @property
    def returns(self) -> np.ndarray:
        """G [E]."""
        return self.rewards.sum(1)


def all_episodes(problem: Problem) -> Episodes:
    """All episodes, by a walk through the tree of actions and possible next states."""
    partial: list[tuple[list[int], list[int], float]] = [([0], [], 1.0)]
    for step in range(problem.horizon):
        extended = []
        for states, actions, chance in partial:
            for action, odds in enumerate(problem.transition[states[-1]]):
                if step == problem.horizon - 1:
                    extended.append((states, [*actions, action], chance))
                    continue
                for following in np.flatnonzero(odds):
                    extended.append(([*states, int(following)], [*actions, action], chance * odds[following]))
        partial = extended
    states, actions, chance = (np.array(column) for column in zip(*partial, strict=True))
    rewards = problem.reward[states, actions]
    advantages = rewards[:, ::-1].cumsum(1)[:, ::-1]
    if problem.baseline is not None:
        advantages = advantages - problem.baseline[states]
    return Episodes(states, actions, rewards, advantages, chance)


def data_sets(kinds: int, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """All multisets of N = `episodes` out of E = `kinds`: how often each occurs in it [M, E], and its orderings [M]."""
    chosen = itertools.combinations_with_replacement(range(kinds), episodes)
    counts = np.array([np.bincount(members, minlength=kinds) for members in chosen])
    orderings = [math.factorial(episodes) / math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts, np.array(orderings)


def _first_counted(rates: Sequence[float], burn_in: int | None) -> int:
    first = len(rates) if burn_in is None else burn_in
    if not 0 <= first <= len(rates):
        raise ValueError(f"burn_in is {burn_in!r}; with {len(rates)} inner steps it must lie in 0..{len(rates)}")
    return first


# Objectives, and their gradients by autodiff.


def _mean_return(problem: Problem, theta: jax.Array) -> jax.Array:
    # Copies: an array that is a constant of a float64 program stays float64 for jnp.array ever after (jax 0.10).
    transition, reward = problem.transition.copy(), problem.reward.copy()
    policy = jax.nn.softmax(theta)
    occupied = jnp.zeros(len(reward)).at[0].set(1.0)
    total = jnp.zeros(())
    for _ in range(problem.horizon):
        taken = occupied[:, None] * policy
        total = total + (taken * reward).sum()
        occupied = jnp.einsum("xa,xay->y", taken, transition)
    return total / problem.horizon


def _expected_objective(problem: Problem, theta: jax.Array, rates: tuple[float, ...], first: int) -> jax.Array:
    phi, path = theta, [theta]
    for rate in rates:
        phi = phi + rate * jax.grad(lambda phi: _mean_return(problem, phi))(phi)
        path.append(phi)
    return jnp.stack([_mean_return(problem, phi) for phi in path[first:]]).mean()


def _sampled_objective(
    problem: Problem, theta: jax.Array, rates: tuple[float, ...], episodes: int, first: int
) -> jax.Array:
    every = all_episodes(problem)
    counts, orderings = data_sets(len(every.chance), episodes)

    def log_policy(phi):
        return jax.nn.log_softmax(phi)[every.states, every.actions]

    def step(phi, weight, rate):
        """φ [B, X, A] of weight [B] → [B·M, X, A], [B·M]: what follows from every data set."""

        def one(phi, weight, count, ordering):
            def reinforce(phi):
                return count @ (log_policy(phi) * every.advantages).sum(1) / (episodes * problem.horizon)

            log_probability = count @ (log_policy(phi).sum(1) + jnp.log(every.chance))
            return phi + rate * jax.grad(reinforce)(phi), weight * ordering * jnp.exp(log_probability)

        over_data = jax.vmap(one, (None, None, 0, 0))
        phi, weight = jax.vmap(over_data, (0, 0, None, None))(phi, weight, jnp.asarray(counts, float), orderings)
        return phi.reshape(-1, *theta.shape), weight.reshape(-1)

    phi, weight = theta[None], jnp.ones(1)
    values = []
    for stage in range(len(rates) + 1):
        values.append(weight @ jax.vmap(lambda phi: _mean_return(problem, phi))(phi))
        if stage < len(rates):
            phi, weight = step(phi, weight, rates[stage])
    return jnp.stack(values[first:]).mean()


def _smoothed_gradient(
    problem: Problem, theta: jax.Array, rates: tuple[float, ...], episodes: int, first: int, sigma: float, nodes: int
) -> jax.Array:
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    noise = np.array(list(itertools.product(points, repeat=theta.size))).reshape(-1, *theta.shape)
    odds = np.array(list(itertools.product(weights / weights.sum(), repeat=theta.size))).prod(1)
    gradient = jax.grad(lambda phi: _sampled_objective(problem, phi, rates, episodes, first))
    return jnp.tensordot(odds, jax.vmap(gradient)(theta + sigma * noise), 1)


@functools.cache
def _compiled(function: Callable[..., jax.Array], derivative: bool) -> Callable[..., jax.Array]:
    """A function of (problem, θ, settings …); all but θ are constants of the program."""
    settings = [name for name in inspect.signature(function).parameters if name != "theta"]
    return jax.jit(jax.grad(function, argnums=1) if derivative else function, static_argnames=settings)


def _evaluate(function: Callable[..., jax.Array], problem: Problem, theta: np.ndarray, *settings, derivative=False):
    """The value in float64, whatever JAX's default."""
    with jax.enable_x64():
        return np.asarray(_compiled(function, derivative)(problem, jnp.asarray(theta, jnp.float64), *settings))


def mean_return(problem: Problem, theta: np.ndarray) -> float:
    """R(θ) = E[G]/T, by propagating the distribution over states."""
    return float(_evaluate(_mean_return, problem, theta))


def return_gradient(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """∇R(θ) [X, A], by autodiff of `mean_return`."""
    return _evaluate(_mean_return, problem, theta, derivative=True)


def sampled_objective(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], episodes: int, burn_in: int | None = None
) -> float:
    """J(θ) = Σ_D p_θ(D) mean_s R(φ_s(θ, D)) over all D = (D_0, …, D_{L−1}), with φ_{s+1} = φ_s + α_s ĝ(φ_s; D_s)."""
    settings = tuple(rates), episodes, _first_counted(rates, burn_in)
    return float(_evaluate(_sampled_objective, problem, theta, *settings))


def sampled_gradient(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], episodes: int, burn_in: int | None = None
) -> np.ndarray:
    """∇J(θ) [X, A] of `sampled_objective`: p_θ(D) is differentiated too, so all data's score terms are in it."""
    settings = tuple(rates), episodes, _first_counted(rates, burn_in)
    return _evaluate(_sampled_objective, problem, theta, *settings, derivative=True)


def expected_objective(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], burn_in: int | None = None
) -> float:
    """J(θ) = mean_s R(φ_s) with the exact inner gradient, φ_{s+1} = φ_s + α_s ∇R(φ_s)."""
    return float(_evaluate(_expected_objective, problem, theta, tuple(rates), _first_counted(rates, burn_in)))


def expected_gradient(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], burn_in: int | None = None
) -> np.ndarray:
    """∇J(θ) [X, A] of `expected_objective`: Π_s (I + α_s ∇²R(φ_s)) ∇R(φ_L) where the last stage alone counts."""
    settings = tuple(rates), _first_counted(rates, burn_in)
    return _evaluate(_expected_objective, problem, theta, *settings, derivative=True)


def smoothed_gradient(
    problem: Problem,
    theta: np.ndarray,
    rates: Sequence[float],
    episodes: int,
    sigma: float,
    burn_in: int | None = None,
    nodes: int = 12,
) -> np.ndarray:
    """∇J_σ(θ) = E_ε[∇J(θ + σ ε)] [X, A], ε ~ N(0, I), of `sampled_objective`, by Gauss–Hermite with nodes^d points."""
    settings = tuple(rates), episodes, _first_counted(rates, burn_in), sigma, nodes
    return _evaluate(_smoothed_gradient, problem, theta, *settings)


# Expectations of estimators, by closed formulas in NumPy.


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[..., :, None] * vectors[..., None, :]


def _policy(phi: np.ndarray) -> np.ndarray:
    """π [B, X, A] of φ [B, X, A]."""
    odds = np.exp(phi - phi.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def _probabilities(every: Episodes, policy: np.ndarray) -> np.ndarray:
    """p(episode | φ), [B, E]."""
    return every.chance * policy[:, every.states, every.actions].prod(-1)


def _scores(every: Episodes, policy: np.ndarray) -> np.ndarray:
    """g_t = e_x ⊗ (e_a − π_x) at x = s_t and a = a_t, [B, E, T, d]."""
    batch, states, actions = policy.shape
    away = np.eye(actions)[every.actions] - policy[:, every.states]
    scores = np.einsum("etx,beta->betxa", np.eye(states)[every.states], away)
    return scores.reshape(batch, *every.states.shape, states * actions)


def _hessians(every: Episodes, policy: np.ndarray) -> np.ndarray:
    """H_t = ∇²log π(a_t|s_t) = −e_x e_xᵀ ⊗ (diag π_x − π_x π_xᵀ) at x = s_t, [B, E, T, d, d]."""
    batch, states, actions = policy.shape
    spread = policy[..., None] * np.eye(actions) - _outer(policy)
    here = np.eye(states)[every.states]
    hessians = -np.einsum("etx,ety,betac->betxayc", here, here, spread[:, every.states])
    return hessians.reshape(batch, *every.states.shape, states * actions, states * actions)


def _curvature(every: Episodes, policy: np.ndarray, estimator: str, lambda_: float) -> np.ndarray:
    """M [B, E, d, d], the Jacobian of Σ_t A_t g_t as the estimator has it, with w_t = Σ_{k≤t} g_k.

    plain             Σ_t A_t H_t
    likelihood_ratio  Σ_t A_t (g_t g_tᵀ + H_t)
    dice              Σ_t (A_t − A_{t+1}) (w_t w_tᵀ + Σ_{k≤t} H_k),  which is Σ_t r_t (…) without a baseline
    loaded_dice       Σ_t A_t (W_t W_tᵀ − V_t V_tᵀ + H_t),  W_t = λ W_{t−1} + g_t,  V_t = W_t − g_t
    first_order       0
    """
    score, hessian = _scores(every, policy), _hessians(every, policy)
    advantages = every.advantages
    if estimator == "plain":
        return np.einsum("et,betij->beij", advantages, hessian)
    if estimator == "likelihood_ratio":
        return np.einsum("et,betij->beij", advantages, _outer(score) + hessian)
    if estimator == "dice":
        freed = advantages - np.pad(advantages[:, 1:], ((0, 0), (0, 1)))
        return np.einsum("et,betij->beij", freed, _outer(score.cumsum(2)) + hessian.cumsum(2))
    if estimator == "loaded_dice":
        total, now = np.zeros_like(hessian[:, :, 0]), np.zeros_like(score[:, :, 0])
        for t in range(score.shape[2]):
            past, now = lambda_ * now, lambda_ * now + score[:, :, t]
            total += advantages[:, t, None, None] * (_outer(now) - _outer(past) + hessian[:, :, t])
        return total
    if estimator == "first_order":
        return np.zeros_like(hessian[:, :, 0])
    raise ValueError(f"unknown estimator {estimator!r}; there are {', '.join(ESTIMATORS)}")


class _Stage(NamedTuple):
    """All B paths that lead to one stage."""

    phi: np.ndarray
    """[B, X, A]"""
    weight: np.ndarray
    """[B] probability of the data on the way"""
    jacobian: np.ndarray
    """[B, d, d] ∂φ/∂θ as the estimator has it"""
    score: np.ndarray
    """[B, d] Σ_k ∇_θ log p(D_k|φ_k(θ)) of the data on the way, through the same Jacobians"""


def _stages(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], episodes: int, estimator: str, lambda_: float
) -> Iterator[_Stage]:
    every = all_episodes(problem)
    counts, orderings = data_sets(len(every.chance), episodes)
    size = theta.size
    stage = _Stage(np.asarray(theta, float)[None], np.ones(1), np.eye(size)[None], np.zeros((1, size)))
    yield stage
    for rate in rates:
        policy = _policy(stage.phi)
        score, curvature = _scores(every, policy), _curvature(every, policy, estimator, lambda_)
        gradient = np.einsum("et,betd->bed", every.advantages, score)
        scale = rate / (episodes * problem.horizon)
        moved = stage.phi.reshape(-1, 1, size) + scale * np.einsum("me,bed->bmd", counts, gradient)
        growth = np.eye(size) + scale * np.einsum("me,beij->bmij", counts, curvature)
        odds = orderings * np.exp(np.log(_probabilities(every, policy)) @ counts.T)
        of_data = np.einsum("me,bed->bmd", counts, score.sum(2))
        stage = _Stage(
            phi=moved.reshape(-1, *theta.shape),
            weight=(stage.weight[:, None] * odds).reshape(-1),
            jacobian=(growth @ stage.jacobian[:, None]).reshape(-1, size, size),
            score=(stage.score[:, None] + of_data @ stage.jacobian).reshape(-1, size),
        )
        yield stage


def _returns(problem: Problem, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R [B] and ∇R [B, d] at φ [B, X, A]: Σ_e p(e) G(e)/T and Σ_e p(e) G(e)/T Σ_t g_t."""
    every = all_episodes(problem)
    values, gradients = [], []
    for some in np.array_split(phi, -(-len(phi) // 4096)):  # bounds the memory for scores
        policy = _policy(some)
        gained = _probabilities(every, policy) * every.returns / problem.horizon
        values.append(gained.sum(1))
        gradients.append(np.einsum("be,betd->bd", gained, _scores(every, policy)))
    return np.concatenate(values), np.concatenate(gradients)


def _estimate(problem, theta, rates, episodes, estimator, burn_in, lambda_, credit: bool) -> np.ndarray:
    first = _first_counted(rates, burn_in)
    counted = []
    for index, stage in enumerate(_stages(problem, theta, rates, episodes, estimator, lambda_)):
        if index >= first:
            value, gradient = _returns(problem, stage.phi)
            total = np.einsum("bi,bij->bj", gradient, stage.jacobian)
            if credit:
                total += value[:, None] * stage.score
            counted.append(stage.weight @ total)
    return np.mean(counted, 0).reshape(theta.shape)


def path_derivative(
    problem: Problem,
    theta: np.ndarray,
    rates: Sequence[float],
    episodes: int,
    estimator: str,
    burn_in: int | None = None,
    lambda_: float = 1.0,
) -> np.ndarray:
    """E_D[mean_s (∂φ_s/∂θ)ᵀ ∇R(φ_s)] [X, A] with ∂φ_s/∂θ = Π_{k<s} (I + α_k M_k): the data's odds are held fixed.

    M_k = 1/(N T) Σ_n M(episode n) of D_k, where `estimator` says what M is (`ESTIMATORS`, formulas in `_curvature`).
    λ is that of loaded_dice.
    """
    return _estimate(problem, theta, rates, episodes, estimator, burn_in, lambda_, credit=False)


def credited(
    problem: Problem,
    theta: np.ndarray,
    rates: Sequence[float],
    episodes: int,
    estimator: str,
    burn_in: int | None = None,
    lambda_: float = 1.0,
) -> np.ndarray:
    """`path_derivative` + E_D[mean_s R(φ_s) Σ_{k<s} (∂φ_k/∂θ)ᵀ ∇log p(D_k|φ_k)] [X, A]: earlier data credited too.

    With `plain`, whose Jacobians are those of the sampled update, this is `sampled_gradient`.
    """
    return _estimate(problem, theta, rates, episodes, estimator, burn_in, lambda_, credit=True)


def mean_shift(problem: Problem, theta: np.ndarray, rates: Sequence[float], episodes: int) -> np.ndarray:
    """E_D[φ_L − θ] [X, A]: how far L inner steps move the policy on average, which is what Reptile follows."""
    *_, last = _stages(problem, theta, rates, episodes, "first_order", 1.0)
    return np.tensordot(last.weight, last.phi - theta, 1)
