"""The evaluation loop: adaptation to held-out tasks, and its statistics. No disk, no printing."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.entry import check_deterministic, seeds_of
from metarl_jax.policies.likelihood import mean_of_counted
from metarl_jax.sharing import Program, program
from metarl_jax.statistics import Interval, interquartile_mean, iqm_interval, standard_error
from metarl_jax.types import Key, PyTree, numbered

__all__ = [
    "Interval",
    "Row",
    "across_seeds",
    "evaluate",
    "interquartile_mean",
    "iqm_interval",
    "standard_error",
    "summarize",
]


class Row(NamedTuple):
    """Undiscounted returns per adaptation step 0 … L' over held-out tasks; step 0 is before any adaptation.

    An entry of `per_task` is the mean over one task's N episodes, without void ones. A task whose episodes are all void
    at some step is excluded from the statistics of all steps, so that all steps cover the same tasks. Standard errors
    are over tasks.
    """

    per_task: np.ndarray
    """[num_tasks, L'+1] mean return; NaN where all episodes are void"""
    episodes: np.ndarray
    """[L'+1] episodes per task before this step, the x-axis of a learning curve: int step·N, or the mean over tasks if
    stages have a budget of steps"""
    environment_steps: np.ndarray
    """[L'+1] environment steps taken in these episodes, early ends included: mean over tasks"""
    mean: np.ndarray
    """[L'+1]"""
    standard_error: np.ndarray
    """[L'+1] standard error of the mean"""
    median: np.ndarray
    """[L'+1]"""
    iqm: np.ndarray
    """[L'+1] interquartile mean"""
    gain_mean: np.ndarray
    """[L'+1] mean of return − return at step 0 of the same task"""
    gain_standard_error: np.ndarray
    """[L'+1] standard error of the gain; paired by task, so the spread between tasks does not enter"""
    counted_mean: np.ndarray
    """[] J(θ): mean return of an episode after the burn-in"""
    counted_standard_error: np.ndarray
    """[] standard error of `counted_mean`"""
    diverged_episodes: np.ndarray
    """[L'+1] int: number of diverged episodes, over all tasks"""
    tasks_left_out: np.ndarray
    """[] int: number of tasks excluded from the statistics"""

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The statistics per step, [L'+1] each, ready for ``pandas.DataFrame(row.columns)``."""
        names = ("episodes", "environment_steps", "mean", "standard_error", "median", "iqm")
        more = ("gain_mean", "gain_standard_error", "diverged_episodes")
        return {"step": np.arange(len(self.mean))} | {name: getattr(self, name) for name in names + more}

    def __str__(self) -> str:
        """A table with one line per step."""
        lines = ["step  episodes before       mean ± s.e.    median       IQM       gain ± s.e."]
        for step in range(len(self.mean)):
            gain = f"{self.gain_mean[step]:+9.2f} ± {self.gain_standard_error[step]:<5.2f}" if step else ""
            lines.append(
                f"{step:4}  {self.episodes[step]:15g}  {self.mean[step]:9.2f} ± {self.standard_error[step]:<5.2f} "
                f"{self.median[step]:9.2f} {self.iqm[step]:9.2f}  {gain}"
            )
        return "\n".join(line.rstrip() for line in lines)


def summarize(
    per_task: np.ndarray,
    lengths: np.ndarray | None = None,
    spare: np.ndarray | None = None,
    burn_in: int | None = None,
    played: np.ndarray | None = None,
) -> Row:
    """Statistics of returns, computed in float64.

    Args:
        per_task: [num_tasks, L'+1].
        lengths: int [num_tasks, L'+1, N], steps of each episode, 0 for a void one; None means one episode of one step,
            as in a bandit.
        spare: bool [num_tasks, L'+1, N], the episodes beyond a stage's budget of steps; None means no budget.
        burn_in: number of initial steps that do not count, 0 … L'; None means L': only the last counts.
        played: int [num_tasks, L'+1, N], as `lengths`, of the episodes whose returns are given, where they are others
            than those that were learned from; None means the same. No budget holds for them.

    Raises:
        ValueError: the burn-in covers all steps, there are fewer than two tasks, or fewer than two tasks have an
            episode that is not void at each step, so that no standard error can be computed.
    """
    per_task = np.asarray(per_task, np.float64)
    if per_task.ndim != 2 or len(per_task) < 2:
        raise ValueError(f"per_task has shape {per_task.shape}; it must be [num_tasks, L'+1] with at least 2 tasks")
    last = per_task.shape[1] - 1
    burn_in = last if burn_in is None else checks.integer("burn_in", burn_in, 0)
    if burn_in > last:
        raise ValueError(f"burn_in is {burn_in}; with {last + 1} stages it must lie in 0..{last}, since one must count")
    lengths = np.ones((*per_task.shape, 1), int) if lengths is None else np.asarray(lengths)
    if played is None:
        void, diverged = lengths == 0, lengths == 0 if spare is None else (lengths == 0) & ~np.asarray(spare)
    else:
        void = diverged = np.asarray(played) == 0
    left_out = void.all(-1).any(-1)
    if (~left_out).sum() < 2:
        raise ValueError(
            f"the simulation diverged in every episode of some step in {left_out.sum()} of {len(per_task)} tasks, so "
            "there is nothing to evaluate; make the environment stable, or the inner rate smaller"
        )
    usable = per_task[~left_out]
    gain = usable - usable[:, :1]
    counted = usable[:, burn_in:].mean(1)
    steps = lengths[~left_out].sum(-1)  # [tasks, L'+1]
    episodes = np.arange(last + 1) * lengths.shape[-1]
    if spare is not None:
        counted_episodes = (~np.asarray(spare)[~left_out]).sum(-1)
        episodes = (np.cumsum(counted_episodes, 1) - counted_episodes).mean(0)
    return Row(
        per_task=per_task,
        episodes=episodes,
        environment_steps=(np.cumsum(steps, 1) - steps).mean(0),
        mean=usable.mean(0),
        standard_error=standard_error(usable),
        median=np.median(usable, axis=0),
        iqm=interquartile_mean(usable),
        gain_mean=gain.mean(0),
        gain_standard_error=standard_error(gain),
        counted_mean=counted.mean(),
        counted_standard_error=standard_error(counted),
        diverged_episodes=diverged.sum((0, 2)),
        tasks_left_out=left_out.sum(),
    )


def across_seeds(rows: Sequence[Row]) -> Row:
    """Combines the rows of R ≥ 2 training runs that were evaluated on the same tasks.

    Standard errors are computed from the seeds' means, so they describe the variation between training runs. Median and
    interquartile mean are of all R·num_tasks returns. An entry of `per_task` is the mean over seeds, without NaNs.
    `diverged_episodes` and `tasks_left_out` are sums.

    Raises:
        ValueError: there are fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"rows holds {len(rows)}; a standard error over seeds takes at least 2")
    per_task = np.stack([row.per_task for row in rows])  # [R, num_tasks, L'+1]
    present = ~np.isnan(per_task)
    count = present.sum(0)
    pooled = per_task[present.all(-1)]
    means, gains = np.stack([row.mean for row in rows]), np.stack([row.gain_mean for row in rows])
    counted = np.stack([row.counted_mean for row in rows])
    episodes = np.stack([row.episodes for row in rows])
    return Row(
        per_task=np.where(count > 0, np.where(present, per_task, 0).sum(0) / np.maximum(count, 1), np.nan),
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


@jax.jit
def _untrained(init: Program, keys: Key) -> PyTree:
    """θ before any training, for each of the keys."""
    return jax.vmap(lambda key: init(key).params)(keys)


@functools.partial(jax.jit, static_argnames=("steps", "deterministic"))
def _returns(
    adapt: Program, keys: Key, params: PyTree, tasks: PyTree, steps: int | None, deterministic: bool
) -> dict[str, jax.Array | None]:
    """The arguments of `summarize` that are arrays.

    `params` has leaves [num_tasks, ...], one θ per task. Only these outputs grow with L': the rest of D is unused, so
    XLA drops it.
    """

    def one(key, theta, task):
        # A user-defined algorithm need not support the arguments `steps` and `deterministic`.
        asked = {"steps": steps, "deterministic": deterministic or None}
        out = adapt(key, theta, task, **{name: value for name, value in asked.items() if value is not None})
        lengths = out.trajectory.lengths if out.lengths is None else out.lengths
        returns, played = (out.by_mode.returns, out.by_mode.lengths) if deterministic else (out.returns, None)
        # Void episodes are identified by length: a return is also NaN if φ is NaN, and that must not be hidden.
        void = (lengths if played is None else played) == 0
        mean = mean_of_counted(jnp.where(void, 0, returns), ~void, -1)
        mean = jnp.where(void.all(-1), jnp.nan, mean)
        return {"per_task": mean, "lengths": lengths, "spare": out.spare, "played": played}

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
    deterministic: bool = False,
) -> dict[str, Row]:
    """Adapts the trained θ, and untrained parameters for comparison, to tasks drawn from `key`, with `adapt`.

    Both rows use the same tasks and random numbers. `random_init` draws a new θ for each task; a single θ for all tasks
    would make the row depend on one draw.

    Args:
        algorithm: the algorithm whose `adapt` and `init` are used.
        env: the environment that draws the tasks.
        key: use ``streams(root).evaluate``, from which training never draws.
        params: the trained θ.
        num_tasks: at least 2.
        steps: L', inner steps per task; None means the L of training. Memory hardly grows with L'. Beyond L the inner
            rates of a gradient-based algorithm follow its option `inner_lr_beyond`.
        burn_in: number of initial stages that `counted_mean` excludes; None means all but the last.
        deterministic: measure every stage by the modes of its policy. The adaptation is the same up to rounding: it
            learns from episodes that are sampled. The returns are those of N further episodes per stage, from the same
            starts and random draws, in which each action is the distribution's `mode`. A memory plays each of its
            episodes twice likewise, from the same memory, and remembers the sampled one. `episodes` and
            `environment_steps` count what was learned from; a budget of steps does not hold for the further episodes.

    Returns:
        ``{"adapted": Row, "random_init": Row}``.

    Raises:
        ValueError: there are fewer than two tasks, `steps` is negative, no stage counts, θ is another algorithm's, the
            simulation diverged in too many tasks, or modes are asked for and there are none.

    Example:
        >>> run = mrl.zoo.load("point-nav/maml-trpo")
        >>> rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(0), run.params, num_tasks=4, steps=2)
        >>> rows["adapted"].mean.shape  # after 0, 1 and 2 inner steps
        (3,)
        >>> bool(rows["adapted"].mean[2] > rows["random_init"].mean[2])
        True
    """
    checks.integer("num_tasks", num_tasks, 2)  # for a standard error over tasks
    if checks.boolean("deterministic", deterministic):
        check_deterministic(algorithm.adapt)
    task_key, adapt_key, init_key = jax.random.split(key, 3)
    per_task = functools.partial(numbered, count=num_tasks)
    tasks = jax.jit(jax.vmap(env.sample_task))(per_task(task_key))
    untrained = _untrained(program(algorithm.init), per_task(init_key))
    if jax.tree.structure(params) != jax.tree.structure(untrained):
        raise ValueError(
            "θ has another structure than this algorithm's; evaluate it with the algorithm that trained it"
        )
    if seeds := seeds_of(params, [leaf.shape[1:] for leaf in jax.tree.leaves(untrained)]):
        raise ValueError(
            f"θ is that of {seeds} seeds, by its leading axis; evaluate one after the other: "
            "jax.tree.map(lambda leaf: leaf[0], θ)"
        )
    matches = jax.tree.map(lambda new, old: new.shape[1:] == jnp.shape(old), untrained, params)
    for path, match in jax.tree_util.tree_leaves_with_path(matches):
        if not match:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(f"θ{leaf} has another shape than this algorithm's; learned inner rates keep their number")
    # Give both rows the same dtypes and weak types, so that they share one compiled program.
    trained = jax.tree.map(lambda new, old: jnp.broadcast_to(old, new.shape).astype(new.dtype), untrained, params)
    untrained = jax.tree.map(lambda new: new.astype(new.dtype), untrained)
    keys, adapt = per_task(adapt_key), program(algorithm.adapt)
    rows = {"adapted": trained, "random_init": untrained}
    return {
        name: summarize(**jax.device_get(_returns(adapt, keys, theta, tasks, steps, deterministic)), burn_in=burn_in)
        for name, theta in rows.items()
    }
