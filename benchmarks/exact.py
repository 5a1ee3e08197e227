"""Exact meta-gradients of finite problems by enumeration: a second implementation, sharing no code with the library.

Conventions. θ and φ are logits [X, A] of a tabular softmax policy, d = X·A. Everything is per step: R(φ) = E[G]/T with
G the undiscounted return of an episode of T steps. Stage s collects a data set D_s of N episodes with φ_s, and

    φ_{s+1} = φ_s + α_s ĝ(φ_s; D_s),  ĝ = 1/(N T) Σ_{n,t} A_t g_t,  A_t = Σ_{k≥t} r_k − b(s_t),  g_t = ∇log π(a_t|s_t)

The objective is the mean of R(φ_s) over the counted stages: those with s ≥ burn_in, by default the last alone. There
are L = len(rates) inner steps, so L + 1 stages; the last one's data are never enumerated, since R is exact.

The objectives are differentiated by autodiff, with R from the state distribution. benchmarks/expectations.py has the
estimators' expectations by closed formulas in NumPy, with ∇R from the enumerated episodes; the two check each other.
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


def first_counted(rates: Sequence[float], burn_in: int | None) -> int:
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
    settings = tuple(rates), episodes, first_counted(rates, burn_in)
    return float(_evaluate(_sampled_objective, problem, theta, *settings))


def sampled_gradient(
    problem: Problem, theta: np.ndarray, rates: Sequence[float], episodes: int, burn_in: int | None = None
) -> np.ndarray:
    """∇J(θ) [X, A] of `sampled_objective`: p_θ(D) is differentiated too, so all data's score terms are in it."""
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
    """∇J(θ) [X, A] of `expected_objective`: Π_s (I + α_s ∇²R(φ_s)) ∇R(φ_L) where the last stage alone counts."""
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
