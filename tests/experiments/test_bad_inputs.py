"""Bad input ends with status 2 and one line that names the value and the fix; no traceback, nothing on disk changed.

A row is a command and what its line must hold. Run folders are in `test_bad_folders.py`, environments and policies of a
user's own in `tests/contract/test_bad_parts.py`.
"""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.experiments.scripts import EXPERIMENTS, TINY, contents

# flag → (what must go with it, least value)
INTEGERS = {
    "tasks": ("", 1),
    "episodes": ("", 1),
    "adaptation-steps": ("", 0),
    "burn-in": ("", 0),
    "horizon": ("", 1),
    "task-chunk": ("", 1),
    "epochs": ("--algorithm promp", 1),
    "context-size": ("", 0),
    "iterations": ("", 1),
    "checkpoint-every": ("", 1),
    "keep": ("", 1),
    "patience": ("", 1),
    "seeds": ("", 1),
    "devices": ("", 1),
    "eval-tasks": ("", 2),
    "eval-steps": ("", 0),
}
# flag → (what must go with it, values, what the line says of them)
NUMBERS = {
    "inner-lr": ("", "-0.1 nan inf", "a number of at least 0"),
    "std-lr": ("", "-0.1 nan inf", "a number of at least 0"),
    "credit": ("", "-1 nan inf", "a number of at least 0"),
    "discount": ("", "-0.1 1.5 nan inf", r"in \[0, 1\]"),
    "lambda_": ("", "-0.1 1.5 nan", r"in \[0, 1\]"),
    "outer-lr": ("", "0 -1 nan inf 1e400", "a positive number"),
    "clip": ("--algorithm promp", "0 -0.3 nan inf", "a positive number"),
    "inner-kl-weight": ("--algorithm promp", "-1 nan", "a number of at least 0"),
    "dice-lambda": ("--algorithm loaded-dice", "-1 2 nan", r"in \[0, 1\]"),
    "sigma": ("--algorithm es-maml", "0 -1 nan inf", "a positive number"),
    "max-kl": ("--algorithm maml-trpo", "0 -1 nan inf", "a positive number"),
    "init-std": ("", "0 -1 nan inf", "a positive number"),
    "min-std": ("", "0 -1 1 nan inf", "(between 0 and init_std|finite)"),
}

