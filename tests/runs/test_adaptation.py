"""Statistics of how fast learners adapt: numbers that can be counted by hand."""

import numpy as np
import pytest

from metarl_jax.runs.evaluation import adaptation
from metarl_jax.runs.evaluation.adaptation import Anchors

EPISODES = [0, 20, 40]


def row(algorithm, per_task, family="walk", **more):
    return {"family": family, "algorithm": algorithm, "episodes": EPISODES, "per_task": per_task} | more


def constant(value, seeds=2, tasks=3):
    return np.broadcast_to(np.asarray(value, float), (seeds, tasks, len(EPISODES))).tolist()


ROWS = [
    row(adaptation.UNTRAINED, constant([-40, -38, -36])),
    row("oracle", constant([-20, -30, -30])),  # whatever it does later: it sees the task at once
    row("maml", constant([-40, -28, -21]), minutes=2.0, ms_per_stage=5.0, ms_per_action=0.1),
    row("rl2", constant([-30, -30, -30]), minutes=1.0),
]


def test_scores_lie_between_the_untrained_and_the_oracle():
    assert adaptation.anchors(ROWS) == {"walk": Anchors(-40.0, -20.0)}
    scores = adaptation.normalized(ROWS[2], Anchors(-40.0, -20.0))
    np.testing.assert_allclose(scores, np.broadcast_to([0, 0.6, 0.95], (2, 3, 3)))
    np.testing.assert_allclose(adaptation.area(scores), np.full((2, 3), (0 + 0.6 + 0.95) / 3))


def test_the_first_stage_that_reaches_a_share():
    curve = [0.0, 0.6, 0.95, 0.5]
    assert [adaptation.stage_of(share, curve) for share in (0.0, 0.5, 0.6, 0.9, 0.96)] == [0, 1, 1, 2, None]


def test_the_probability_of_improvement_counts_pairs_of_seeds_in_the_same_task():
    x, y = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0]])
    # Task 0: 1 < 2 and 3 > 2, so ½; task 1: equal, so ½.
    assert adaptation.probability_of_improvement(x, y) == 0.5
    assert adaptation.probability_of_improvement(x + 10, y) == 1.0
    ahead = np.array([[3.0, 4.0]])  # better in one task, worse in the other
    assert adaptation.probability_of_improvement(x, ahead) == pytest.approx((0 + 0.5 + 1 + 1) / 4)


def test_a_profile_is_the_share_above_each_threshold():
    scores = np.array([[0.1, 0.5], [0.9, 0.5]])
    np.testing.assert_allclose(adaptation.profile(scores, [0.0, 0.1, 0.5, 0.8, 1.0]), [1, 0.75, 0.25, 0.25, 0])


def test_the_summary_and_its_table():
    records = adaptation.summary(ROWS)
    assert [record["algorithm"] for record in records] == [adaptation.UNTRAINED, "maml", "rl2"]
    maml, rl2 = records[1:]
    assert maml["start"] == [0, 0, 0]
    assert maml["end"] == [0.95, 0.95, 0.95]
    assert maml["area"][0] == pytest.approx(1.55 / 3, abs=1e-4)
    assert (maml["episodes_50"], maml["episodes_90"]) == (20, 40)
    assert (maml["seconds_50"], maml["seconds_90"]) == pytest.approx((0.005, 0.01))  # one and two stages of 5 ms
    assert (rl2["episodes_50"], rl2["episodes_90"], rl2["ms_per_stage"]) == (0, None, None)
    assert (rl2["seconds_50"], rl2["seconds_90"]) == (None, None)
    lines = adaptation.table(records).splitlines()
    assert [line.split("`")[1] for line in lines[4:7]] == ["maml", "rl2", adaptation.UNTRAINED]  # by the area
    assert "| 20 | 40 | 0.005 | 0.01 | 5.0 | 0.100 | 2.0 |" in lines[4]
    assert "| 0 | – | – | – | – | – | 1.0 |" in lines[5]


