"""The comparison at toy size: what it writes, how it goes on, what it refuses."""

import json

import numpy as np
import pytest

from experiments import compare
from metarl_jax.runs.console import cli

TOY = [
    *("--steps", "100", "--tasks", "2", "--episodes", "2", "--horizon", "3", "--seeds", "2"),
    *("--eval-tasks", "4", "--eval-steps", "1", "--option", "remat=True"),
]


@pytest.fixture(autouse=True, scope="module")
def _an_unchanged_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_jax", lambda task=None: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    compare.main(["--algorithms", "maml", "oracle", *TOY, "--output", str(folder)])
    return folder


@pytest.mark.thorough
def test_every_score_is_kept_and_the_table_holds_their_means(folder):
    rows = json.loads((folder / "comparison.json").read_text())["rows"]
    assert [row["algorithm"] for row in rows] == ["maml", "oracle"]
    scores = np.array(rows[0]["per_task"])
    assert scores.shape == (2, 4, 2)
    assert rows[0]["iterations"] == 100 // (2 * 2 * 2 * 3)
    assert rows[0]["options"]["remat"] == "True"
    lines = (folder / "comparison.md").read_text().splitlines()
    assert lines[0] == "| algorithm | after 0 | after 1 | minutes |"
    assert any(line.startswith(f"| `maml` | {scores[..., 0].mean():.1f} (") for line in lines)


@pytest.mark.thorough
def test_it_goes_on_with_what_is_missing(folder, capsys):
    before = json.loads((folder / "comparison.json").read_text())["rows"]
    compare.main(["--algorithms", "maml", *TOY, "--output", str(folder)])
    assert json.loads((folder / "comparison.json").read_text())["rows"] == before
    assert "`maml`" in capsys.readouterr().out


def test_a_name_with_a_bar_stays_in_its_cell():
    row = {"algorithm": "maml|2", "per_task": np.zeros((2, 3, 1)).tolist(), "minutes": 1.0}
    assert compare.table([row], [0]).splitlines()[2].startswith(r"| `maml\|2` | 0.0 (")


def test_a_row_without_a_meta_iteration_is_refused_before_any_training(tmp_path):
    with pytest.raises(cli.UserError, match="es-maml: a meta-iteration takes 48 environment steps, and steps is 47"):
        compare.main(["--algorithms", "maml", "es-maml", *TOY, "--steps", "47", "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["tasks=3", "episodes=4", "horizon=20"])
def test_sizes_that_steps_are_counted_by_have_flags_of_their_own(tmp_path, option):
    """Else rows would be trained on other numbers of steps, and stages cut at wrong places."""
    name = option.partition("=")[0]
    with pytest.raises(cli.UserError, match=f"{name} is set by --{name}"):
        compare.main(["--algorithms", "maml", "--option", option, "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["promp", "rl2"])
def test_a_family_without_scale_of_actions_and_with_discrete_ones(name):
    built = compare.build(name, compare.Arguments(task="grid-nav", tasks=4))
    assert built.env.discrete
    assert built.options["policy"] == {}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithms", "mmal"], "unknown algorithm 'mmal': did you mean 'maml'"),
        (["--algorithms", "maml", "--seeds", "3"], "holds a comparison with other arguments"),
    ],
)
def test_refusals(folder, arguments, message):
    with pytest.raises(cli.UserError, match=message):
        compare.main([*TOY, *arguments, "--output", str(folder)])


def test_interval_resamples_tasks_and_seeds():
    random = np.random.default_rng(0)
    values = random.normal(size=(400, 400))
    low, high = compare.interval(values, draws=500)
    # Independent scores: the interval of the mean of 400 × 400 is about √2 · 1.96/400 wide either way, since each
    # resampling of rows and of columns adds the variance of its own.
    assert low < values.mean() < high
    assert 2.0 < (high - low) * 400 < 8.0
    same = np.broadcast_to(np.arange(5.0), (3, 5))
    assert compare.interval(np.full((3, 5), 7.0)) == (7.0, 7.0)
    assert compare.interval(same)[0] < 2.0 < compare.interval(same)[1]
