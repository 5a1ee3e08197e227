"""Names, versions, cards, bad input, and a quiet start."""

import subprocess
import sys

import pytest

import metarl_jax.envs as envs


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("cheeta-vel", {}, ["cheeta-vel", "did you mean 'cheetah-vel'", "point-nav"]),
        ("qqqq", {}, ["'qqqq'", "choose from", "reacher-goal"]),
        ("", {}, ["''", "choose from"]),
        (None, {}, ["None", "choose from"]),
        (["point-nav"], {}, ["point-nav", "choose from"]),
        ("point-corners", {"goals": ((1, 1), (2,))}, ["goals is ((1, 1), (2,))", "pairs (x, y)"]),
        ("point-corners", {"goals": 3}, ["goals is 3"]),
        ("point-corners", {"goals": ((1.0, float("nan")),)}, ["goals is ((1.0, nan),)"]),
        ("cheetah-vel@fin2017", {}, ["cheetah-vel@fin2017", "did you mean 'cheetah-vel@finn2017'", "promp2019"]),
        ("cheetah-vel@", {}, ["cheetah-vel@", "cheetah-vel@finn2017"]),
        ("reacher-goal", {"backend": "sprig"}, ["sprig", "did you mean 'spring'", "mjx"]),
        ("reacher-goal", {"backend": ""}, ["''", "spring"]),
        ("point-nav", {"backend": "spring"}, ["spring", "has no physics"]),
        ("bernoulli-bandit", {"arm": 5}, ["'arm'", "did you mean 'arms'"]),
        ("cheetah-dir", {"target_range": (0, 1)}, ["target_range", "action_scale", "control_cost"]),
        ("point-nav", {"horizon": 0}, ["horizon is 0", "integer of at least 1"]),
        ("point-nav", {"horizon": -3}, ["horizon is -3"]),
        ("point-nav", {"horizon": 2.5}, ["horizon is 2.5"]),
        ("point-nav", {"horizon": True}, ["horizon is True"]),
        ("point-nav", {"action_scale": 0}, ["action_scale is 0", "positive"]),
        ("point-nav", {"goal_range": (1, 1)}, ["goal_range is (1, 1)", "low < high"]),
        ("point-nav", {"goal_range": 3}, ["goal_range is 3"]),
        ("bernoulli-bandit", {"arms": 0}, ["arms is 0"]),
        ("gaussian-bandit", {"goal_std": -1}, ["goal_std is -1", "at least 0"]),
        ("gaussian-bandit", {"goal_mean": float("nan")}, ["goal_mean is nan", "finite"]),
        ("tabular-mdp", {"states": 0}, ["states is 0"]),
        ("tabular-mdp", {"actions": "5"}, ["actions is '5'"]),
        ("tabular-mdp", {"reward_std": -0.5}, ["reward_std is -0.5"]),
        ("cheetah-vel", {"control_cost": -0.1}, ["control_cost is -0.1"]),
        ("cheetah-dir", {"action_scale": float("inf")}, ["action_scale is inf"]),
        ("cheetah-vel", {"target_range": (2.0, 0.0)}, ["target_range is (2.0, 0.0)"]),
        ("risky-rooms", {"rooms": 1}, ["rooms is 1", "at least 2"]),
        ("risky-rooms", {"rooms": 5}, ["horizon is 4", "at least rooms, 5"]),
        ("risky-rooms", {"treasures": 4}, ["treasures is 4", "1..3"]),
        ("risky-rooms", {"cost": float("nan")}, ["cost is nan"]),
        ("reacher-goal", {"goal_radius": 0.0}, ["goal_radius is 0.0"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_value_and_what_is_allowed(name, options, parts):
    with pytest.raises(ValueError, match=r"\S") as error:
        envs.make(name, **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_lookups_refuse_unknown_names_too():
    for lookup in (envs.versions, envs.card):
        with pytest.raises(ValueError, match="did you mean 'point-nav'"):
            lookup("point-nv")


def test_names_and_versions():
    assert len(envs.names()) == len(set(envs.names())) == 26
    assert {"ant-ring", "humanoid-dir", "pusher-goal", "walker-params", "point-corners", "grid-nav"} < {*envs.names()}
    versions = ("finn2017", "promp2019", "pearl2019", "rllab2017")
    assert envs.versions("cheetah-vel") == tuple(f"cheetah-vel@{version}" for version in versions)
    assert envs.versions("cheetah-vel@promp2019") == envs.versions("cheetah-vel")


def test_cards_are_complete_and_true():
    for name in envs.names():
        card = envs.card(name)
        assert card.name == card.versions[0] == envs.versions(name)[0]
        for field in ("formula", "tasks", "observation", "start", "source", "differences"):
            assert getattr(card, field)
        for option, value in card.options.items():
            if not card.backends:
                envs.make(name, **{option: value})
    assert envs.card("cheetah-vel@promp2019").options["target_range"] == (0.0, 3.0)
    assert envs.card("cheetah-vel@promp2019").horizon == 100
    assert envs.card("reacher-goal").backends == ("spring", "generalized", "positional", "mjx")
    assert envs.card("cheetah-dir").backends == ("spring", "generalized", "positional", "mjx", "mujoco")
    assert envs.card("cheetah-dir@rllab2017").backends == ("mujoco",)
    assert envs.card("point-nav").backends == ()


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ant-dir@promp2019", "height_range", (0.0, 1.0)),  # ant_rand_direc.py and ant_rand_direc_2d.py of ProMP's code
        ("ant-dir-2d@promp2019", "height_range", (0.0, 1.0)),
        ("ant-dir-2d@pearl2019", "height_range", (0.2, 1.0)),
        ("cheetah-vel@pearl2019", "observation", "joints+torso"),  # the HalfCheetahEnv of PEARL's code
        ("cheetah-vel@promp2019", "observation", "joints"),
    ],
)
def test_versions_are_those_of_the_papers_code(name, option, value):
    assert envs.card(name).options[option] == value


def test_horizon_and_sizes_follow_the_options():
    assert envs.make("point-nav", horizon=7).horizon == 7
    assert envs.make("bernoulli-bandit", arms=9).action_size == 9
    env = envs.make("tabular-mdp", states=4, actions=3)
    assert (env.observation_size, env.action_size) == (4, 3)


def run_python(code, cwd):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)


