"""The script of exploration, without a training: what it writes, and what it refuses."""

import json

import numpy as np
import pytest

from experiments import exploration
from metarl_jax.runs.console import cli


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """Rows of two seeds that open everything while it is free; the folder to write to."""
    monkeypatch.setattr(cli, "prepare_jax", lambda task=None: None)

    def run(name, burn_in, arguments):
        episodes = 2 * arguments.episodes
        opened = np.where(np.arange(episodes) < burn_in, 1.0, 0.25)
        returns = np.where(np.arange(episodes) < burn_in, -8.0, [[1.1], [1.3]])
        return {"algorithm": name, "burn_in": burn_in, "returns": returns.tolist(), "opened": [opened.tolist()] * 2}

    monkeypatch.setattr(exploration, "run", run)
    return tmp_path / "results"


def test_the_table_compares_counted_episodes_with_the_optimum(untrained, capsys):
    exploration.main(["--output", str(untrained)])
    told = capsys.readouterr()
    lines = (untrained / "exploration.md").read_text().splitlines()
    assert lines[3] == "| `e-maml` | 4 | 2 | 1.200 ± 0.100 | 1.300 | 92.3% | 100.0% | 25.0% |"
    assert lines[4].startswith("| `maml` | 4 | 0 | 1.200 ± 0.100 | 0.400 | 300.0% | – |")
    assert told.out.splitlines()[: len(lines)] == lines
    stored = json.loads((untrained / "exploration.json").read_text())
    assert [(row["algorithm"], row["burn_in"]) for row in stored["rows"]] == [
        ("e-maml", 0),
        ("e-maml", 2),
        ("maml", 0),
        ("maml", 2),
    ]
    assert stored["arguments"]["iterations"] == "300"
    with pytest.raises(cli.UserError, match="holds results already; choose another --output"):
        exploration.main(["--output", str(untrained)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithms", "e-mmal"], "unknown algorithm 'e-mmal': did you mean 'e-maml'"),
        (["--seeds", "0"], "seeds is 0; it must be an integer of at least 1"),
        (["--episodes", "0"], "episodes is 0"),
        (["--inner-lr", "-1"], "inner_lr"),
        (["--option", "credits=0.5"], "unknown option of any algorithm 'credits': did you mean 'credit'"),
        (["--option", "credit"], "must be NAME=VALUE"),
        (["--option", "episodes=4"], "episodes is set by --episodes"),
        (["--option", "tasks=4"], "tasks is set by --tasks"),
        (["--option", "burn_in=1"], "burn_in is set by the row"),
        (["--first-seed", str(2**32 - 1)], "must stay below 2[*][*]32"),
    ],
)
def test_refusals(untrained, arguments, message):
    with pytest.raises(cli.UserError, match=message):
        exploration.main([*arguments, "--output", str(untrained)])
    assert not untrained.exists()


def test_one_trial_for_all_of_six_episodes_of_which_three_are_free():
    """An algorithm with an inner step counts stages, one that goes through the episodes in sequence counts them."""
    arguments = exploration.Arguments(episodes=3)
    given = exploration.settings("e-maml", 3, arguments)
    assert (given["episodes"], given["adaptation_steps"], given["burn_in"]) == (3, 1, 1)
    assert exploration.settings("e-maml", 0, arguments)["burn_in"] == 0
    assert exploration.settings("rl2", 3, arguments) == {"episodes": 6, "burn_in": 3}
