"""benchmarks/gpu_programs.py without its compiler: what it reads from the text of a program, and what it says."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu_programs
from benchmarks.hlo_launches import count_launches, imprecise_dots, phase_of
from metarl_jax import algorithms
from tests.toys import walk

BY_HAND = r"""HloModule jit_update, is_scheduled=true

%fused_add (p: f32[4], q: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %q = f32[4]{0} parameter(1)
  %product = f32[4]{0} multiply(%p, %q)
  ROOT %sum = f32[4]{0} add(%product, %q)
}

%substep (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %moved = f32[4]{0} fusion(%x, %x), kind=kLoop, calls=%fused_add, @rollout/while/body/physics/add
  %unnamed = f32[4]{0} copy(%moved)
  ROOT %out = (s32[], f32[4]{0}) tuple(%s, %unnamed)
}

%step (s.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s.1 = (s32[], /*index=1*/f32[4]{0}) parameter(0)
  %begun = ((f32[4]{0}), f32[4]{0}, u32[]) fusion-start(%s.1), kind=kLoop, calls=%fused_add, @rollout/while/body/add
  %done = f32[4]{0} fusion-done(%begun), @rollout/while/body/add
  ROOT %inner = (s32[], f32[4]{0}) while(%s.1), condition=%few, body=%substep, @rollout/while/body/physics/while, #16
}

%few (s.2: (s32[], f32[4])) -> pred[] {
  %s.2 = (s32[], f32[4]{0}) parameter(0)
  ROOT %less = pred[] fusion(%s.2), kind=kLoop, calls=%fused_add, @rollout/while/cond/lt
}

%attempt (s.3: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s.3 = (s32[], f32[4]{0}) parameter(0)
  ROOT %tried = (s32[], f32[4]{0}) fusion(%s.3), kind=kLoop, calls=%fused_add, @outer/while/body/jvp(adapt)/add
}

%short (s.4: f32[4]) -> f32[4] {
  ROOT %s.4 = f32[4]{0} parameter(0)
}

%long (s.5: f32[4]) -> f32[4] {
  %s.5 = f32[4]{0} parameter(0)
  %solved = (f32[4]{0}, s8[64]{0}) custom-call(%s.5), custom_call_target="__cublas$triangularSolve", @adapt/solve
  ROOT %sorted = f32[4]{0} sort(%solved), dimensions={0}
}