@pytest.fixture
def importable(monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))


def test_importing_the_package_does_not_import_brax(tmp_path, importable):
    use = "import sys, metarl_jax.envs as e; e.make('point-nav'); e.card('cheetah-vel')"
    code = f"{use}; print({{'brax', 'mujoco'}} & {{*sys.modules}})"
    assert run_python(code, tmp_path).stdout.strip() == "set()"


def test_making_a_cheetah_prints_nothing_and_drops_no_file(tmp_path, importable):
    code = "import metarl_jax.envs as e; e.make('cheetah-vel'); e.make('reacher-goal', backend='mjx')"
    done = run_python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_first_make_inside_a_traced_function_leaves_no_tracer_behind(tmp_path, importable):
    code = """
import jax, metarl_jax.envs as e
goal = e.GoalTask(jax.numpy.zeros(2))
jax.eval_shape(lambda key: e.make("reacher-goal", backend="generalized").reset(key, goal), jax.random.key(0))
env = e.make("reacher-goal", backend="generalized")
print(jax.eval_shape(env.reset, jax.random.key(0), goal).observation.shape)
"""
    assert run_python(code, tmp_path).stdout.strip() == "(8,)"


def test_an_environment_prints_what_a_reader_asks_for():
    env = envs.make("point-nav", horizon=7)
    sizes = "observation_size=2, observation_shape=None, action_size=2, horizon=7"
    assert repr(env) == f"TaskEnv({sizes}, discrete=False, name='point-nav@finn2017')"


def test_a_card_prints_what_show_tasks_prints():
    card = envs.card("point-nav")
    title, *lines = str(card).splitlines()
    assert (title, repr(card)) == ("point-nav@finn2017", str(card))
    width = len("reward; end") + 2
    told, label = {}, ""
    for line in lines:
        label = line[:width].strip() or label  # further lines have none
        told[label] = f"{told.get(label, '')} {line[width:]}".strip()
    assert told == {label: " ".join(text.split()) for label, text in card.entries().items()}
    assert told["options"].startswith("action_scale=1.0, goal_range=")
    assert told["split train"].startswith("g ~ U")
    assert "physics" not in told
    assert "goal_range=7 (chosen)" in card.entries({"goal_range": 7})["options"]
    assert max(map(len, lines)) <= 120
