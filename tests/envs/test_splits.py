"""train, test and ood: whose tasks, by name."""

import jax
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax.envs import point
from metarl_jax.runs import config

KEYS = jax.random.split(jax.random.key(0), 300)


def tasks(name, split, **options):
    env = envs.make(name, split=split, **options)
    drawn = jax.vmap(env.sample_task)(KEYS)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), drawn)


def flat(drawn):
    return np.concatenate([leaf.reshape(len(KEYS), -1) for leaf in jax.tree.leaves(drawn)], axis=1)


@pytest.mark.parametrize("name", envs.names())
def test_every_family_has_three_splits_and_says_what_they_are(name):
    card = envs.card(name)
    assert tuple(card.splits) == envs.SPLITS == config.SPLITS
    assert all(card.splits.values())
    assert (card.finite is not None) == ("no others" in card.splits["test"])


@pytest.mark.parametrize("name", envs.names())
def test_one_key_draws_another_task_in_another_split(name):
    train, test = flat(tasks(name, "train")), flat(tasks(name, "test"))
    finite = envs.card(name).finite
    if finite is None:
        assert not (train[:, None] == test[None]).all(-1).any()
        # Of one distribution nonetheless: quartiles of 300 draws lie within 5 standard errors of each other.
        spread = train.std(0) + 1e-9
        assert (np.abs(np.median(train, 0) - np.median(test, 0)) < 1.25 * 5 * spread * np.sqrt(2 / 300)).all()
    else:
        assert len(np.unique(train, axis=0)) == len(np.unique(test, axis=0)) == finite
        assert not (train == test).all()


def norm(x):
    return np.sqrt((x**2).sum(-1))


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("cheetah-vel", lambda t: t.target < 2, lambda t: (t.target >= 2) & (t.target < 3)),
        ("cheetah-vel@promp2019", lambda t: t.target < 3, lambda t: (t.target >= 3) & (t.target < 4.5)),
        ("walker-vel", lambda t: t.target < 10, lambda t: (t.target >= 10) & (t.target < 15)),
        ("ant-vel", lambda t: t.target < 3, lambda t: (t.target >= 3) & (t.target < 4.5)),
        ("ant-goal", lambda t: norm(t.goal) < 3, lambda t: (norm(t.goal) >= 3 - 1e-5) & (norm(t.goal) < 4.5)),
        ("ant-ring", lambda t: t.goal[:, 1] >= 0, lambda t: t.goal[:, 1] <= 1e-6),
        ("point-sparse", lambda t: t.goal[:, 1] >= 0, lambda t: t.goal[:, 1] <= 1e-6),
        *[
            (
                name,
                lambda t, c=c, w=w: np.abs(t.goal - c).max(-1) <= w + 1e-6,
                lambda t, c=c, w=w: (
                    (np.abs(t.goal - c).max(-1) >= w - 1e-6) & (np.abs(t.goal - c).max(-1) <= 1.5 * w + 1e-6)
                ),
            )
            for name, c, w in [
                ("point-nav", 0, 0.5),
                ("point-robot", 0, 1),
                ("ant-goal-box", 0, 3),
                ("pusher-goal", np.array([0.45, -0.05]), 0.15),
            ]
        ],
        (
            "point-corners",
            lambda t: (np.abs(t.goal) == 2).all(-1),
            lambda t: np.sort(np.abs(t.goal)).tolist() == [[0, 2]] * len(KEYS),
        ),
        ("grid-nav", lambda t: t.goal.max(-1) > 1, lambda t: t.goal.max(-1) == 1),
        ("risky-rooms", lambda t: t.treasure.sum(-1) == 1, lambda t: t.treasure.sum(-1) == 2),
        ("gaussian-bandit", lambda t: np.abs(t.goal) < 4, lambda t: np.abs(t.goal - 4) < 4),
        (
            "bernoulli-bandit",
            lambda t: (t.probability >= 0) & (t.probability < 1),
            lambda t: np.allclose(np.sort(t.probability), [0.45] * 4 + [0.55]),
        ),
        (
            "hopper-params",
            lambda t: (t.scale["mass"] >= 1.5**-3) & (t.scale["mass"] <= 1.5**3),
            lambda t: (t.scale["mass"] >= 1.5**3 - 1e-4) & (t.scale["mass"] <= 1.5**4),
        ),
        (
            "cheetah-mass",
            lambda t: (t.scale["density"] > 0.5) & (t.scale["density"] < 2),
            lambda t: (t.scale["density"] > 1.99) & (t.scale["density"] < 3),
        ),
    ],
)
def test_ood_tasks_lie_outside_of_the_training_range(name, inside, outside):
    assert np.all(inside(tasks(name, "train")))
    assert np.all(inside(tasks(name, "test")))
    assert np.all(outside(tasks(name, "ood")))


