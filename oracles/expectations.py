"""Expectations of meta-gradient estimators over all data sets, by closed formulas; conventions as in exact.py."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from oracles.exact import Episodes, Problem, all_episodes, data_sets, first_counted

ESTIMATORS = ("plain", "likelihood_ratio", "dice", "loaded_dice", "first_order")


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[..., :, None] * vectors[..., None, :]


def _policy(phi: np.ndarray) -> np.ndarray:
    """π [B, X, A] of φ [B, X, A]."""
    odds = np.exp(phi - phi.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def _probabilities(every: Episodes, policy: np.ndarray) -> np.ndarray:
    """p(episode | φ), [B, E]."""
    return every.chance * np.where(every.taken, policy[:, every.states, every.actions], 1).prod(-1)


def _scores(every: Episodes, policy: np.ndarray) -> np.ndarray:
    """g_t = e_x ⊗ (e_a − π_x) at x = s_t and a = a_t, [B, E, T, d]; 0 after the end."""
    batch, states, actions = policy.shape
    away = np.where(every.taken[..., None], np.eye(actions)[every.actions] - policy[:, every.states], 0)
    scores = np.einsum("etx,beta->betxa", np.eye(states)[every.states], away)
    return scores.reshape(batch, *every.states.shape, states * actions)


def _hessians(every: Episodes, policy: np.ndarray) -> np.ndarray:
    """H_t = ∇²log π(a_t|s_t) = −e_x e_xᵀ ⊗ (diag π_x − π_x π_xᵀ) at x = s_t, [B, E, T, d, d]; 0 after the end."""
    batch, states, actions = policy.shape
    spread = policy[..., None] * np.eye(actions) - _outer(policy)
    here = np.where(every.taken[..., None], np.eye(states)[every.states], 0)
    hessians = -np.einsum("etx,ety,betac->betxayc", here, here, spread[:, every.states])
    return hessians.reshape(batch, *every.states.shape, states * actions, states * actions)


def _curvature(every: Episodes, policy: np.ndarray, estimator: str, lambda_: float) -> np.ndarray:
    """M [B, E, d, d], the estimator's Jacobian of Σ_t A_t g_t, with w_t = Σ_{k≤t} g_k.

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
    """All B paths to one stage."""

    phi: np.ndarray
    """[B, X, A]"""
    weight: np.ndarray
    """[B] probability of the path's data"""
    jacobian: np.ndarray
    """[B, d, d] the estimator's ∂φ/∂θ"""
    score: np.ndarray
    """[B, d] Σ_k ∇_θ log p(D_k|φ_k(θ)) of the path's data, through the same Jacobians"""


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
    """R [B] and E[ĝ] [B, d] at φ [B, X, A]: Σ_e p(e) G(e)/T and Σ_e p(e) Σ_t A_t g_t/T, which is ∇R unless γ < 1."""
    every = all_episodes(problem)
    values, gradients = [], []
    for some in np.array_split(phi, -(-len(phi) // 4096)):  # bounds the memory for scores
        policy = _policy(some)
        odds = _probabilities(every, policy) / problem.horizon
        values.append(odds @ every.returns)
        gradients.append(np.einsum("be,et,betd->bd", odds, every.advantages, _scores(every, policy), optimize=True))
    return np.concatenate(values), np.concatenate(gradients)


def _estimate(problem, theta, rates, episodes, estimator, burn_in, lambda_, credit: bool) -> np.ndarray:
    first = first_counted(rates, burn_in)
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
    """E_D[mean_s (∂φ_s/∂θ)ᵀ E[ĝ(φ_s)]] [X, A] with ∂φ_s/∂θ = Π_{k<s} (I + α_k M_k): data probabilities are constant.

    M_k = 1/(N T) Σ_n M(episode n) of D_k, where `estimator` selects M (one of `ESTIMATORS`, formulas in `_curvature`).
    λ is the parameter of loaded_dice.
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
    """`path_derivative` + E_D[mean_s R(φ_s) Σ_{k<s} (∂φ_k/∂θ)ᵀ ∇log p(D_k|φ_k)] [X, A]: earlier data get credit too.

    With `plain`, which has the Jacobians of the sampled update, this is `sampled_gradient`.
    """
    return _estimate(problem, theta, rates, episodes, estimator, burn_in, lambda_, credit=True)


def mean_shift(problem: Problem, theta: np.ndarray, rates: Sequence[float], episodes: int) -> np.ndarray:
    """E_D[φ_L − θ] [X, A]: the expected change by L inner steps, which Reptile follows."""
    *_, last = _stages(problem, theta, rates, episodes, "first_order", 1.0)
    return np.tensordot(last.weight, last.phi - theta, 1)


def influenced(problem: Problem, theta: np.ndarray, rate: float, episodes: int, centred: bool = True) -> np.ndarray:
    """`path_derivative` of one plain inner step + E_D[Σ_n C_n ∇log p(τ_n|θ)] [X, A], C_n by influence.

    φ = θ + α/(N T) Σ_n w_n Σ_t A_t g_t of episode n, so ∂R(φ)/∂w_n = α/(N T) ∇R(φ)·Σ_t A_t g_t, and C_n is that less
    the mean of the other episodes'.
    """
    every, theta = all_episodes(problem), np.asarray(theta, float)
    counts, orderings = data_sets(len(every.chance), episodes)
    policy, scale = _policy(theta[None]), rate / (episodes * problem.horizon)
    scores = _scores(every, policy)[0]
    steps = np.einsum("et,etd->ed", every.advantages, scores)
    phi = theta + scale * (counts @ steps).reshape(-1, *theta.shape)
    effects = scale * _returns(problem, phi)[1] @ steps.T  # [data sets, kinds of episode]
    if centred:
        total = (counts * effects).sum(1, keepdims=True)
        effects = effects - (total - effects) / (episodes - 1)
    odds = orderings * np.exp(counts @ np.log(_probabilities(every, policy)[0]))
    term = np.einsum("m,me,me,ed->d", odds, counts, effects, scores.sum(1))
    return path_derivative(problem, theta, (rate,), episodes, "plain") + term.reshape(theta.shape)
