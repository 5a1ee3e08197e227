"""GPU launches of a compiled program by phase, with loops multiplied out, from its optimised HLO text.

A launch is an instruction that becomes a kernel, a copy or a library call. A fusion is one kernel, so its instructions
do not count. A loop's condition does not count if the trip count is known, since XLA then counts on the host. For a
conditional, the branch with the most launches counts. A library call is one launch. XLA may record launches into
command buffers (CUDA graphs), which makes them cheaper, but does not change their number.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

PHASES = ("outer", "physics", "adapt", "rollout")
"""Named scopes of the library, by priority: an inner step inside the outer loss belongs to the outer update, physics
inside a rollout to the physics."""

FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
"""Opcodes without a launch, like those that end in -done or -update, which wait for earlier launches."""

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"?(\d+)')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass
class Loop:
    """A loop in the program text."""

    phase: str
    name: str
    """its location, by JAX's names"""
    depth: int
    """enclosing loops"""
    trips: int | None
    """None: unknown before the run, and counted as 1"""
    launches: Counter[str]
    """launches of one trip, by phase"""


@dataclass
class Launches:
    """Launches of one run of a program."""

    launches: Counter[str] = field(default_factory=Counter)
    """launches by phase"""
    kinds: Counter[str] = field(default_factory=Counter)
    """launches by opcode; custom calls by target"""
    host_reads: int = 0
    """number of times the host must read a value to continue: conditionals and trips of unknown loops"""
    loops: list[Loop] = field(default_factory=list)
    """outer loops before inner ones"""

    def add(self, other: "Launches", times: int = 1) -> None:
        """Adds `times` runs of another part; its loops are added once."""
        for mine, theirs in ((self.launches, other.launches), (self.kinds, other.kinds)):
            for name, number in theirs.items():
                mine[name] += times * number
        self.host_reads += times * other.host_reads
        self.loops += other.loops

    @property
    def custom_calls(self) -> dict[str, int]:
        """Target → number of calls."""
        return {name: number for name, number in sorted(self.kinds.items()) if name.startswith("custom-call ")}


def phase_of(op_name: str, otherwise: str = "other") -> str:
    """The phase in JAX's name of an operation; transformations wrap scopes as in ``transpose(jvp(outer))``."""
    scopes = set(re.split(r"[/()]", op_name))
    return next((phase for phase in PHASES if phase in scopes), otherwise)


def computations(text: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """The entry's name, and (opcode, line) of all instructions per computation of an HLO module.

    Raises:
        ValueError: the text has no entry computation.
    """
    entry, found, current = None, {}, None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _INSTRUCTION.match(line)):
            current.append((instruction[1], line))
    if entry is None:
        raise ValueError("the text has no ENTRY computation; it must be the text of a compiled program")
    return entry, found


def _named(line: str, *attributes: str) -> list[str]:
    """The computations in an instruction's attributes."""
    return [match[1] for name in attributes for match in re.finditer(rf"\b{name}=%?([\w.\-]+)", line)]


def count_launches(text: str) -> Launches:
    """Launches of one run of a compiled program.

    An operation without a name, such as some fusions, belongs to the phase of the enclosing loop. A fusion across
    phases belongs to that of its result.

    Args:
        text: ``jitted.lower(...).compile().as_text()``.
    """
    entry, bodies = computations(text)

    def run(name: str, around: str, depth: int) -> Launches:
        total = Launches()
        for opcode, line in bodies.get(name, ()):
            op_name = (_OP_NAME.search(line) or ["", ""])[1]
            phase = phase_of(op_name, around)
            if opcode == "while":
                trips = int(match[1]) if (match := _TRIPS.search(line)) else None
                body = run(_named(line, "body")[0], phase, depth + 1)
                if trips is None:
                    body.add(run(_named(line, "condition")[0], phase, depth + 1))
                    body.host_reads += 1
                total.loops.append(Loop(phase, op_name, depth, trips, body.launches))
                total.add(body, 1 if trips is None else trips)
            elif opcode == "conditional":
                names = _named(line, "true_computation", "false_computation")
                if listed := _BRANCHES.search(line):
                    names += [branch.strip().lstrip("%") for branch in listed[1].split(",")]
                branches = [run(branch, phase, depth) for branch in names]
                total.add(max(branches, key=lambda branch: branch.launches.total()))
                total.host_reads += 1
            elif opcode == "call" or opcode == "async-start":
                total.add(run(_named(line, "to_apply", "calls")[0], phase, depth))
            elif opcode not in FREE and not opcode.endswith(("-done", "-update")):
                kind = f"custom-call {_TARGET.findall(line)[0]}" if opcode == "custom-call" else opcode
                total.add(Launches(Counter({phase: 1}), Counter({kind.removesuffix("-start"): 1})))
        return total

    return run(entry, "other", 0)


def imprecise_dots(stablehlo: str) -> int:
    """float32 matrix products below the highest precision, for which a GPU may round the factors.

    Args:
        stablehlo: ``jitted.lower(...).as_text()``. It contains a function that is called twice only once.
    """
    lines = [line for line in stablehlo.splitlines() if "stablehlo.dot_general" in line or "stablehlo.dot " in line]
    single = [line for line in lines if re.search(r":\s*\(tensor<(?:[\d?]+x)*f32>", line)]
    return sum("precision = [HIGHEST, HIGHEST]" not in line for line in single)
