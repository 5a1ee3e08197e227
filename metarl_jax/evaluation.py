"""The evaluation loop: adaptation to held-out tasks, and its statistics. No disk, no printing."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.policies.likelihood import mean_of_counted
from metarl_jax.types import Key, PyTree


class Row(NamedTuple):
    """Undiscounted returns per adaptation step 0 … L' over held-out tasks; step 0 is before any adaptation.

    An entry of `per_task` is the mean of one task's N episodes, void ones left out. A task that has nothing but void
    episodes at some step is left out of the statistics of all steps, which so are of the same tasks. Standard errors
    are over tasks.
    """

    per_task: np.ndarray
    """[num_tasks, L'+1]; NaN where all episodes are void"""
    episodes: np.ndarray
    """[L'+1] episodes of a task before those of the step, which the return is to be drawn against: int step·N, or where
    a stage is a budget of steps the mean over tasks"""
    environment_steps: np.ndarray
    """[L'+1] environment steps that these took, ends before the horizon counted as such: mean over tasks"""
    mean: np.ndarray
    """[L'+1]"""
    standard_error: np.ndarray
    """[L'+1] of the mean"""
    median: np.ndarray
    """[L'+1]"""
    iqm: np.ndarray
    """[L'+1] interquartile mean"""
    gain_mean: np.ndarray
    """[L'+1] mean of return − return at step 0 of the same task"""
    gain_standard_error: np.ndarray
    """[L'+1] of the gain: paired, so the spread between tasks does not enter"""
    counted_mean: np.ndarray
    """[] return per episode of the steps after the burn-in: J(θ) / (H − K)"""
    counted_standard_error: np.ndarray
    """[] of the same"""
    diverged_episodes: np.ndarray
    """[L'+1] int: episodes of all tasks whose simulation diverged"""
    tasks_left_out: np.ndarray
    """[] int: tasks that are in no statistic"""

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The statistics step by step, [L'+1] each, as a data frame takes them: ``pandas.DataFrame(row.columns)``."""
        names = ("episodes", "environment_steps", "mean", "standard_error", "median", "iqm")
        more = ("gain_mean", "gain_standard_error", "diverged_episodes")
        return {"step": np.arange(len(self.mean))} | {name: getattr(self, name) for name in names + more}

    def __str__(self) -> str:
        """A table: a line for every step."""
        lines = ["step  episodes before       mean ± s.e.    median       IQM       gain ± s.e."]
        for step in range(len(self.mean)):
            gain = f"{self.gain_mean[step]:+9.2f} ± {self.gain_standard_error[step]:<5.2f}" if step else ""
            lines.append(
                f"{step:4}  {self.episodes[step]:15g}  {self.mean[step]:9.2f} ± {self.standard_error[step]:<5.2f} "
                f"{self.median[step]:9.2f} {self.iqm[step]:9.2f}  {gain}"
            )
        return "\n".join(line.rstrip() for line in lines)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean over axis 0 of what is left when a quarter (rounded down) is cut from either end of the sorted values."""
    ordered = np.sort(np.asarray(values), axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(0)


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def iqm_interval(scores: np.ndarray, *, level: float = 0.95, draws: int = 2000) -> Interval:
    """Interquartile mean of all scores, with the percentile interval of a stratified bootstrap.

    A draw takes, for every task by itself, as many seeds as there are, with replacement; so the interval is about
    another R trainings on these tasks, and not about other tasks. Draws are the same at every call and for all trailing
    axes, so curves on the same tasks can be compared.

    Agarwal, Schwarzer, Castro, Courville, Bellemare (2021, arXiv:2108.13264).

    Args:
        scores: [R, num_tasks, ...], of R ≥ 2 seeds.
        level: of the interval.
        draws: number of bootstrap samples.

    Returns:
        Leaves [...].

    Raises:
        ValueError: there are fewer than two seeds, or a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim < 2 or len(scores) < 2:
        raise ValueError(f"scores has shape {scores.shape}; it must be [seeds, tasks, ...] with at least 2 seeds")
    if not np.isfinite(scores).all():
        raise ValueError("scores holds a NaN or infinity; leave out tasks that have no score")
    seeds, tasks = scores.shape[:2]

    def pooled(scores):
        return interquartile_mean(scores.reshape(seeds * tasks, *scores.shape[2:]))

    random = np.random.default_rng(0)
    drawn = [pooled(scores[random.integers(seeds, size=(seeds, tasks)), np.arange(tasks)]) for _ in range(draws)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(pooled(scores), low, high)


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over axis 0, from the unbiased variance."""
    values = np.asarray(values)
    return values.std(0, ddof=1) / np.sqrt(len(values))


def summarize(
    per_task: np.ndarray,
    lengths: np.ndarray | None = None,
    spare: np.ndarray | None = None,
    burn_in: int | None = None,
) -> Row:
    """Statistics of returns, computed in float64.

    Args:
        per_task: [num_tasks, L'+1].
        lengths: int [num_tasks, L'+1, N], the steps of every episode, 0 for a void one; None means one episode of one
            step, as a bandit's.
        spare: bool [num_tasks, L'+1, N], the episodes beyond a stage's budget of steps; None means there is none.
        burn_in: steps that do not count, 0 … L'; None means L': only the last counts.

    Raises:
        ValueError: the burn-in leaves nothing to count, or there are fewer than two tasks, or fewer than two that have
            an episode that is not void at every step; of these no standard error can be had.
    """
    per_task = np.asarray(per_task, np.float64)
    if per_task.ndim != 2 or len(per_task) < 2:
        raise ValueError(f"per_task has shape {per_task.shape}; it must be [num_tasks, L'+1] with at least 2 tasks")
    last = per_task.shape[1] - 1
    burn_in = last if burn_in is None else checks.integer("burn_in", burn_in, 0)
    if burn_in > last:
        raise ValueError(f"burn_in is {burn_in}; with {last + 1} stages it must lie in 0..{last}, since one must count")
    lengths = np.ones((*per_task.shape, 1), int) if lengths is None else np.asarray(lengths)
    void = lengths == 0
    left_out = void.all(-1).any(-1)
    if (~left_out).sum() < 2:
        raise ValueError(
            f"the simulation diverged in every episode of some step in {left_out.sum()} of {len(per_task)} tasks, so "
            "there is nothing to evaluate; make the environment stable, or the inner rate smaller"
        )
    kept = per_task[~left_out]
    gain = kept - kept[:, :1]
    counted = kept[:, burn_in:].mean(1)
    taken = lengths[~left_out].sum(-1)  # [tasks, L'+1]
    episodes = np.arange(last + 1) * lengths.shape[-1]
    if spare is not None:
        played = (~np.asarray(spare)[~left_out]).sum(-1)
        episodes = (np.cumsum(played, 1) - played).mean(0)
    return Row(
        per_task=per_task,
        episodes=episodes,
        environment_steps=(np.cumsum(taken, 1) - taken).mean(0),
        mean=kept.mean(0),
        standard_error=standard_error(kept),
        median=np.median(kept, axis=0),
        iqm=interquartile_mean(kept),
        gain_mean=gain.mean(0),
        gain_standard_error=standard_error(gain),
        counted_mean=counted.mean(),
        counted_standard_error=standard_error(counted),
        diverged_episodes=(void if spare is None else void & ~np.asarray(spare)).sum((0, 2)),
        tasks_left_out=left_out.sum(),
    )


def across_seeds(rows: Sequence[Row]) -> Row:
    """One row for R ≥ 2 trainings that were evaluated on the same tasks.

    Standard errors are over the seeds' means, which is how far another R trainings would be from these. Median and
    interquartile mean are of all R·num_tasks returns; an entry of `per_task` is the mean over seeds, void ones left
    out; `diverged_episodes` and `tasks_left_out` are sums.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(rows) < 2:
        raise ValueError(f"rows holds {len(rows)}; a standard error over seeds takes at least 2")
    per_task = np.stack([row.per_task for row in rows])  # [R, num_tasks, L'+1]
    met = ~np.isnan(per_task)
    count = met.sum(0)
    pooled = per_task[met.all(-1)]
    means, gains = np.stack([row.mean for row in rows]), np.stack([row.gain_mean for row in rows])
    counted = np.stack([row.counted_mean for row in rows])
    episodes = np.stack([row.episodes for row in rows])
    return Row(
        per_task=np.where(count > 0, np.where(met, per_task, 0).sum(0) / np.maximum(count, 1), np.nan),
        episodes=episodes[0] if (episodes == episodes[0]).all() else episodes.mean(0),
        environment_steps=np.mean([row.environment_steps for row in rows], 0),
        mean=means.mean(0),
        standard_error=standard_error(means),
        median=np.median(pooled, axis=0),
        iqm=interquartile_mean(pooled),
        gain_mean=gains.mean(0),
        gain_standard_error=standard_error(gains),
        counted_mean=counted.mean(),
        counted_standard_error=standard_error(counted),
        diverged_episodes=np.sum([row.diverged_episodes for row in rows], 0),
        tasks_left_out=np.sum([row.tasks_left_out for row in rows]),
    )


@functools.partial(jax.jit, static_argnames=("adapt", "steps"))
def _returns(
    adapt: Callable, keys: Key, params: PyTree, tasks: PyTree, steps: int | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns [num_tasks, L'+1], lengths [num_tasks, L'+1, N] and which episodes are spare, likewise.

    Each task has its own θ: leaves [num_tasks, ...]. What memory this takes does not grow with L', but for these:
    nothing else of D is asked for.
    """

    def one(key, theta, task):
        # An algorithm of a user's own need not know of another number of steps than its own.
        out = adapt(key, theta, task) if steps is None else adapt(key, theta, task, steps=steps)
        lengths = out.trajectory.lengths if out.lengths is None else out.lengths
        # The length tells, and not the return, which is NaN too where φ is; that must not be left out of anything.
        void = lengths == 0
        mean = mean_of_counted(jnp.where(void, 0, out.returns), ~void, -1)
        return jnp.where(void.all(-1), jnp.nan, mean), lengths, out.spare

    return jax.vmap(one)(keys, params, tasks)


def evaluate(
    algorithm: MetaAlgorithm,
    env: TaskEnv,
    key: Key,
    params: PyTree,
    *,
    num_tasks: int = 40,
    steps: int | None = None,
    burn_in: int | None = None,
) -> dict[str, Row]:
    """Adapts θ, and beside it untrained parameters, to tasks drawn from `key`, with the same `adapt` as in training.

    Both rows see the same tasks and the same random draws, and so equal data. `random_init` takes a fresh θ for every
    task: one θ for all would make the row depend on a single draw.

    Args:
        algorithm: whose `adapt` and `init` to use.
        env: draws the tasks.
        key: use ``streams(root).evaluate``, which training never draws from.
        params: the trained θ.
        num_tasks: at least 2.
        steps: L', inner steps of each task; None means the L of training. Thousands fit into memory as well as few do.
            Beyond L the rates of a gradient-based algorithm fall as its option `inner_lr_beyond` says.
        burn_in: stages that `counted_mean` leaves out, which changes nothing else; None means all but the last.

    Returns:
        ``{"adapted": Row, "random_init": Row}``.

    Raises:
        ValueError: fewer than two tasks, `steps` is negative, no stage counts, θ is another algorithm's, or the
            simulation diverged in too many tasks.

    Example:
        >>> run = mrl.zoo.load("point-nav/maml-trpo")
        >>> rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(0), run.params, num_tasks=4, steps=2)
        >>> rows["adapted"].mean.shape  # after 0, 1 and 2 inner steps
        (3,)
        >>> bool(rows["adapted"].mean[2] > rows["random_init"].mean[2])
        True
    """
    checks.integer("num_tasks", num_tasks, 2)  # for a standard error over tasks
    task_key, adapt_key, init_key = jax.random.split(key, 3)

    def per_task(key):  # folding in the index keeps the first tasks the same whatever their number
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(num_tasks))

    tasks = jax.jit(jax.vmap(env.sample_task))(per_task(task_key))
    fresh = jax.jit(jax.vmap(lambda key: algorithm.init(key).params))(per_task(init_key))
    if jax.tree.structure(params) != jax.tree.structure(fresh):
        raise ValueError(
            "θ has another structure than this algorithm's; evaluate it with the algorithm that trained it"
        )
    if all(
        new.shape[1:] == jnp.shape(old)[1:] and jnp.ndim(old) == new.ndim
        for new, old in zip(*map(jax.tree.leaves, (fresh, params)), strict=True)
    ):
        raise ValueError(
            f"θ is that of {len(jax.tree.leaves(params)[0])} seeds, by its leading axis; evaluate one after the other: "
            "jax.tree.map(lambda leaf: leaf[0], θ)"
        )
    fits = jax.tree.map(lambda new, old: new.shape[1:] == jnp.shape(old), fresh, params)
    for path, fit in jax.tree_util.tree_leaves_with_path(fits):
        if not fit:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(f"θ{leaf} has another shape than this algorithm's; learned inner rates keep their number")
    # The dtypes of both rows are made equal, weak types included: they have to be one program.
    trained = jax.tree.map(lambda new, old: jnp.broadcast_to(old, new.shape).astype(new.dtype), fresh, params)
    fresh = jax.tree.map(lambda new: new.astype(new.dtype), fresh)
    keys = per_task(adapt_key)
    rows = {"adapted": trained, "random_init": fresh}
    return {
        name: summarize(*jax.device_get(_returns(algorithm.adapt, keys, theta, tasks, steps)), burn_in=burn_in)
        for name, theta in rows.items()
    }
