"""Families and learners that are compared at equal environment steps, and how a row of a comparison is computed.

A row is the object that `metarl_jax.runs.evaluation.adaptation` describes. Importing this module does not import JAX.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from metarl_jax.runs.evaluation import comparisons
from metarl_jax.runs.evaluation.comparisons import DENSE, MEMORY, ORACLE, SMALL_BASE


class Family(NamedTuple):
    """Settings per family; other settings of an algorithm are the same on all families."""

    environment: Mapping[str, Any] = {}
    """options of the family"""
    steps: int = 2_400_000
    """environment steps of the training, equal for all algorithms"""
    gradient: Mapping[str, Any] = {}
    """options of the gradient-based algorithms"""
    memory: Mapping[str, Any] = {}
    """options of the recurrent algorithms"""
    learners: Mapping[str, Mapping[str, Any]] = {}
    """further options of single learners; "algorithm" names the registered one, if it is not that of the name"""
    oracle_steps: int | None = None
    """environment steps of the oracle (None: as for the others). It is a reference and no competitor, so it may take
    as many as it needs to solve the tasks that it observes."""


# Proximal steps on the same data, without inner steps: it needs fewer environment steps than `pretrain`.
_PROXIMAL = {"algorithm": "promp", "adaptation_steps": 0, "inner_kl_weight": 0.0, "outer_lr": 1e-3, "epochs": 8}
_CHEETAH = {"discount": 0.95, "lambda_": 0.95}
_INFLUENCE = {"credit": 1.0, "credit_estimator": "influence"}
_LOUD = {"init_std": 1.0, "min_std": 0.2}

FAMILIES: dict[str, Family] = {
    "point-nav": Family({"action_scale": 10.0}, 2_400_000, {"tasks": 10}, DENSE),
    "point-sparse": Family({"action_scale": 10.0}, 1_200_000, {"tasks": 20}),
    "reacher-goal": Family({"horizon": 50, "backend": "spring"}, 1_600_000, {"tasks": 10}, DENSE),
    # Where a learner has to explore: the reward is on one cell of 21.
    "grid-nav": Family({}, 6_000_000, {"tasks": 20, "inner_lr": 1.0}, learners={"e-maml": _INFLUENCE}),
    # The robot on the physics that is fastest on a CPU, with the settings of the preset `cheetah-dir-cpu`.
    "cheetah-dir@promp2019": Family(
        {"backend": "mujoco"},
        2_000_000,
        _CHEETAH | {"tasks": 20, "inner_lr": (0.3, 0.15, 0.075), "epochs": 8, "policy": _LOUD},
        _CHEETAH | {"entropy_weight": 0.0, "policy": _LOUD},
        learners={ORACLE: _PROXIMAL},
        oracle_steps=6_000_000,
    ),
}
POLICY = {"init_std": 0.5, "min_std": 0.1}
GRADIENT = {"episodes": 20, "inner_lr": 0.1, "outer_lr": 3e-3, "policy": POLICY}
ALGORITHMS: dict[str, Mapping[str, Any]] = {
    "maml": GRADIENT,
    "promp": GRADIENT | {"outer_lr": 1e-3},  # five steps on the same data
    "e-maml": GRADIENT | {"credit": 0.1},  # the whole term is noise at this budget
    "pretrain": GRADIENT,
    "rl2": MEMORY | {"policy": POLICY},
    "rl2-hyper": MEMORY | {"policy": POLICY | SMALL_BASE},
    ORACLE: GRADIENT,
}
"""Settings of single algorithms; gradient-based ones as in experiments/compare.py. Others have their own defaults."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Arguments of a script that concern each row."""

    seeds: int = 3
    """number of seeds, trained together in one program"""
    first_seed: int = 0
    """the first seed; the others follow"""
    steps: int | None = None
    """environment steps of the training, equal for all algorithms (None: 1.2 to 6 M, depending on the family)"""
    eval_tasks: int = 40
    """held-out tasks, equal for all algorithms"""
    eval_episodes: int = 80
    """episodes of a trial in a held-out task, a multiple of N"""

    @property
    def each_seed(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def check(self) -> None:
        """Checks the values.

        Raises:
            ValueError: a value is not allowed.
        """
        from metarl_jax import checks

        checks.integer("seeds", self.seeds, least=2)  # required for an interval over seeds
        for name in ("eval_tasks", "eval_episodes"):
            checks.integer(name, getattr(self, name))
        if self.steps is not None:
            checks.integer("steps", self.steps)
        checks.seeds(self.first_seed, self.seeds)


def known(families: Sequence[str], learners: Sequence[str]) -> None:
    """Checks names of families and learners: those with settings here, and all that are registered.

    Raises:
        ValueError: a name is unknown, or there is none, or an algorithm is registered under the name of the oracle.
    """
    from metarl_jax import algorithms, checks, envs

    comparisons.check_names()
    families_known = (*FAMILIES, *envs.names(), *itertools.chain.from_iterable(map(envs.versions, envs.names())))
    with_trials = (name for name in algorithms.names() if algorithms.kind(name) != "life")
    for name, chosen, own, choices in (
        ("family", families, FAMILIES, families_known),
        ("algorithm", learners, ALGORITHMS, (*ALGORITHMS, *with_trials)),
    ):
        if not chosen:
            raise ValueError(f"no {name} given; choose from {', '.join(own)}, or any that is registered")
        for value in chosen:
            if value not in choices:
                raise checks.unknown(name, value, list(dict.fromkeys(choices)))


def _family(name: str) -> Family:
    """The settings of a family: those of its version, whether the name has it or not."""
    from metarl_jax import envs

    full = envs.card(name).name
    return next((chosen for known, chosen in FAMILIES.items() if envs.card(known).name == full), Family())


def settings(family: Family, name: str) -> dict[str, Any]:
    """Options of a learner on a family; those that its algorithm does not have are ignored later."""
    from metarl_jax import algorithms

    memory = algorithms.kind(comparisons.registered_name(name)) == "memory"
    general = ALGORITHMS.get(name, MEMORY | {"policy": POLICY} if memory else {"episodes": 20, "policy": POLICY})
    of_kind = family.memory if memory else family.gradient
    chosen = {**general, **of_kind, **family.learners.get(name, {})}
    return chosen | {"policy": {**general.get("policy", {}), **chosen["policy"]}} if "policy" in chosen else chosen


def build(family: str, name: str, eval_episodes: int, split: str = "train") -> comparisons.Entry:
    """Environment and algorithm of a row.

    Args:
        family: a key of `FAMILIES`, or a registered family, with a version or without.
        name: a key of `ALGORITHMS`, or a registered algorithm.
        eval_episodes: as in `Sizes`.
        split: of the tasks.

    Raises:
        ValueError: a name is unknown or a value is out of range.
    """
    from metarl_jax import envs

    chosen = _family(family)
    env = envs.make(family, split=split, **chosen.environment)
    return comparisons.entry(env, name, settings(chosen, name), eval_episodes)


def scores(built: comparisons.Entry, params: Any, sizes: Sizes) -> dict[str, Any]:
    """The entries `episodes` and `per_task` of a row."""
    found = comparisons.scores(built, params, sizes.eval_tasks)
    each = sizes.eval_episodes // found.shape[-1]
    return {"episodes": [each * stage for stage in range(found.shape[-1])], "per_task": found.round(3).tolist()}


def _steps(family: str, name: str, sizes: Sizes) -> int:
    chosen = _family(family)
    return sizes.steps or (name == ORACLE and chosen.oracle_steps) or chosen.steps


def planned(family: str, name: str, sizes: Sizes) -> dict[str, Any]:
    """Entries of a row that its settings determine, see `metarl_jax.runs.evaluation.comparisons.plan`.

    Raises:
        ValueError: a name is unknown, a value is out of range, or no meta-iteration fits into the steps.
    """
    built, steps = build(family, name, sizes.eval_episodes), _steps(family, name, sizes)
    return comparisons.plan(f"{family}, {name}", built, steps)


def check_stored(path: Path, rows: Sequence[Mapping[str, Any]], asked: Set[tuple[str, str]], sizes: Sizes) -> None:
    """Checks that stored rows have the settings of today, so that no table mixes two versions of them.

    Args:
        path: where they are stored, for the message.
        rows: the rows.
        asked: family and learner of the rows that are checked.
        sizes: as they are now.

    Raises:
        ValueError: a row has others, or is damaged.
    """
    for row in rows:
        try:
            family, name = row["family"], row["algorithm"]
            if (family, name) not in asked:
                continue
            today = planned(family, name, sizes)
            changed = today != {entry: row[entry] for entry in today}
        except KeyError as error:
            raise ValueError(f"a row of {path} has no {error}; move it away, or choose another --output") from error
        if changed:
            raise ValueError(
                f"{path} holds {name!r} on {family!r} with other settings than those of today; choose another --output"
            )


def trained(family: str, name: str, sizes: Sizes) -> tuple[Any, dict[str, Any]]:
    """θ of all seeds, leaves [R, ...], and the entries of a row about the training."""
    built, steps = build(family, name, sizes.eval_episodes), _steps(family, name, sizes)
    params, training = comparisons.train(f"{family}, {name}", built, steps, sizes.each_seed)
    return params, {"family": family, "algorithm": name, **training}


def row(family: str, name: str, sizes: Sizes) -> dict[str, Any]:
    """Trains all seeds of one algorithm on one family, and adapts them to the held-out tasks."""
    params, told = trained(family, name, sizes)
    return told | scores(build(family, name, sizes.eval_episodes), params, sizes)