def test_a_name_with_a_bar_stays_in_its_cell():
    records = [record | {"algorithm": "maml|2"} for record in adaptation.summary(ROWS)]
    rows = adaptation.table(records).splitlines()[4:7]
    assert {row.replace(r"\|", "").count("|") for row in rows} == {12}
    assert all(row.startswith(r"| `maml\|2` |") for row in rows)


def test_improvements_are_means_over_the_families_of_both():
    other = [
        row(adaptation.UNTRAINED, constant(0), "rooms"),
        row("oracle", constant(1), "rooms"),
        row("maml", constant(0.2), "rooms"),
        row("rl2", constant(0.7), "rooms"),
    ]
    better = adaptation.improvements(ROWS + other)
    assert better["maml"]["rl2"] == 0.5  # ahead in one family, behind in the other
    assert better["rl2"]["maml"] == 0.5
    assert adaptation.improvements(ROWS)["maml"]["rl2"] == 1.0
    assert "oracle" not in better


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[1:], "walk has no row 'random init'"),
        (ROWS[:1] + ROWS[2:], "walk has no row 'oracle'"),
        (
            [ROWS[0], row("oracle", constant(-50))],
            "walk has no scale: its oracle returns -50, no more than the untrained -40",
        ),
    ],
)
def test_a_family_without_a_scale(rows, message):
    with pytest.raises(ValueError, match=message):
        adaptation.summary(rows)


def test_a_family_without_a_scale_is_named_and_left_out():
    """Hours of training of the other families are not lost with it."""
    failed = [row(adaptation.UNTRAINED, constant(-40), "walk, ood"), row("oracle", constant(-41), "walk, ood")]
    alone = [row("maml", constant(-10), "rooms")]
    rows, reasons = adaptation.scaled(ROWS + failed + alone)
    assert rows == ROWS
    assert reasons == [
        "walk, ood has no scale: its oracle returns -41, no more than the untrained -40",
        "rooms has no row 'random init', so its scores have no scale; add it",
    ]
    assert adaptation.scaled(ROWS) == (ROWS, [])
    assert adaptation.scaled(failed) == ([], reasons[:1])
    assert (adaptation.summary([]), adaptation.improvements([]), adaptation.table([])) == ([], {}, "")


def test_a_row_with_a_stage_without_a_score_is_named_and_left_out():
    void = row("promp", constant([-40, np.nan, -30]))
    assert adaptation.finite([*ROWS, void]) == (ROWS, ["'promp' on 'walk' is left out: a stage has no score"])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], "holds \\[\\] for a row"),
        ({"family": "walk"}, "has no 'algorithm'"),
        (row("mine", [[1.0]]), "has shape \\(1, 1\\); it must be \\[seeds, tasks, 3\\]"),
        (row("mine", constant(np.nan)), "all of them finite"),
        (row("mine", [[[1.0], [1.0, 2.0]]]), "is no array"),
        (row("mine", "many"), "is no array"),
        (row("mine", constant(1, seeds=1)), "has shape \\(1, 3, 3\\); it must be .* of two seeds or more"),
        (row("mine", constant(1), family=3), "family is 3 in a row of mine.json; it must be a name"),
        (row(["mine"], constant(1)), "algorithm is \\['mine'\\]"),
        (row("mine", constant(1)) | {"episodes": [0, 2.5, 5]}, "must be ascending integers"),
        (row("mine", constant(1)) | {"episodes": [0, 20, 20]}, "must be ascending integers"),
        (row("mine", constant(1)) | {"episodes": [0, 20, 60]}, "all stages must have the same number of episodes"),
        (row("mine", constant(1)) | {"episodes": ["0", "1", "2"]}, "must be ascending integers"),
        (row("mine", constant(1)) | {"episodes": 3}, "episodes of 'mine' in mine.json is 3"),
        (row("mine", np.zeros((2, 3, 0)).tolist()) | {"episodes": []}, "must be ascending integers"),
        (row("mine", constant(1), ms_per_stage="3"), "ms_per_stage of 'mine' in mine.json is '3'; it must be a number"),
    ],
)
def test_rows_of_others_are_checked(broken, message):
    with pytest.raises(ValueError, match=message):
        adaptation.check_row(broken, "mine.json")
    assert adaptation.check_row(ROWS[2], "mine.json") is ROWS[2]
