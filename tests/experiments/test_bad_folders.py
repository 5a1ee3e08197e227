"""Run folders that are damaged, of another run, or in use: one line, status 2, and no byte of them changed."""

import json
import re
import shlex
import shutil

import jax.numpy as jnp
import pytest

from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
from metarl_jax.runs.checkpoint.leaves import proof
from metarl_jax.runs.checkpoint.states import initial_state
from metarl_jax.runs.config import AlgorithmConfig, PolicyConfig, TrainConfig, build
from metarl_jax.runs.config.file import write_config
from metarl_jax.runs.logging.loggers import TableLogger
from metarl_jax.runs.storage.folder import LOCK, only_writer
from tests.experiments.scripts import contents

DONE = 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run folder as it is after two of three iterations; nothing is compiled but θ."""
    config = TrainConfig(
        task="point-nav",
        algorithm="maml",
        iterations=3,
        checkpoint_every=2,
        folder=str(tmp_path_factory.mktemp("runs") / "run"),
        algorithm_options=AlgorithmConfig(tasks=2, episodes=4, inner_lr=(0.1,)),
        policy=PolicyConfig(hidden=(2,)),
    )
    folder = config.run_folder
    folder.mkdir()
    write_config(config, folder)
    (folder / LOCK).touch()
    state = initial_state(build(config), config)
    checkpoints = Checkpoints(folder, config, state, write=True)
    checkpoints.save(state)
    checkpoints.save(state.replace(iteration=jnp.int32(DONE)), score=1.5)
    checkpoints.close()
    table = TableLogger(folder / "metrics.csv")
    for iteration in range(DONE):
        table.log(iteration, 0, {"gain": iteration + 0.5, "loss": iteration + 0.5})
    table.close()
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def edit(path, *changes):
    """Replaces words in a file of a run folder."""

    def apply(run):
        text = (run / path).read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (run / path).write_text(text, encoding="utf-8")

    return apply


def write(path, data):
    return lambda run: (run / path).write_bytes(data)


def cut(path):
    return lambda run: (run / path).write_bytes((run / path).read_bytes()[:-10])


def remove(path):
    return lambda run: shutil.rmtree(run / path) if (run / path).is_dir() else (run / path).unlink()


def records(change):
    """Changes what every checkpoint says of itself."""

    def apply(run):
        paths = list(run.glob("checkpoints/*/record/metadata"))
        assert len(paths) == 2
        for path in paths:
            record = json.loads(path.read_text())
            record.pop("proof")
            record = change(record)
            path.write_text(json.dumps(record | {"proof": proof(record)}))

    return apply


def damaged(*iterations):
    """Empties every file of some checkpoints' states."""

    def apply(run):
        for iteration in iterations:
            for path in (run / "checkpoints" / str(iteration) / "state").rglob("*"):
                if path.is_file():
                    path.write_bytes(b"")

    return apply


def whole_(run):
    """Nothing is wrong with the folder."""


def no_checkpoints(run):
    remove("checkpoints")(run)
    (run / "checkpoints").mkdir()


def later_layout(record):
    return record | {"layout": record["layout"] | {".params['network']['Dense_9']['bias']": "float32[7]"}}


