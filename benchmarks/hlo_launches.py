"""What a compiled program asks of a GPU: launches by phase with loops multiplied out, read from its optimised HLO text.

A launch is an instruction that becomes a kernel, a copy or a call of a library. Instructions inside a fusion do not
count: the fusion is one kernel. Nor does a loop's condition where the trip count is known, since XLA then counts on the
host. Of a conditional the branch with the most launches counts. A library call is one launch here, whatever it does
inside. XLA may record launches into command buffers (CUDA graphs): starting them is cheaper then, their number stays.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

PHASES = ("outer", "physics", "adapt", "rollout")
"""Named scopes of the library, the deciding one first: an inner step inside the outer loss belongs to the outer update,
physics inside a rollout to the physics."""

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
"""Opcodes that start nothing; neither do those that end in -done or -update, which wait for what was started before."""

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"?(\d+)')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass
class Loop:
    """A loop as often as it stands in the program."""

    phase: str
    name: str
    """where it stands, by JAX's names"""
    depth: int
    """loops around it"""
    trips: int | None
    """None: not known before it runs, and counted as 1"""
    launches: Counter[str]
    """of one trip, by phase"""


@dataclass
class Launches:
    """Of one run of a program."""

    launches: Counter[str] = field(default_factory=Counter)
    """by phase"""
    kinds: Counter[str] = field(default_factory=Counter)
    """by opcode, a custom call by its target"""
    host_reads: int = 0
    """how often the host must read a number to know what comes next: conditionals and trips of unknown loops"""
    loops: list[Loop] = field(default_factory=list)
    """the outer before the inner ones"""

    def add(self, other: "Launches", times: int = 1) -> None:
        """Adds `times` runs of another piece; its loops stand here once."""
        for mine, theirs in ((self.launches, other.launches), (self.kinds, other.kinds)):
            for name, number in theirs.items():
                mine[name] += times * number
        self.host_reads += times * other.host_reads
        self.loops += other.loops

    @property
    def custom_calls(self) -> dict[str, int]:
        """Target → how often it is called."""
        return {name: number for name, number in sorted(self.kinds.items()) if name.startswith("custom-call ")}


def phase_of(op_name: str, otherwise: str = "other") -> str:
    """The phase that JAX's name of an operation says; transformations wrap a scope as in ``transpose(jvp(outer))``."""
    scopes = set(re.split(r"[/()]", op_name))
    return next((phase for phase in PHASES if phase in scopes), otherwise)


def computations(text: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """The entry's name, and (opcode, line) of all instructions of every computation of an HLO module.

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
    """The computations that an instruction's attributes name."""
    return [match[1] for name in attributes for match in re.finditer(rf"\b{name}=%?([\w.\-]+)", line)]


def count_launches(text: str) -> Launches:
    """Launches of one run of a compiled program.

    An operation without a name, such as the fusion of several, belongs to the phase of the loop that it stands in. A
    fusion across phases belongs to that of its result.

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
    """float32 matrix products that a program leaves at less than the highest precision: a GPU may round their factors.

    Args:
        stablehlo: ``jitted.lower(...).as_text()``. A function that is called twice stands in it once.
    """
    lines = [line for line in stablehlo.splitlines() if "stablehlo.dot_general" in line or "stablehlo.dot " in line]
    single = [line for line in lines if re.search(r":\s*\(tensor<(?:[\d?]+x)*f32>", line)]
    return sum("precision = [HIGHEST, HIGHEST]" not in line for line in single)
