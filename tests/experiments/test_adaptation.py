"""The adaptation benchmark at toy size: what it writes, how it goes on, and rows that somebody else adds."""

import json

import numpy as np
import pytest

import metarl_jax as mrl
from benchmarks import adaptation as script
from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import adaptation, comparisons, suites
from metarl_jax.runs.pictures import plots
from tests import toys

SIZES = {"tasks": 2, "episodes": 2, "policy": {"hidden": (2,)}}


@pytest.fixture(autouse=True, scope="module")
def _toys():
    small = suites.FAMILIES["point-nav"]._replace(
        environment={"action_scale": 10.0, "horizon": 3}, gradient=SIZES | {"episodes": 4}, memory=SIZES
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_jax", lambda task=None: None)
        patch.setitem(suites.FAMILIES, "point-nav", small)
        # At this size nothing is learned, so the scale is put there by hand.
        patch.setattr(adaptation, "_ends", lambda rows, family: adaptation.Anchors(-5.0, 0.0))
        yield


TOY = ["--seeds", "2", "--steps", "60", "--eval-tasks", "3", "--eval-episodes", "8", "--algorithms", "maml"]
SHIFTED = "point-nav, ood"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptation")
    script.main([*TOY, "--output", str(folder)])
    return folder


def test_rows_of_the_suite_their_speed_and_the_pictures(folder):
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    learners = (adaptation.UNTRAINED, "maml", "oracle")
    of = [(row["family"], row["algorithm"]) for row in rows]
    assert of == [(family, name) for name in learners for family in ("point-nav", SHIFTED)]
    assert all(np.array(row["per_task"]).shape == (2, 3, 2) for row in rows)
    assert all(row["ms_per_stage"] is not None and row["ms_per_action"] > 0 for row in rows[2:])
    assert all((folder / name).stat().st_size > 5_000 for name in ("adaptation.png", "profiles.png"))
    assert "`maml`" in (folder / "adaptation.md").read_text()


def test_the_untrained_row_is_fresh_parameters_that_adapt(folder):
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    untrained, maml = (np.array(row["per_task"]) for row in rows[:4:2])
    assert not np.allclose(untrained[..., 0], untrained[..., 1])
    assert not np.allclose(untrained, maml)


def test_the_rows_out_of_distribution_are_of_the_same_theta_on_the_other_tasks(folder):
    """The goals are farther away there, so whoever does not move earns less in each episode."""
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    for inside, outside in zip(rows[::2], rows[1::2], strict=True):
        told = {key: value for key, value in inside.items() if key not in ("family", "per_task")}
        assert told.items() <= outside.items()
    untrained, shifted = (np.array(row["per_task"])[..., 0] for row in rows[:2])
    sizes = suites.Sizes(seeds=2, eval_tasks=3, eval_episodes=8)
    params, _ = script.untrained("point-nav", sizes)
    for split, found in (("train", untrained), ("ood", shifted)):
        again = suites.scores(suites.build("point-nav", "maml", 8, split), params, sizes)
        np.testing.assert_array_equal(np.array(again["per_task"])[..., 0], found)
    assert shifted.mean() < untrained.mean()


def test_rows_of_others_join_and_nothing_is_trained_again(folder, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a row was computed again")

    monkeypatch.setattr(script, "compute", never)
    mine = {"family": "point-nav", "algorithm": "mine", "episodes": [0, 4], "per_task": np.zeros((2, 3, 2)).tolist()}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([mine]))
    script.main([*TOY, "--output", str(folder), "--add", str(path)])
    report = json.loads((folder / "adaptation.json").read_text())
    inside = [record for record in report["summary"] if record["family"] == "point-nav"]
    assert [record["algorithm"] for record in inside] == [adaptation.UNTRAINED, "maml", "mine"]
    assert inside[-1]["source"] == "mine.json"
    assert report["probability_of_improvement"]["mine"]["maml"] == 1.0  # returns here are negative
    assert "`mine`" in (folder / "adaptation.md").read_text()
    assert json.loads((folder / "rows.json").read_text())["rows"][-1]["algorithm"] == "oracle"  # it stays theirs


def test_a_training_whose_rows_are_not_all_there_is_repeated(folder, tmp_path, monkeypatch):
    """As in a file of an earlier version, which had no rows out of distribution."""
    stored = json.loads((folder / "rows.json").read_text())
    stored["rows"] = [row for row in stored["rows"] if (row["family"], row["algorithm"]) != (SHIFTED, "maml")]
    (tmp_path / "rows.json").write_text(json.dumps(stored))
    again, real = [], script.compute
    monkeypatch.setattr(script, "compute", lambda *which: again.append(which[:2]) or real(*which))
    script.main([*TOY, "--families", "point-nav", "point-nav", "--output", str(tmp_path)])
    assert again == [("point-nav", "maml")]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert sorted((r["family"], r["algorithm"]) for r in rows) == sorted(
        (family, name) for name in (adaptation.UNTRAINED, "maml", "oracle") for family in ("point-nav", SHIFTED)
    )
    for row in rows:
        (before,) = (
            r
            for r in json.loads((folder / "rows.json").read_text())["rows"]
            if (r["family"], r["algorithm"]) == (row["family"], row["algorithm"])
        )
        assert row["per_task"] == before["per_task"]


def test_without_any_scale_there_is_still_a_report(folder, tmp_path, monkeypatch):
    def none(rows, family):
        raise ValueError(f"{family} has no scale")

    monkeypatch.setattr(adaptation, "_ends", none)
    stored = json.loads((folder / "rows.json").read_text())
    script.write(tmp_path, stored, [])
    assert json.loads((tmp_path / "adaptation.json").read_text())["left_out"] == [
        "point-nav has no scale",
        "point-nav, ood has no scale",
    ]
    assert "* point-nav has no scale\n" in (tmp_path / "adaptation.md").read_text()
    assert (tmp_path / "adaptation.png").exists()
    assert not (tmp_path / "profiles.png").exists()


def test_odd_names_in_the_pictures(folder, tmp_path):
    stored = json.loads((folder / "rows.json").read_text())
    odd = [row | {"family": "$\\foo{$", "algorithm": row["algorithm"].replace("maml", "$x_")} for row in stored["rows"]]
    script.write(tmp_path, {"rows": odd}, [])
    assert (tmp_path / "profiles.png").exists()


def test_the_speed_of_a_policy_that_sees_pictures():
    env = toys.dot("picture")
    algorithm = mrl.algorithms.make("maml", env, tasks=2, episodes=2)
    found = script.speed(comparisons.Entry(env, algorithm, 1, 1, {}))
    assert (found["ms_per_action"] or 0) > 0


def test_stored_rows_of_other_settings_are_not_mixed_with_new_ones(folder, monkeypatch):
    changed = suites.FAMILIES["point-nav"]._replace(learners={"maml": {"inner_lr": 0.2}})
    monkeypatch.setitem(suites.FAMILIES, "point-nav", changed)
    with pytest.raises(cli.UserError, match="holds 'maml' on 'point-nav' with other settings than those of today"):
        script.main([*TOY, "--output", str(folder)])


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ('{"a": 1}', "holds no list of rows"), ('[{"family": "x"}]', "has no 'algorithm'")],
)
def test_files_of_others_that_are_none(folder, tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(cli.UserError, match=message):
        script.main([*TOY, "--output", str(folder), "--add", str(path)])


def test_a_row_may_tell_its_source_and_else_has_that_of_its_file(tmp_path):
    row = {"family": "f", "algorithm": "mine", "episodes": [0, 4], "per_task": np.zeros((2, 3, 2)).tolist()}
    (tmp_path / "mine.json").write_text(json.dumps([row, row | {"source": "a paper"}]))
    assert [row["source"] for row in script.of_others([tmp_path / "mine.json"])] == ["mine.json", "a paper"]


def test_two_processes_share_the_trainings(tmp_path):
    """Each keeps the rows that the other has written meanwhile."""
    path, stored = tmp_path / "rows.json", [comparisons.read(tmp_path / "rows.json", {"seeds": "2"}) for _ in "12"]
    for mine, name in zip(stored, ("maml", "promp"), strict=True):
        comparisons.fill(path, mine, [name], lambda name: [{"family": "f", "algorithm": name, "per_task": []}])
    comparisons.fill(path, stored[0], ["maml"], lambda name: [])
    assert [row["algorithm"] for row in comparisons.read(path, {"seeds": "2"})["rows"]] == ["maml", "promp"]


def test_a_comparison_names_all_machines_and_the_first_and_last_day():
    one, other = "1 × cpu, 4 cores", "11 × cpu, 4 cores"
    parts = [{"machine": other, "date": "2026-01-02"}, {"machine": one, "date": "2026-01-01"}, {"machine": one}]
    assert comparisons._origin(parts) == {"machine": f"{other}; {one}", "date": "2026-01-01 to 2026-01-02"}
    assert comparisons._origin(parts[:1]) == parts[0]
    assert comparisons._origin([comparisons._origin(parts), parts[0]]) == comparisons._origin(parts)


def test_an_unknown_suite(tmp_path):
    with pytest.raises(cli.UserError, match="'smal': did you mean 'small'"):
        script.main(["--suite", "smal", "--output", str(tmp_path / "new")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithms", "mamal"], "unknown algorithm 'mamal': did you mean 'maml'"),
        # Agents that live on have no trials.
        (["--algorithms", "lpg"], "unknown algorithm 'lpg'.*found by --import MODULE"),
        (["--families", "point-nave"], "unknown family 'point-nave': did you mean 'point-nav'.*found by --import"),
        (
            ["--steps", "47"],
            "point-nav, promp: a meta-iteration takes 48 environment steps, and steps is 47",
        ),
        (["--seeds", "1"], "seeds is 1; it must be an integer of at least 2"),
        (["--eval-episodes", "30"], "a trial of the evaluation has 30 episodes, which promp cannot take 4 at a time"),
    ],
)
def test_what_cannot_be_computed_is_refused_at_the_start(tmp_path, arguments, message):
    with pytest.raises(cli.UserError, match=message):
        script.main([*arguments, "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_an_algorithm_named_like_the_reference_is_refused(monkeypatch):
    monkeypatch.setitem(mrl.algorithms.ALGORITHMS, "oracle", mrl.algorithms.ALGORITHMS["maml"])
    with pytest.raises(ValueError, match="registered as 'oracle', which names the reference here; rename it"):
        suites.known(["point-nav"], ["maml"])


def test_options_of_a_single_learner_are_its_own():
    options = {name: suites.build("grid-nav", name, 40).options for name in ("maml", "e-maml")}
    assert options["e-maml"]["credit_estimator"] == "influence"
    assert "credit" not in options["maml"]  # which has such an option, too, and would be another algorithm with it


def test_an_algorithm_whose_steps_cannot_be_counted(monkeypatch):
    monkeypatch.setattr(mrl.algorithms, "options", lambda name: {"tasks": 2, "adaptation_steps": 1})
    with pytest.raises(ValueError, match="'maml' has no option 'episodes', so its environment steps cannot be counted"):
        comparisons.entry(toys.walk(), "maml", {"tasks": 2}, 4)


def test_the_legend_has_the_learners_of_all_panels(monkeypatch, tmp_path):
    rows = [
        {"family": f"f{n}", "algorithm": name, "episodes": [0, 1], "per_task": np.zeros((2, 3, 2))}
        for n, name in enumerate(("maml", "promp"))
    ]
    figures = []
    monkeypatch.setattr(plots.files, "save", lambda figure, path: figures.append(figure))
    plots.curves(rows, tmp_path / "a.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["maml", "promp"]


def test_a_family_has_its_settings_with_a_version_too():
    trials = [suites.build(family, "maml", 8).trial for family in ("point-nav", "point-nav@finn2017")]
    assert trials[0] == trials[1] == 2 * 2 * 4 * 3


def test_a_family_and_a_learner_without_settings_of_their_own():
    assert suites.build("tabular-mdp", "anil", 40).trial == 2 * 20 * 20 * 10  # 2 stages of B = 20, N = 20, T = 10
    assert suites.build("tabular-mdp", "rl2", 40).trial == 40 * 4 * 10


def test_the_oracle_may_take_another_algorithm_and_more_steps(monkeypatch):
    taken = []
    monkeypatch.setattr(suites.comparisons, "train", lambda label, built, steps, seeds: (taken.append(steps), {}))
    own = suites.FAMILIES["point-nav"]._replace(
        learners={"oracle": {"algorithm": "promp", "adaptation_steps": 0}}, oracle_steps=7
    )
    monkeypatch.setitem(suites.FAMILIES, "point-nav", own)
    sizes = suites.Sizes(eval_episodes=8)
    suites.trained("point-nav", "oracle", sizes)
    suites.trained("point-nav", "maml", sizes)
    suites.trained("point-nav", "oracle", suites.Sizes(eval_episodes=8, steps=3))
    assert taken == [7, own.steps, 3]
    oracle = suites.build("point-nav", "oracle", 8)
    assert repr(oracle.algorithm).startswith("MetaAlgorithm('promp'")
    assert oracle.env.observation_size == 4
    assert oracle.trial == 2 * 4 * 3
