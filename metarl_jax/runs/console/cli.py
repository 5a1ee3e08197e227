"""What the scripts share: a command line whose errors are one line, quiet libraries, a compilation cache on disk."""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from metarl_jax.runs.console import full_memory, parse_errors, startup, talk, user_modules

T = TypeVar("T")

QUICK = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
"""Has XLA take the older of its two code generators for CPUs. Physics so compiles in two thirds of the time and runs as
fast; what is no physics would run a tenth slower."""


class UserError(Exception):
    """Bad input: a line that names the value, what is allowed and the fix. Scripts exit with status 2."""


class RunStopped(BaseException):
    """A run ended early, what it had reached is kept. Scripts exit with its status.

    It is a BaseException, like KeyboardInterrupt. A signal may raise it anywhere, also in code that handles every
    Exception, such as the errors of a damaged checkpoint.
    """

    status = 1


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns the library's ValueErrors, files that cannot be used, and packages that it asks for, into `UserError`.

    Wrap only what handles input: elsewhere a ValueError is a bug, and its traceback is wanted.
    """
    try:
        yield
    except OSError as error:
        raise UserError(_unusable(error)) from error
    except (ValueError, ImportError) as error:
        if getattr(error, "name", None) is not None:  # an import that failed; ours say what to install
            raise
        text = " ".join(str(error).split())
        own = "; one of yours is found by --import MODULE" if text.startswith(_REGISTERED) else ""
        raise UserError(text + own) from error


_REGISTERED = ("unknown environment ", "unknown algorithm ", "unknown family ")


def _unusable(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return " ".join(str(error).split())
    return f"cannot use {error.filename}: {error.strerror.lower()}; choose another path, or make this one usable"


class OutputLost(RunStopped):
    """Standard output cannot be written: its reader has ended, its disk is full, its terminal is gone."""

    status = 2


class _Output:
    """Standard output. Its first failure ends the script, and further output is dropped.

    While `patient` is set, the failure is only stored in `lost`, so that a training can first write its checkpoint.
    """

    def __init__(self, stream: Any):
        self._stream, self.patient = stream, False
        self.lost = ""
        """why nothing can be written any more"""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Any]) -> None:
        if self.lost:
            return
        try:
            action()
        except OSError as error:
            self.lost = f"standard output cannot be written ({(error.strerror or str(error)).lower()})"
            with contextlib.suppress(OSError, ValueError):  # what is still buffered would fail again at the exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not self.patient and threading.current_thread() is threading.main_thread():
                raise OutputLost(self.lost) from error


_output: _Output | None = None  # whatever rich makes of sys.stdout meanwhile


def output_lost() -> str:
    """Why standard output cannot be written any more; empty as long as it can."""
    return _output.lost if _output else ""


@contextlib.contextmanager
def patient_output() -> Iterator[None]:
    """Within it, the loss of standard output is only noted, see `output_lost`."""
    if _output is None:
        yield
        return
    _output.patient = True
    try:
        yield
    finally:
        _output.patient = False


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Standard streams that replace letters which they cannot encode.

    A closed stream is opened on /dev/null. Otherwise the next file that is opened would get its descriptor, and with it
    what is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115, as long as the process
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    global _output
    before, _output = _output, _Output(sys.stdout)
    try:
        with contextlib.redirect_stdout(_output):
            yield
    finally:
        _output = before


_MOST_LETTERS = 2000


def _tell(text: str) -> None:
    """The line that a user sees of an error; of an endless one its two ends."""
    if len(text) > _MOST_LETTERS:
        text = f"{text[: _MOST_LETTERS // 2]} ... {text[-_MOST_LETTERS // 2 :]}"
    with contextlib.suppress(OSError):  # it has no reader either
        print(text, file=sys.stderr, flush=True)


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Runs a script's main function and returns its exit status, errors told in one line on stderr.

    A second SIGINT or SIGTERM ends the process; see `metarl_jax.runs.console.signals.insistent`.
    """
    from metarl_jax.runs.console.signals import insistent  # which imports this module

    argv = sys.argv[1:] if argv is None else argv
    with startup.awake(), insistent(), _streams(), talk.noted(console):
        try:
            with user_errors():
                argv = user_modules.taken_from(argv)
            for word in argv:
                if not word.isascii() and os.fsencode(word) != word.encode(errors="replace"):
                    raise UserError(f"the argument {word!a} is not text in UTF-8; give it another name")
            try:
                main(argv)
            except SystemExit:  # after a help text
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            if lost := output_lost():
                raise OutputLost(lost)
        except UserError as error:
            _tell(f"error: {error}")
            return 2
        except RunStopped as error:
            _tell(f"error: {error}")
            return error.status
        except OSError as error:
            _tell(f"error: {_unusable(error)}")
            return 1
        except (MemoryError, RuntimeError) as error:
            if not full_memory.is_it(error):
                raise
            _tell(f"error: {full_memory.in_words(error)}")
            return 2
        except KeyboardInterrupt:
            _tell(startup.INTERRUPTED)
            return 130
    return 0