ROWS = {
    "train --task point-nav --devices 99": "devices is 99, and there (is|are) .*choose from 1",
    "train --task point-nav --distributed --coordinator a:1": "give only one of them",
    "train --task point-nav --coordinator a:1 --num-processes 2": "--process-id not given; a job needs all of",
    "train --task point-nav --coordinator nowhere --num-processes 2 --process-id 0": "'nowhere'; it must be HOST:PORT",
    "train --task point-nav --coordinator a:1 --num-processes 2 --process-id 2": "--process-id is 2.*it must be 0 to 1",
    "train --task point-nav --num-processes two": "--num-processes: invalid int value: 'two'",
    # names
    "train --task reacher-gaol": "'reacher-gaol'.*did you mean 'reacher-goal'.*choose from gaussian-bandit",
    "train --task ''": "unknown environment ''.*choose from",
    "train --task 'a\nb'": "unknown environment 'a\\\\nb'",
    "train --task point-nav --algorithm 'a\nb'": "unknown algorithm 'a\\\\nb'",
    "train --task point-nav@finn2018": "'point-nav@finn2018'.*did you mean 'point-nav@finn2017'",
    "train --task point-nav --algorithm prompt": "unknown algorithm 'prompt': did you mean 'promp'",
    "train --preset reacher": "unknown preset 'reacher'.*did you mean 'reacher-goal'",
    "train --task reacher-goal --backend srping": "unknown backend.*'srping'.*did you mean 'spring'",
    "train --task point-nav --backend spring": "backend is 'spring'.*point-nav.*leave it out",
    "train TINY --surrogate ratio": "unknown surrogate 'ratio'.*likelihood_ratio",
    "train TINY --advantage gea": "unknown advantage 'gea': did you mean 'gae'",
    "train TINY --baseline liner_feature": "unknown baseline 'liner_feature': did you mean 'linear_feature'",
    "train TINY --inner-optimizer sdg": "unknown inner_optimizer 'sdg': did you mean 'sgd'",
    "train TINY --fast-parameters haed": "unknown fast_parameters 'haed': did you mean 'head'",
    "train TINY --activation rleu": "unknown activation 'rleu': did you mean 'relu'",
    "train TINY --eval-split tset": "unknown eval_split 'tset': did you mean 'test'",
    "train TINY --on-nonfinite skp": "unknown on_nonfinite 'skp': did you mean 'skip'",
    # flags
    "train --taks point-nav": "--taks.*did you mean --task",
    "train --preset": "--preset.*expected one argument.*--help",
    "train TINY --tasks": "--tasks.*Expected 1",
    "train TINY stray": "Unrecognized options: stray.*--help",
    "train --task point-nav --action-scale 10": "action_scale is an option of point-nav: --env-option action_scale=",
    "train TINY --remat maybe": "'maybe' for argument '--remat'.*'True'",
    "train TINY --hidden 8 wide": "--hidden is '8', 'wide'; it must be an integer",
    "train TINY --hidden 0": "hidden is 0.*at least 1",
    "train TINY --inner-lr": r"inner_lr is \(\).*at least one per step",
    "train TINY --inner-lr 0.1 fast": "--inner-lr is '0.1', 'fast'; it must be a number",
    # seeds
    "train TINY --seed -1": "seed is -1.*at least 0",
    "train TINY --seed 1099511627776": r"seed is 1099511627776.*below 2\*\*32",
    "train TINY --seed 1.5": "--seed is '1.5'; it must be an integer",
    "train TINY --seeds 3 --seed 4294967294": r"seed is 4294967294; with its 3 seeds.*below 2\*\*32",
    "train TINY --eval-seed 4294967296": r"eval_seed is 4294967296.*below 2\*\*32",
    # options that do not go together
    "train TINY --clip 0.2": "unknown option of maml 'clip'.*choose from",
    "train TINY --burn-in 2": r"burn_in is 2.*0\.\.1",
    "train TINY --credit 1 --adaptation-steps 0": "adaptation_steps=0.*leave credit out",
    "train TINY --baseline leave_one_out --episodes 1": "episodes is 1; take at least 2",
    "train TINY --fast-parameters context": "fast_parameters is 'context'.*context_size=5",
    "train TINY --inner-optimizer momentum --inner-lr 0.1 0": "inner_lr is 0.0; it must be a positive",
    "train TINY --inner-lr-beyond decays": "inner_lr_beyond.*did you mean 'decay'",
    "train TINY --stage-steps 99": "stage_steps is 99.*choose fewer, or more episodes",
    "train TINY --algorithm lpg --stage-steps 2": "stage_steps is 2, and lpg .*leave stage_steps out",
    "train TINY --advantage returns --baseline zero": "'returns' takes no baseline.*or choose 'gae'",
    "train TINY --algorithm maml-trpo --baseline value_network": "value network; choose another baseline",
    "train TINY --algorithm es-maml --credit 1": "es-maml.*leave credit out",
    "train TINY --algorithm es-maml --baseline previous_fit": "es-maml.*choose another baseline",
    "train TINY --algorithm reptile --adaptation-steps 0": "adaptation_steps is 0.*at least one step",
    "train TINY --algorithm pretrain --burn-in 1": "burn_in is 1, and in pretrain every stage.*leave burn_in out",
    "train TINY --algorithm pretrain --inner-optimizer curvature": "pretrain never adapts.*inner_optimizer='sgd'",
    "train --task bernoulli-bandit --init-std 0.5": "bernoulli-bandit.*no init_std; leave that out",
    "train TINY --override": "--override.*--resume",
    "train --config no_such.json": "has no no_such.json",
    "train --config no_such/config.json": "no_such does not exist",
    "train --config no_such.json --preset point-nav": "--preset and --config both say where the settings come from",
    "train --config no_such.json --resume --folder x": "--resume and --config both say",
    "train TINY --wandb project": r"wandb is 'project'.*pip install 'metarl-jax\[wandb\]'",
    "train TINY --wandb ''": "wandb is ''.*leave it out",
    # NAME=VALUE
    "train TINY --option outer_lr": "--option is 'outer_lr'.*NAME=VALUE",
    "train TINY --option =3": "--option is '=3'.*NAME=VALUE",
    "train TINY --option 'outer lr=3'": "--option is 'outer lr=3'.*NAME=VALUE",
    "train TINY --option outer_lrr=0.2": "'outer_lrr'.*did you mean 'outer_lr'",
    "train TINY --option objective=1": "unknown option of maml 'objective'",
    "train TINY --option outer_lr=fast": "outer_lr is 'fast'.*positive number",
    "train TINY --option horizon=2.5": "horizon is 2.5.*integer",
    "train TINY --option task_chunk=True": "task_chunk is True.*integer",
    "train TINY --option std_lr=[0.1,-1]": "std_lr is -1.*at least 0",
    "train TINY --option normalized=1": "normalized is 1.*True or False",
    "train TINY --option remat=yes": "remat is 'yes'.*True or False",
    "train TINY --option credit=": "credit is ''.*at least 0",
    "train TINY --option surrogate=3": "unknown surrogate 3: choose from",
    "train TINY --option tasks=5": "sets tasks to 5, and it is 2 by --tasks",
    "train TINY --option remat=True remat=False": "'remat=False', and remat was given before",
    "train TINY --option policy=7": "'policy=7'; policy is set by --hidden",
    "train --task point-nav --env-option goal_sdt=2": "unknown option of 'point-nav' 'goal_sdt'.*goal_range",
    "train --task point-nav --env-option goal_range": "'goal_range'.*NAME=VALUE",
    "train --task point-nav --env-option goal_range=(1,0)": r"goal_range is \(1, 0\).*low < high",
    "train --task point-nav --env-option goal_hole=2": r"goal_hole is 2.*\[0, 1\]",
    "train --task point-nav --env-option action_scale=nan": "action_scale is 'nan'.*positive",
    "train --task bernoulli-bandit --env-option arms=2.5": "arms is 2.5.*integer",
    "train --task point-nav --env-option horizon=3": "'horizon=3'; horizon is set by --horizon",
    # where to write
    "train TINY --folder ''": "folder is ''.*leave it out",
    "train TINY --folder file": "the run folder file exists.*another by --folder",
    "train TINY --folder full": "the run folder full exists.*--resume",
    "train TINY --folder file/run": "cannot use file/run: not a directory; choose another",
    "train TINY --folder /dev/null/run": "cannot use /dev/null/run: not a directory; choose another",
    "train TINY --folder nowhere --resume": "nowhere does not exist",
    "train TINY --folder full --resume": "full has no config.json",
    "train TINY --folder file --resume": "file has no config.json",
    # the other scripts
    "evaluate": "name the folder of a run, or a θ of the zoo by --zoo NAME, and not both",
    "evaluate nowhere --zoo point-nav/maml-trpo": "and not both",
    "evaluate --zoo point-nav/maml": "unknown name in the zoo 'point-nav/maml': did you mean 'point-nav/maml-trpo'",
    "evaluate nowhere": "nowhere does not exist",
    "evaluate full": "full has no config.json",
    "evaluate one two": "Unrecognized options: two",
    "evaluate full --stesp 1": "--stesp.*did you mean --steps",
    "evaluate full --inner-lr fast": "--inner-lr is 'fast'; it must be a number",
    "render nowhere": "nowhere does not exist",
    "render full --tasks 0": "tasks is 0.*at least 1",
    "render full --folder": "--folder.*Expected 1",
    "show_tasks": "Missing.*task family",
    "show_tasks point-nv": "'point-nv': did you mean 'point-nav'",
    "show_tasks point-nav --tasks 1": "tasks is 1.*at least 2",
    "show_tasks point-nav --tasks 1e3": "--tasks is '1e3'; it must be an integer",
    "show_tasks point-nav --episodes 0": "episodes is 0.*at least 1",
    "show_tasks point-nav --seed 4294967296": r"seed is 4294967296.*below 2\*\*32",
    "show_tasks point-nav --split tset": "'tset': did you mean 'test'",
    "show_tasks reacher-goal --backend mujoco": "'mujoco'.*choose from spring",
    "show_tasks point-nav --env-option split=ood": "'split=ood'; split is set by --split",
    "show_tasks point-nav --folder file": "cannot use file: file exists; choose another",
    "compare --algorithms mmal": "unknown algorithm 'mmal': did you mean 'maml'",
    "compare --task x": "unknown environment 'x'",
    "compare --seeds 0": "seeds is 0.*at least 1",
    "compare --steps -1": "steps is -1.*at least 1",
    "compare --eval-tasks 0": "eval_tasks is 0.*at least 1",
    "compare --first-seed 4294967295": r"first_seed is 4294967295.*below 2\*\*32",
    "compare --inner-lr nan": "inner_lr is nan.*at least 0",
    "compare --option inner_lr=fast": "inner_lr is 'fast'.*at least 0",
    "compare --option outer_lrr=1": "'outer_lrr': did you mean 'outer_lr'",
    "compare --option episodes=4": "episodes is set by --episodes",
    "compare --output file": "cannot use file.*choose another",
    "compare --output cut": "cut/comparison.json is damaged.*another --output",
    "curves --families point-nv": "unknown family 'point-nv': did you mean 'point-nav'",
    "curves --algorithms mmal": "unknown algorithm 'mmal': did you mean 'maml'",
    "curves --seeds 1": "seeds is 1.*at least 2",
    "curves --steps 0": "steps is 0.*at least 1",
    "curves --eval-tasks 0": "eval_tasks is 0.*at least 1",
    "curves --families point-nav --eval-episodes 30": "30 episodes, which maml cannot take 20 at a time.*multiple",
    "curves --first-seed 4294967295": r"first_seed is 4294967295.*below 2\*\*32",
    "curves --families": "no family given; choose from point-nav",
    "curves --families point-nav --output file": "cannot use file.*choose another",
    "compare --output other": "other/comparison.json holds a comparison with other arguments.*another --output",
}
for flag, (more, least) in INTEGERS.items():
    name = flag.replace("-", "_")
    ROWS |= {
        f"train TINY {more} --{flag} {least - 1}": f"{name} is {least - 1}; it must be an integer of at least {least}",
        f"train TINY {more} --{flag} 2.5": f"--{flag} is '2.5'; it must be an integer",
        f"train TINY {more} --{flag} nan": f"--{flag} is 'nan'; it must be an integer",
        f"train TINY {more} --{flag} 2147483648": rf"{name} is 2147483648; it must be an integer below 2\*\*31",
    }
