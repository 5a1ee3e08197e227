"""Hostile cases with names of run folders, sweeps and members, and with option values."""

from pathlib import Path

from benchmarks.hostile_tools import DONE, DREW, EITHER, EVERY, ITERATIONS, REFUSED, SETTINGS, Case, Keeps, Place

# name of a run folder → required end
_FOLDERS: dict[str, dict[int, Keeps]] = {
    "lr[0.1]": EITHER,
    "]b[": EITHER,
    "a\\b": EITHER,
    "a*b?": EITHER,
    "{a,b}": EITHER,
    "x[/red]y": EITHER,
    "[lr=0.1]": EITHER,
    "[link=file:///etc]x[/link]": EITHER,
    "with space": DONE,
    " ": EITHER,
    "new\nline": EITHER,
    "tab\tstop": EITHER,
    "escape\x1b[31mred": EITHER,
    "bell\x07": EITHER,
    "-dash": DONE,
    "--resume": EITHER,
    "$(touch pwned)": DONE,
    "; touch pwned;": DONE,
    "`touch pwned`": DONE,
    "%s%n{0}{folder}": DONE,
    "'\"": DONE,
    "größe-日本": DONE,
    "e\u0301-\u202eltr": EITHER,
    "🦾": DONE,
    ".hidden": DONE,
    "...": DONE,
    "~": DONE,
    "gs:": EITHER,
    "a=b,c": DONE,
    "x" * 200: DONE,
    "a/b/c/d": DONE,
    "caf\udce9": EITHER,
}

_SHORT = (*SETTINGS, "--iterations", str(2 * EVERY))


def _named(name: str) -> str:
    return name if len(name) < 40 else f"{name[:3]}… ({len(name)} characters)"


def _shown(name: str) -> str:
    """Text that stdout must contain for a name; empty for names that terminals cannot show."""
    return name if name.isprintable() and name.strip() else ""


_FRESH = ("lr[0.1]", "x[/red]y", "a\\b", "größe-日本")
"""names of folders for a new run as well, not only for resuming"""


def _folders() -> list[Case]:
    cases = [
        Case(
            kind="names",
            name=f"a run goes on in {_named(ascii(folder))}",
            command="train --resume",
            words=(f"--folder={folder}",),
            folder=folder,
            ends=ends,
            says="^error: ",
            shows=_shown(folder),
        )
        for folder, ends in _FOLDERS.items()
    ]
    cases += [
        Case(
            kind="names",
            name=f"a run starts in {folder!a}",
            command="train",
            words=(*_SHORT, f"--folder={folder}"),
            folder=folder,
            start=None,
            ends=EITHER,
            says="^error: ",
            shows=folder,
        )
        for folder in _FRESH
    ]
    return cases


_NO_FOLDERS = {
    "": "folder is ''",
    "x" * 300: "[Ff]ile name too long",
    "x/" * 3000: r"its path has .* bytes",
    "outside/mine": "outside/mine",
    "outside/mine/below": "outside/mine",
    ".": "exists",
    "..": "exists",
    "/": "exists",
    "/proc/self": "exists|/proc",
    "/dev/null": "/dev/null",
    "/dev/full/x": "/dev/full",
}


def _no_folders() -> list[Case]:
    return [
        Case(
            kind="names",
            name=f"no run starts in {_named(ascii(folder))}",
            command="train",
            words=(*_SHORT, f"--folder={folder}"),
            start=None,
            ends=REFUSED,
            says=says,
        )
        for folder, says in _NO_FOLDERS.items()
    ]


_BOUND = 'ulimit -v 12000000; exec "$@"'
"""memory limit, for values that would allocate all memory"""