CONFIG = {
    "missing": (remove("config.json"), "RUN has no config.json"),
    "empty": (write("config.json", b""), "config.json is not JSON.*restore it"),
    "cut": (cut("config.json"), "config.json is not JSON.*restore it"),
    "of bytes": (write("config.json", b"\xff\xfe{}"), "config.json is not text in UTF-8.*restore it"),
    "a list": (write("config.json", b"[1]"), r"config.json holds \[1\] where an object is needed"),
    "a word for a number": (edit("config.json", ('"tasks": 2', '"tasks": "2"')), "tasks is '2'; it must be int"),
    "a bool for a number": (edit("config.json", ('"tasks": 2', '"tasks": true')), "tasks is True; it must be int"),
    "a share for a number": (edit("config.json", ('"seed": 0', '"seed": 0.5')), "seed is 0.5; it must be int"),
    "a number for a list": (
        edit("config.json", ('"env_option": []', '"env_option": 3')),
        "env_option is 3; it must be tuple",
    ),
    "words in a list of numbers": (
        edit("config.json", ('"hidden": [\n      2\n', '"hidden": [\n      "2"\n')),
        "hidden is '2'; it must be int",
    ),
    "numbers in a list of words": (
        edit("config.json", ('"env_option": []', '"env_option": [3]')),
        "env_option is 3; it must be str",
    ),
    "a number for an object": (
        lambda run: (run / "config.json").write_text(json.dumps({"policy": 3})),
        "config.json holds 3 where an object is needed",
    ),
    "nested deep": (write("config.json", b"[" * 10**5), "config.json is not JSON: it is nested too deep.*restore it"),
    "of 5,000 digits": (write("config.json", b"9" * 5000), "config.json is not JSON: .*digits"),
    "with a key twice": (
        edit("config.json", ('"seed": 0', '"seed": 0, "seed": 1')),
        "config.json is not JSON: 'seed' stands twice",
    ),
    "NaN": (edit("config.json", ("0.1\n", "NaN\n")), "inner_lr is nan.*at least 0"),
    "out of range": (edit("config.json", ('"iterations": 3', '"iterations": 0')), "iterations is 0.*at least 1"),
    "a name that is gone": (edit("config.json", ('"maml"', '"mamll"')), "unknown algorithm 'mamll'.*'maml'"),
    "a later version": (
        edit("config.json", ('"seeds": 1', '"seeds": 1, "shards": 4')),
        "unknown field of .*config.json 'shards'.*or use the metarl_jax that wrote it",
    ),
}

CHECKPOINTS = {
    "missing": (remove("checkpoints"), "checkpoints"),
    "none": (no_checkpoints, "no whole checkpoint in .*checkpoints: there is none at all"),
    "all damaged": (damaged(0, DONE), "no whole checkpoint.*checkpoint 2 is damaged.*checkpoint 0 is damaged"),
    "no records": (records(lambda record: {}), "no whole checkpoint.*checkpoint 2 is damaged"),
    "of another schema": (
        records(lambda record: record | {"schema": 99}),
        "are of schema 99; this version reads",
    ),
    "of another layout": (records(later_layout), "hold another state.*Dense_9.*was float32.7., now absent"),
    **{
        f"whose {name} is {value!r}": (
            records(lambda record, name=name, value=value: record | {name: value}),
            f"no whole checkpoint.*its record says {value!r} for its {name}",
        )
        for name, value in {"layout": 3, "configuration": "x", "score": "best", "versions": "x"}.items()
    },
    "of another digest": (records(lambda record: record | {"sha256": "0"}), "no whole checkpoint.*match its digest"),
    "of another configuration": (
        edit("config.json", ('"hidden": [\n      2\n', '"hidden": [\n      3\n')),
        r"another configuration: hidden was \(2,\), now \(3,\)",
    ),
}