def parse(kind: type[T], argv: Sequence[str], *, default: T | None = None, **settings: Any) -> T:
    """`tyro.cli` with flags that carry no prefix, whose errors are one line.

    Raises:
        UserError: the arguments do not parse, or the values are not allowed.
        SystemExit: after the help text was printed.
    """
    import tyro

    captured = io.StringIO()
    if "description" in settings:
        settings["description"] += f"\n\n{user_modules.HELP}"
    extra: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(kind, args=list(argv), config=(tyro.conf.OmitArgPrefixes,), **extra, **settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(parse_errors.one_line(captured.getvalue())) from stop


COMMANDS = {"train": "metarl-train", "evaluate": "metarl-evaluate", "render": "metarl-render", "sweep": "metarl-sweep"}
COMMANDS |= {"show_tasks": "metarl-tasks"}


def program(name: str) -> str:
    """A script's name as it was called: train.py or metarl-train."""
    return COMMANDS[name] if Path(sys.argv[0]).name.startswith("metarl-") else f"{name}.py"


def call(name: str) -> str:
    """How to call a script, in the way of the one that runs: python experiments/train.py or metarl-train."""
    said = program(name)
    return f"python experiments/{said}" if said.endswith(".py") else said


def console(quiet: bool = False) -> Console:
    """Where a script talks: as wide as the terminal, or wide enough for its tables in a log file."""
    return Console(quiet=quiet) if sys.stdout.isatty() else Console(width=110, quiet=quiet)


def prepare_jax(task: str | None = None) -> None:
    """Compiled programs are kept on disk between processes; libraries' chatter is not shown. Before any use of JAX.

    The cache is where JAX_COMPILATION_CACHE_DIR says, else in the user's cache folder.

    Args:
        task: the name of the task that the script is about, where there is one; a wrong name is told later.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # LAPACK on small matrices gains nothing by threads of its own, which turn idly while they wait for a core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.unraisablehook = _unraisable
    # What JAX and Matplotlib say of a home or a cache that cannot be written; both work without.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with startup.at_once():
        import jax

        from metarl_jax import envs

    with contextlib.suppress(ValueError):
        if task is not None and envs.card(task).backends:
            os.environ.setdefault("XLA_FLAGS", QUICK)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarl_jax" / "xla"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # a read-only home, or none: training works, it only compiles anew each time
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def import_modules() -> None:
    """Imports what ``--import`` names; after `prepare_jax`, and after the processes of a job have met.

    Raises:
        UserError: there is no such module.
    """
    with user_errors():
        modules = user_modules.find()
    user_modules.load(modules)


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Prints what Python could not raise, but not what tensorstore's threads say after a read or a write has failed.

    A signal's exception cannot be raised where it arrives in a destructor: a run has noted the signal and stops soon,
    and every other script ends here. orbax raises the first failure and closes its event loop; every other read or
    write that was under way then finds the loop closed, and prints a traceback of that.
    """
    if isinstance(unraisable.exc_value, RunStopped):
        return
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        startup.end(signal.SIGINT)
    if unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed":
        return
    sys.__unraisablehook__(unraisable)