for flag, (more, values, words) in NUMBERS.items():
    name = flag.replace("-", "_")
    ROWS |= {f"train TINY {more} --{flag} {value}": rf"{name}.* is {float(value)}.*{words}" for value in values.split()}
    ROWS[f"train TINY {more} --{flag} many"] = f"--{flag}(/--gae-lambda)? is 'many'; it must be a number"


@pytest.fixture
def place(tmp_path):
    """What the rows find where they are started."""
    (tmp_path / "file").write_text("mine\n")
    for folder, text in (("full", "mine"), ("cut", '{"arguments": '), ("other", '{"arguments": {}, "rows": []}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ("notes.txt" if folder == "full" else "comparison.json")).write_text(text)
    return tmp_path


@pytest.mark.usefixtures("unstarted")
@pytest.mark.parametrize("row", ROWS)
def test_one_line_and_nothing_touched(script, place, monkeypatch, row):
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    before = contents(place)
    name, *arguments = shlex.split(row.replace("TINY", " ".join(TINY)))
    status, out, err = script(name, *arguments)
    assert status == 2, (out, err)
    assert re.fullmatch(f"error: [^\n]*{ROWS[row]}[^\n]*\n", err), err
    assert contents(place) == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train --task point-nav --algorithm mamll", "unknown algorithm 'mamll': did you mean 'maml'"),
        ("render full --tasks many", "--tasks is 'many'; it must be an integer"),
    ],
)
def test_in_a_process_of_its_own(place, row, message):
    """As a shell sees it: the same line on standard error, and no warning of a library beside it."""
    before = contents(place)
    name, *arguments = shlex.split(row)
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent)}
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / f"{name}.py", *arguments],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert contents(place) == before