def test_no_loop_over_tasks_meets_another_splits_stream():
    train, test = envs.make("point-nav"), envs.make("point-nav", split="test")
    key = jax.random.key(0)
    held_out = np.asarray(test.sample_task(key).goal)
    seen = jax.vmap(lambda i: train.sample_task(jax.random.fold_in(key, i)).goal)(np.arange(5000))
    assert not (np.asarray(seen) == held_out).all(-1).any()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("point-sparse", {"angle_range": (0.0, 6.28)}, "more than half a turn"),
        ("point-corners", {"goals": point.EDGES}, "is the training distribution"),
        ("bernoulli-bandit", {"gap": 0.1}, "is the training distribution"),
        ("gaussian-bandit", {"goal_std": 0.0}, "is the training distribution"),
        ("grid-nav", {"near_start": True}, "is the training distribution"),
        ("risky-rooms", {"treasures": 3}, "treasures is 4; with rooms=4 it must lie in 1..3"),
        ("point-nav", {"goal_range": 3}, "goal_range is 3;"),
        ("point-nav", {"goal_range": (1, 0)}, r"goal_range is [(]1, 0[)]"),
        ("gaussian-bandit", {"goal_std": "1"}, "goal_std is '1'"),
        ("tabular-mdp", {"sharpness": "2"}, "sharpness is '2'"),
    ],
)
def test_what_leaves_nothing_to_shift_is_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        envs.make(name, split="ood", **options)


@pytest.mark.parametrize("name", [name for name in envs.names() if not envs.card(name).backends])
def test_tasks_of_every_split_are_strongly_typed(name):
    types = [
        [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(jax.eval_shape(env.sample_task, KEYS[0]))]
        for env in (envs.make(name, split=split) for split in envs.SPLITS)
    ]
    assert types[0] == types[1] == types[2]
    assert not any(weak for *_, weak in types[0])


def test_extreme_sharpness_is_finite():
    transition = tasks("tabular-mdp", "ood", sharpness=30.0).transition
    np.testing.assert_allclose(transition.sum(-1), 1, atol=1e-5)


def test_ood_follows_the_users_own_range():
    target = tasks("cheetah-vel", "ood", target_range=(0.0, 1.0)).target
    assert target.min() >= 1
    assert target.max() < 1.5


def test_goals_around_a_square_are_uniform():
    goal = tasks("point-nav", "ood").goal
    largest = np.abs(goal).max(-1)
    share = np.sort((largest**2 - 0.25) / (0.75**2 - 0.25))  # of the area nearer than this goal
    assert np.abs(share - (np.arange(300) + 0.5) / 300).max() < 2.2 / np.sqrt(300)
    quadrant = np.bincount((goal[:, 0] > 0) * 2 + (goal[:, 1] > 0), minlength=4)
    assert np.abs(quadrant - 75).max() < 5 * np.sqrt(75 * 0.75)


@pytest.mark.parametrize("name", ["cheetah-dir", "ant-dir", "ant-dir-2d", "walker-dir", "humanoid-dir", "reacher-goal"])
def test_families_that_cover_their_tasks_shift_the_body(name):
    train, ood = envs.make(name), envs.make(name, split="ood")
    assert (
        np.unique(flat(tasks(name, "ood")).round(6), axis=0).shape
        == np.unique(flat(tasks(name, "train")).round(6), axis=0).shape
    )
    assert "heavy" in envs.card(name).splits["ood"]
    assert train.name in ood.name


def test_an_unknown_split_is_one_line():
    with pytest.raises(ValueError, match="unknown split of 'point-nav' 'tests': did you mean 'test'"):
        envs.make("point-nav", split="tests")
    with pytest.raises(ValueError, match="unknown eval_split 'odd': did you mean 'ood'"):
        config.TrainConfig(evaluation=config.EvaluationConfig(eval_split="odd"))