ENTRY %main (a: f32[4], b: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %nothing = f32[2,2]{1,0} bitcast(%a)
  %episodes = (s32[], f32[4]{0}) while(%a), condition=%few, body=%step, @rollout/while, #100
  %search = (s32[], f32[4]{0}) while(%a), condition=%few, body=%attempt, @outer/while
  %learned = f32[4]{0} conditional(%a, %a, %a), branch_computations={%short, %long}, @adapt/cond
  ROOT %end = f32[4]{0} copy(%learned)
}
"""

BY_HAND = re.sub(r"@(\S+)(?=,|\n)", r'metadata={op_name="jit(f)/\1"}', BY_HAND)
BY_HAND = re.sub(r"#(\d+)", r'backend_config={"known_trip_count":{"n":"\1"},"known_init_step":{"init":"0"}}', BY_HAND)


def test_loops_multiply_and_what_is_inside_a_fusion_is_not_counted():
    found = count_launches(BY_HAND)
    assert found.launches == {"rollout": 100 + 1, "physics": 100 * 16 * 2, "outer": 1, "adapt": 2, "other": 1}
    # The search's condition, of a loop whose trips are not known, is the one rollout launch beside the 100.
    assert found.kinds["fusion"] == 100 + 100 * 16 + 2
    assert found.kinds["copy"] == 100 * 16 + 1
    assert found.custom_calls == {"custom-call __cublas$triangularSolve": 1}
    assert found.host_reads == 2, "a conditional, and a trip of the search"
    loops = [(loop.phase, loop.depth, loop.trips, dict(loop.launches)) for loop in found.loops]
    assert loops == [
        ("rollout", 0, 100, {"rollout": 1, "physics": 32}),
        ("physics", 1, 16, {"physics": 2}),
        ("outer", 0, None, {"outer": 1, "rollout": 1}),
    ]


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("jit(update)/vmap()/while/body/rollout/vmap()/while/body/physics/jit(step)/add", "physics"),
        ("jit(update)/outer/while/body/transpose(jvp(vmap(adapt)))/mul", "outer"),
        ("jit(update)/vmap(adapt)/while", "adapt"),
        ("jit(update)/adaptive/rollouts/add", "other"),
        ("", "other"),
    ],
)
def test_the_outermost_purpose_names_the_phase(name, phase):
    assert phase_of(name) == phase


def test_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        count_launches("nothing")


def test_a_real_loop_counts_as_often_as_it_runs():
    """Three sorts, which nothing is fused with, inside five."""

    def run(x):
        def three(y):
            return jax.lax.fori_loop(0, 3, lambda _, z: jnp.sort(z)[::-1], y)

        with jax.named_scope("outer"):
            return jax.lax.fori_loop(0, 5, lambda _, y: three(y), x)

    found = count_launches(jax.jit(run).lower(jnp.ones(40)).compile().as_text() or "")
    assert [(loop.depth, loop.trips, loop.phase) for loop in found.loops] == [(0, 5, "outer"), (1, 3, "outer")]
    assert found.kinds["sort"] == 15
    outer, inner = (loop.launches.total() for loop in found.loops)
    assert found.launches["outer"] >= 5 * outer >= 5 * 3 * inner >= 15


def test_phases_of_a_real_update_are_told_apart():
    horizon, epochs = 6, 3
    algorithm = algorithms.make("promp", walk(horizon), tasks=2, episodes=3, epochs=epochs)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    found = count_launches(jax.jit(algorithm.update).lower(jax.random.key(0), state).compile().as_text() or "")
    assert all(found.launches[phase] for phase in ("physics", "rollout", "adapt", "outer"))
    loops = [(loop.phase, loop.trips) for loop in found.loops]
    assert ("rollout", horizon) in loops
    assert ("outer", epochs) in loops
    assert ("adapt", horizon) in loops


def test_single_products_of_less_than_the_highest_precision():
    x = jnp.ones((3, 3))

    def lowered(function, *arguments):
        return imprecise_dots(jax.jit(function).lower(*arguments).as_text())

    assert lowered(lambda x: jnp.dot(x, x, precision="highest") @ x, x) == 1
    with jax.default_matmul_precision("highest"):
        assert lowered(lambda x: x @ x @ x, x) == 0
    assert lowered(lambda x: x @ x, jnp.ones((3, 3), jnp.int32)) == 0
    assert lowered(lambda x: x + x, x) == 0


def test_programs_by_name():
    sizes = gpu_programs.Arguments(tasks=2, episodes=3, horizon=4)
    update, (keys, state) = gpu_programs.program("promp:point-nav:seeds=5", sizes)
    assert keys.shape == (5,)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {5}
    assert jax.eval_shape(update, keys, state)[1]["loss"].shape == (5,)
    with pytest.raises(ValueError, match="algorithm:task"):
        gpu_programs.program("promp", sizes)


def test_the_file_of_figures_keeps_other_programs(tmp_path):
    path = tmp_path / "results" / "figures.json"
    first, second = {"program": "a", "sizes": "1", "n": 1}, {"program": "b", "sizes": "1", "n": 2}
    for found in (first, second, first | {"n": 3}, first | {"sizes": "2"}):
        gpu_programs.save(path, found)
    kept = json.loads(path.read_text(encoding="utf-8"))["programs"]
    assert kept == [second, first | {"n": 3}, first | {"sizes": "2"}]


def test_without_the_compiler_it_is_skipped(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu_programs.main(gpu_programs.Arguments(output=tmp_path / "figures.json")) == 77
    written = capsys.readouterr()
    assert (len(written.out.splitlines()), written.err) == (1, "")
    assert "gpu-programs" in written.out
    assert list(tmp_path.iterdir()) == []