_DEEP = "(" * 5000 + ")" * 5000
# arguments of train.py → error line; the run must not start
_WORDS: dict[str, tuple[tuple[str, ...], str]] = {
    "a task of 100,000 letters": (("--task", "x" * 100_000), "^error: "),
    "a task that is markup": (("--task", "[/red]"), r"\[/red\]"),
    "a task that is a path": (("--task", "../../etc/passwd"), "unknown environment"),
    "a task that formats": (("--task", "{0.__class__}%s"), r"\{0.__class__\}%s"),
    "a task of two lines": (("--task", "a\nb"), "unknown environment"),
    "a task that is no UTF-8": (("--task", "caf\udce9"), "^error: "),
    "an algorithm that is a module": (("--task", "point-nav", "--algorithm", "os.system"), "unknown algorithm"),
    "a preset that is a path": (("--preset", "../../secret"), "unknown preset"),
    "an option without a name": (
        (
            "--task",
            "point-nav",
            "--=3",
        ),
        "^error: ",
    ),
    "an option of 100,000 letters": (("--task", "point-nav", "--" + "x" * 100_000), "^error: "),
    "a rate beyond a float": (("--task", "point-nav", "--inner-lr", "1e400"), "inner_lr is inf"),
    "a seed beyond 32 bits": (("--task", "point-nav", "--seed", "9" * 40), r"below 2\*\*32"),
    "a number of 5,000 digits": (("--task", "point-nav", "--iterations", "9" * 5000), "^error: "),
    "a number in other digits": (("--task", "point-nav", "--iterations", "-٣"), "^error: "),
    "10¹² tasks": (("--task", "point-nav", "--tasks", "1" + "0" * 12), "tasks"),
    "10¹² episodes": (("--task", "point-nav", "--episodes", "1" + "0" * 12), "episodes"),
    "10¹² hidden units": (("--task", "point-nav", "--hidden", "1" + "0" * 12), "hidden"),
    "10¹⁸ steps": (("--task", "point-nav", "--horizon", "1" + "0" * 18), "horizon"),
    "10⁹ seeds": (("--task", "point-nav", "--seeds", "1" + "0" * 9), "seeds"),
    "a value of 10,000 brackets": (("--task", "point-nav", "--option", f"outer_lr={_DEEP}"), "outer_lr"),
    "a value that is a program": (
        ("--task", "point-nav", "--option", "outer_lr=__import__('os').system('touch pwned')"),
        "outer_lr",
    ),
    "an option of the task that is a program": (
        ("--task", "point-nav", "--env-option", "action_scale=__import__('os').system('touch pwned')"),
        "action_scale",
    ),
    "a policy by --option": (("--task", "point-nav", "--option", "policy={'hidden': (10**9,)}"), "policy"),
}


def _words() -> list[Case]:
    return [
        Case(kind="options", name=name, command="train", words=words, start=None, ends=REFUSED, says=says, shell=_BOUND)
        for name, (words, says) in _WORDS.items()
    ]


# arguments of sweep.py before the --, and error line
_SWEEPS: dict[str, tuple[tuple[str, ...], str]] = {
    "a value that is a path": (("--grid", "baseline=../../outside,zero"), "unknown baseline"),
    "a value that is markup": (("--grid", "surrogate=[/red],dice"), r"unknown surrogate '\[/red\]'"),
    "a name that is markup": (("--grid", "[/red]=1,2"), r"\[/red\]"),
    "a folder of its own": (("--grid", "folder=a,b"), "a sweep sets itself"),
    "a value of two lines": (("--grid", "surrogate=a\nb,dice"), "^error: "),
    "a range that is NaN": (("--random", "outer_lr=nan:1"), "LOW < HIGH"),
    "a range beyond 64 bits": (("--random", f"tasks=int:1:{10**30}"), "^error: "),
    "a value of 100,000 letters": (("--grid", f"surrogate={'x' * 100_000}"), "unknown surrogate"),
    "10²⁴ combinations": (
        (
            "--grid",
            *(
                f"{name}={','.join(map(str, range(1, 1001)))}"
                for name in ("tasks", "episodes", "iterations", "keep", "patience", "horizon", "credit", "outer_lr")
            ),
        ),
        "^error: ",
    ),
    "10⁹ samples": (("--random", "outer_lr=log:1e-4:1e-2", "--samples", str(10**9)), "samples"),
}


def _sweeps() -> list[Case]:
    return [
        Case(
            kind="options",
            name=f"a sweep over {name}",
            command="sweep --folder run",
            words=(*words, "--", *SETTINGS),
            start=None,
            ends=REFUSED,
            says=says,
            shell=_BOUND,
        )
        for name, (words, says) in _SWEEPS.items()
    ]


def _module(name: str):
    def prepare(place: Place) -> None:
        path = Path(place.run, f"{name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("open('pwned', 'w'); raise SystemExit(7)\n")

    return prepare


_MODULES = ("sitecustomize", "usercustomize", "numpy", "jax", "json", "__init__", "conftest", "matplotlib", "evil")

CASES: tuple[Case, ...] = (
    *_folders(),
    *_no_folders(),
    *_words(),
    *_sweeps(),
    Case(
        kind="names",
        name="modules beside the run, which nothing may import",
        command="evaluate run",
        start=ITERATIONS,
        prepare=tuple(map(_module, _MODULES)),
        ends=DREW,
        shell='cd run && exec "$1" "$2" .',
    ),
)
