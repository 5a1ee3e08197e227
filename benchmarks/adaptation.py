"""Adaptation speed: learners trained with equal environment steps, adapted to the same held-out tasks, on one scale.

python benchmarks/adaptation.py                              # the small suite, minutes
python benchmarks/adaptation.py --suite full                 # dense rewards, exploration, and a robot: hours
python benchmarks/adaptation.py --algorithms cavia maml-trpo # any learners with trials, also your own (--import)
python benchmarks/adaptation.py --add mine.json              # with additional rows, for example of another library

Each row is written when it is complete; an interrupted benchmark continues when started again. adaptation.json holds
rows and statistics, adaptation.md the tables, adaptation.png the curves and the performance profiles. A score of 0 is
the untrained policy before adaptation, 1 the oracle, which observes the task. `metarl_jax.runs.evaluation.adaptation`
defines the rows.
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import adaptation, comparisons, suites
from metarl_jax.runs.evaluation.comparisons import ORACLE
from metarl_jax.runs.storage import files, json_text

SUITES = {
    "small": (("point-nav",), ("promp", "maml", "rl2", "pretrain")),
    "full": (("point-nav", "grid-nav", "cheetah-dir@promp2019"), ("promp", "maml", "e-maml", "rl2", "pretrain")),
}
"""Families and learners; all suites also include the oracle and the untrained policy, which define the scale."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(suites.Sizes):
    suite: str = "small"
    """small: one family, minutes; full: three, hours"""
    families: tuple[str, ...] = ()
    """families in place of the suite's, any that are registered"""
    algorithms: tuple[str, ...] = ()
    """learners in place of the suite's, any that are registered and learn from trials"""
    seeds: int = 5
    """number of training seeds, trained together in one program"""
    add: tuple[Path, ...] = ()
    """files with additional rows"""
    output: Path = Path("runs/adaptation")
    """folder of the results"""


def milliseconds(function: Any, *inputs: Any, repeats: int = 5) -> float:
    """Median duration of a compiled call."""
    return 1e3 * float(np.median(common.alternate(repeats, lambda: function(*inputs))[:, 0, 0]))


def speed(built: comparisons.Entry) -> dict[str, float | None]:
    """`ms_per_stage`: episodes and update of a stage in one task; `ms_per_action`: one call of the adapted policy."""
    import jax

    algorithm, env = built.algorithm, built.env
    key, task = jax.random.key(0), env.sample_task(jax.random.key(1))
    theta = algorithm.init(key).params
    adapt = jax.jit(algorithm.adapt, static_argnames="steps")
    long, short = (
        milliseconds(lambda steps=steps: adapt(key, theta, task, steps=steps).returns) for steps in (built.steps, 0)
    )
    out = adapt(key, theta, task, steps=built.steps)
    stages = max(out.returns.shape[0] - adapt(key, theta, task, steps=0).returns.shape[0], 1)
    found: dict[str, float | None] = {"ms_per_stage": round((long - short) / stages, 3), "ms_per_action": None}
    if algorithm.policy is not None:
        policy, observation = algorithm.policy, env.reset(key, task).observation
        act = jax.jit(lambda params: policy.apply(params, observation).sample(key))
        found["ms_per_action"] = round(milliseconds(act, out.params, repeats=50), 4)
    return found


def untrained(family: str, sizes: suites.Sizes) -> tuple[Any, dict[str, Any]]:
    """Initial parameters, one per seed, which adapt as in `maml`, and the entries of their row."""
    import jax
    import jax.numpy as jnp

    algorithm = suites.build(family, "maml", sizes.eval_episodes).algorithm
    params = jax.vmap(lambda key: algorithm.init(key).params)(jnp.stack([*map(jax.random.key, sizes.each_seed)]))
    return params, {"family": family, "algorithm": adaptation.UNTRAINED, "minutes": 0.0, "iterations": 0}


def splits(family: str) -> dict[str, str]:
    """Name of a family in a row → the split of its tasks."""
    import metarl_jax as mrl

    shifted = {adaptation.ood(family): "ood"} if "ood" in mrl.envs.card(family).splits else {}
    return {family: "train"} | shifted  # held-out draws, see `comparisons.scores`


