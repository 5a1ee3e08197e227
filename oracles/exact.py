"""Exact meta-gradients of finite problems by enumeration: an independent implementation without library code.

Conventions. θ and φ are logits [X, A] of a tabular softmax policy, d = X·A. R(φ) = E[G]/T with G = Σ_t γᵗ r_t the
return of an episode of at most T steps, which may end earlier. Stage s collects a data set D_s of N episodes with φ_s,
and

    φ_{s+1} = φ_s + α_s ĝ(φ_s; D_s),  ĝ = 1/(N T) Σ_{n,t} A_t g_t,  g_t = ∇log π(a_t|s_t)

with A_t = Σ_{k≥t} γ^{k−t} r_k − b(s_t), or γᵗ times that where `discount_states`.

The objective is the mean of R(φ_s) over the counted stages: those with s ≥ burn_in, by default only the last. There are
L = len(rates) inner steps, so L + 1 stages; data of the last one are not enumerated, since R is exact.

The objectives are differentiated by autodiff, with R from the state distribution. oracles/expectations.py computes
the estimators' expectations by closed formulas in NumPy, with ∇R from the enumerated episodes, as a cross-check.
"""

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A tabular MDP that starts in state 0; a bandit has X = 1 and T = 1."""

    transition: np.ndarray
    """[X, A, X] P(x'|x, a); 1 minus the sum of a row is the probability that the episode ends"""
    reward: np.ndarray
    """[X, A]"""
    horizon: int
    """T"""
    logits: np.ndarray
    """[X, A] initial θ"""
    baseline: np.ndarray | None = None
    """[X] b; None means 0"""
    discount: float = 1.0
    """γ"""
    discount_states: bool = False
    """whether advantages include γᵗ; if not and γ < 1, E[ĝ] is not the gradient of any function"""


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


def ending(problem: Problem, goes_on: float) -> Problem:
    """The same problem, with this probability of continuing after each step."""
    return dataclasses.replace(problem, transition=goes_on * problem.transition)


def chain(stays: float, quit: float = 0.6, second: tuple[float, float] = (0.5, -0.4)) -> Problem:
    """Two steps, with the second often missing: one action quits, the other pays 0.5 and continues at random.

    Args:
        stays: probability that an episode continues if the policy did not quit.
        quit: reward for quitting.
        second: rewards of the two actions of the second step.
    """
    return Problem(
        transition=np.array([[[0.0, 0.0], [0.0, stays]], [[0.0, 0.0], [0.0, 0.0]]]),
        reward=np.array([[quit, 0.5], second]),
        horizon=2,
        logits=np.array([[0.2, -0.1], [-0.1, 0.3]]),
    )


class Episodes(NamedTuple):
    """All E possible episodes of a problem."""

    states: np.ndarray
    """[E, T]"""
    actions: np.ndarray
    """[E, T]"""
    taken: np.ndarray
    """[E, T] bool: whether the step is before the end; other entries are ignored"""
    rewards: np.ndarray
    """[E, T]; 0 after the end"""
    returns: np.ndarray
    """G [E] = Σ_t γᵗ r_t"""
    advantages: np.ndarray
    """[E, T] A_t; 0 after the end"""
    chance: np.ndarray
    """[E] probability of the transitions, without the last, unobserved one"""


def all_episodes(problem: Problem) -> Episodes:
    """All episodes, by a walk through the tree of actions and possible next states."""
    partial: list[tuple[list[int], list[int], float]] = [([0], [], 1.0)]
    whole: list[tuple[list[int], list[int], float]] = []
    for step in range(problem.horizon):
        extended = []
        for states, actions, chance in partial:
            for action, odds in enumerate(problem.transition[states[-1]]):
                end = 1.0 if step == problem.horizon - 1 else 1 - odds.sum()
                if end > 1e-12:
                    whole.append((states, [*actions, action], chance * end))
                if step < problem.horizon - 1:
                    for following in np.flatnonzero(odds):
                        extended.append(([*states, int(following)], [*actions, action], chance * odds[following]))
        partial = extended
    lengths = np.array([len(actions) for _, actions, _ in whole])
    taken = np.arange(problem.horizon) < lengths[:, None]
    states, actions = np.zeros(taken.shape, int), np.zeros(taken.shape, int)
    for index, (row, moves, _) in enumerate(whole):
        states[index, : len(row)], actions[index, : len(moves)] = row, moves
    rewards = np.where(taken, problem.reward[states, actions], 0)
    worth = problem.discount ** np.arange(problem.horizon)
    to_go = rewards.copy()
    for step in reversed(range(problem.horizon - 1)):
        to_go[:, step] += problem.discount * to_go[:, step + 1]
    advantages = to_go if problem.baseline is None else to_go - problem.baseline[states]
    advantages = np.where(taken, advantages * worth if problem.discount_states else advantages, 0)
    chances = np.array([chance for _, _, chance in whole])
    return Episodes(states, actions, taken, rewards, rewards @ worth, advantages, chances)


def data_sets(kinds: int, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """All multisets of N = `episodes` out of E = `kinds`: their counts [M, E] and numbers of orderings [M]."""
    chosen = itertools.combinations_with_replacement(range(kinds), episodes)
    counts = np.array([np.bincount(members, minlength=kinds) for members in chosen])
    orderings = [math.factorial(episodes) / math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts, np.array(orderings)


def first_counted(rates: Sequence[float], burn_in: int | None) -> int:
    first = len(rates) if burn_in is None else burn_in
    if not 0 <= first <= len(rates):
        raise ValueError(f"burn_in is {burn_in!r}; with {len(rates)} inner steps it must lie in 0..{len(rates)}")
    return first


# Objectives, and their gradients by autodiff.


def _mean_return(problem: Problem, theta: jax.Array) -> jax.Array:
    # Copies: jnp.array caches an array that was a constant of a float64 program as float64 (jax 0.10).
    transition, reward = problem.transition.copy(), problem.reward.copy()
    policy = jax.nn.softmax(theta)
    occupied = jnp.zeros(len(reward)).at[0].set(1.0)
    total = jnp.zeros(())
    for step in range(problem.horizon):
        taken = occupied[:, None] * policy
        total = total + problem.discount**step * (taken * reward).sum()
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
        return jnp.where(every.taken, jax.nn.log_softmax(phi)[every.states, every.actions], 0)

    def step(phi, weight, rate):
        """φ [B, X, A] with weights [B] → [B·M, X, A], [B·M]: φ and weight after each possible data set."""

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
    """Jits a function of (problem, θ, settings …), with all arguments but θ as constants."""
    settings = [name for name in inspect.signature(function).parameters if name != "theta"]
    return jax.jit(jax.grad(function, argnums=1) if derivative else function, static_argnames=settings)


def _evaluate(function: Callable[..., jax.Array], problem: Problem, theta: np.ndarray, *settings, derivative=False):
    """The value in float64, independent of JAX's default."""
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
    settings = tuple(rates), episodes, first_counted(rates, burn_in)
    return float(_evaluate(_sampled_objective, problem, theta, *settings))


def sampled_gradient(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], episodes: int, burn_in: int | None = None
) -> np.ndarray:
    """∇J(θ) [X, A] of `sampled_objective`: p_θ(D) is differentiated too, so score terms of all data are included."""
    settings = tuple(rates), episodes, first_counted(rates, burn_in)
    return _evaluate(_sampled_objective, problem, theta, *settings, derivative=True)


def expected_objective(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], burn_in: int | None = None
) -> float:
    """J(θ) = mean_s R(φ_s) with the exact inner gradient, φ_{s+1} = φ_s + α_s ∇R(φ_s)."""
    return float(_evaluate(_expected_objective, problem, theta, tuple(rates), first_counted(rates, burn_in)))


def expected_gradient(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], burn_in: int | None = None
) -> np.ndarray:
    """∇J(θ) [X, A] of `expected_objective`: Π_s (I + α_s ∇²R(φ_s)) ∇R(φ_L) if only the last stage counts."""
    settings = tuple(rates), first_counted(rates, burn_in)
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
    settings = tuple(rates), episodes, first_counted(rates, burn_in), sigma, nodes
    return _evaluate(_smoothed_gradient, problem, theta, *settings)