COMMANDS = ("train --resume --folder RUN", "evaluate RUN", "render RUN")
# (command, how the folder is broken, what the line must hold)
ROWS = {
    **{f"config.json {what}, {command}": (command, *row) for what, row in CONFIG.items() for command in COMMANDS},
    **{f"checkpoints {what}, {command}": (command, *row) for what, row in CHECKPOINTS.items() for command in COMMANDS},
    **{
        f"metrics.csv {what}": ("train --resume --folder RUN", change, f"metrics.csv.*{message}.*another --folder")
        for what, (change, message) in {
            "missing": (remove("metrics.csv"), "is missing.*at iteration 2"),
            "empty": (write("metrics.csv", b""), "does not hold iterations 0 to 1"),
            "cut": (cut("metrics.csv"), "does not hold iterations 0 to 1"),
            "with a row less": (edit("metrics.csv", ("0,0,0.5,0.5\n", "")), "does not hold iterations 0 to 1"),
            "with a column more": (edit("metrics.csv", ("1,0,1.5", "1,0,1.5,3")), "does not hold iterations 0 to 1"),
            "with a word": (edit("metrics.csv", ("1,0,1.5", "1,0,high")), "does not hold iterations 0 to 1"),
        }.items()
    },
    **{
        command: (command, whole_, message)
        for command, message in {
            "train --folder RUN --task point-nav": "the run folder RUN exists; go on with it by --resume",
            "train --resume --folder RUN --tasks 5": "tasks was 2, now 5; give these options as they were",
            "train --resume --folder RUN --seed 3 --hidden 8": r"seed was 0, now 3; hidden was \(2,\), now \(8,\)",
            "train --resume --folder RUN --algorithm promp": "algorithm was 'maml', now 'promp'",
            "train --resume --folder RUN --task point-robot": "task was 'point-nav', now 'point-robot'",
            "train --resume --folder RUN --seeds 2": "seeds was 1, now 2",
            "train --resume --folder RUN --iterations 9": "iterations was 3, now 9; --override goes on",
            "train --resume --folder RUN --iterations 9 --keep 7": "iterations was 3, now 9; keep was 3, now 7; --over",
            "train --resume --folder RUN --override --inner-lr 0.3": r"inner_lr was \(0.1,\), now \(0.3,\)",
            "train --resume --folder RUN --override --on-nonfinite rollback --keep 2 --checkpoint-every 1": (
                "checkpoint_every was 2, now 1"
            ),
            "evaluate RUN --tasks 1": "eval_tasks is 1.*at least 2",
            "evaluate RUN --tasks 1.5": "--tasks is '1.5'; it must be an integer",
            "evaluate RUN --steps -1": "eval_steps is -1.*at least 0",
            "evaluate RUN --burn-in 4": r"burn_in is 4; with 4 stages it must lie in 0\.\.3",
            "evaluate RUN --steps 0 --burn-in 1": r"burn_in is 1; with 1 stages it must lie in 0\.\.0",
            "evaluate RUN --burn-in -1": "burn_in is -1.*at least 0",
            "evaluate RUN --burn-in 0.5": "--burn-in is '0.5'; it must be an integer",
            "evaluate RUN --seed 4294967296": r"eval_seed is 4294967296.*below 2\*\*32",
            "evaluate RUN --inner-lr -1": "inner_lr is -1.0.*at least 0",
            "evaluate RUN --inner-lr nan": "inner_lr is nan.*at least 0",
            "evaluate RUN --split tset": "'tset': did you mean 'test'",
            "evaluate RUN --checkpoint 7": r"no checkpoint of iteration 7.*there are \[0, 2\]",
            "evaluate RUN --checkpoint newst": r"checkpoint is 'newst'.*'newest', 'best' or one of \[0, 2\]",
            "evaluate RUN --checkpoint -1": r"checkpoint is '-1'.*one of \[0, 2\]",
            "evaluate RUN --checkpoint 2.0": r"checkpoint is '2.0'.*one of \[0, 2\]",
            "render RUN --tasks 0": "tasks is 0.*at least 1",
            "render RUN --steps 0": "steps is 0.*at least 1",
            "render RUN --seed -1": "eval_seed is -1.*at least 0",
            "render RUN --split odd": "'odd': did you mean 'ood'",
            "render RUN --folder file": "cannot use file: file exists; choose another",
            "render RUN --folder file/renders": "cannot use file/renders: not a directory; choose another",
        }.items()
    },
    "evaluate a checkpoint that is damaged": (
        "evaluate RUN --checkpoint 2",
        damaged(DONE),
        "no whole checkpoint in .*: checkpoint 2 is damaged",
    ),
    "evaluate the best of none": (
        "evaluate RUN --checkpoint best",
        remove(f"checkpoints/{DONE}"),
        "checkpoint is 'best'.*take 'newest'",
    ),
    "nothing to render": (
        "render RUN",
        edit("config.json", ('"point-nav"', '"gaussian-bandit"')),
        "nothing to render; experiments/show_tasks.py gaussian-bandit",
    ),
}


def refused(script, place, command, message):
    before = contents(place)
    name, *arguments = shlex.split(command.replace("RUN", "run"))
    status, out, err = script(name, *arguments)
    assert status == 2, (out, err)
    assert re.fullmatch(f"error: [^\n]*{message.replace('RUN', 'run')}[^\n]*\n", err), err
    assert contents(place) == before


@pytest.mark.usefixtures("unstarted")
@pytest.mark.parametrize("row", ROWS)
def test_one_line_and_nothing_touched(script, run, row):
    command, change, message = ROWS[row]
    (run.parent / "file").write_text("mine\n")
    change(run)
    refused(script, run.parent, command, message)


def test_a_folder_in_use_names_its_writer(script, run):
    with only_writer(run):
        command = "train --resume --folder RUN"
        refused(script, run.parent, command, r"RUN is in use by process \d+ on \S+ .*another folder by --folder")