def compute(family: str, name: str, sizes: suites.Sizes) -> list[dict[str, Any]]:
    """The row of a learner on a family, and that of the same θ out of distribution, if the family has such tasks."""
    if name == adaptation.UNTRAINED:
        learner, (params, told) = "maml", untrained(family, sizes)
    else:
        learner, times = name, speed(suites.build(family, name, sizes.eval_episodes))
        params, told = suites.trained(family, name, sizes)
        told |= times
    found = []
    for called, split in splits(family).items():
        built = suites.build(family, learner, sizes.eval_episodes, split)
        found.append(told | {"family": called} | suites.scores(built, params, sizes))
    return found


def of_others(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads rows from files.

    Raises:
        ValueError: a file cannot be read, or a row is incomplete.
    """
    rows = []
    for path in paths:
        try:
            held = json_text.loads(files.read(path))
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        held = held["rows"] if isinstance(held, dict) and "rows" in held else held
        if not isinstance(held, list):
            raise ValueError(f"{path} holds no list of rows")
        rows += [{"source": path.name} | adaptation.check_row(row, str(path)) for row in held]
    return rows


def main(argv: Sequence[str]) -> None:
    arguments = cli.parse(Arguments, argv, prog="adaptation.py", description=__doc__)
    cli.prepare_jax()
    cli.import_modules()
    path = arguments.output / "rows.json"
    with cli.user_errors():
        from metarl_jax.checks import one_of

        one_of("suite", arguments.suite, SUITES)
        of_suite = SUITES[arguments.suite]
        families = tuple(dict.fromkeys(arguments.families or of_suite[0]))
        trained = tuple(dict.fromkeys((*(arguments.algorithms or of_suite[1]), ORACLE)))
        suites.known(families, trained)
        arguments.check()
        for family, name in itertools.product(families, trained):
            suites.planned(family, name, arguments)
            for split in splits(family).values():
                suites.build(family, name, arguments.eval_episodes, split)
        added = of_others(arguments.add)
        sizes = {field.name: str(getattr(arguments, field.name)) for field in dataclasses.fields(suites.Sizes)}
        stored = comparisons.read(path, sizes)
        suites.check_stored(path, stored["rows"], set(itertools.product(families, trained)), arguments)
        arguments.output.mkdir(parents=True, exist_ok=True)
    done = {(row["family"], row["algorithm"]) for row in stored["rows"]}
    asked = [
        (family, name)
        for family, name in itertools.product(families, (adaptation.UNTRAINED, *trained))
        if not done.issuperset((called, name) for called in splits(family))
    ]
    again = {(called, name) for family, name in asked for called in splits(family)}
    kept = [row for row in stored["rows"] if (row["family"], row["algorithm"]) not in again]
    if len(kept) < len(stored["rows"]):  # written before others are added, which would bring them back
        stored["rows"] = kept
        files.write(path, json.dumps(stored) + "\n")
    comparisons.fill(path, stored, asked, lambda which: compute(which[0], which[1], arguments))
    write(arguments.output, stored, added)


def write(folder: Path, stored: dict[str, Any], added: Sequence[dict[str, Any]]) -> None:
    """Writes the report and its pictures, and prints the tables.

    Args:
        folder: of the results.
        stored: the benchmark's own rows, with its arguments, machine and date.
        added: rows of others.
    """
    rows = sorted([*stored["rows"], *added], key=lambda row: adaptation.is_ood(row["family"]))
    sound, void = adaptation.finite(rows)
    comparable, without_scale = adaptation.scaled(sound)
    records, better = adaptation.summary(comparable), adaptation.improvements(comparable)
    left_out = void + without_scale
    told = {name: stored.get(name) for name in ("arguments", "machine", "date")}
    report = told | {"summary": records, "left_out": left_out, "probability_of_improvement": better, "rows": rows}
    files.write(folder / "adaptation.json", json.dumps(report) + "\n")
    text = adaptation.table(records) + "".join(f"\n* {sentence}\n" for sentence in left_out)
    files.write(folder / "adaptation.md", text)
    from metarl_jax.runs.pictures import plots

    if sound:
        plots.curves(sound, folder / "adaptation.png")
    if comparable:
        plots.profiles(comparable, folder / "profiles.png")
    print(text)
    print(f"written to {folder}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
