"""The files that runs write and read: plain ones, each written whole or not at all.

Whoever can write in a folder can leave a link or a pipe there under any name. No link is followed, since what it leads
to is not the run's, and nothing is opened that waits for another process: both are refused by name.
"""

import contextlib
import errno
import fnmatch
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a file",
}


def _mode(path: Path) -> int | None:
    """Kind of what is there itself, be it a link; None: nothing is."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def there(path: Path, *, folder: bool = False) -> bool:
    """Whether there is a file, or a folder.

    Raises:
        OSError: there is something else, such as a link to one.
    """
    found, wanted = _mode(path), stat.S_IFDIR if folder else stat.S_IFREG
    if found not in (None, wanted):
        raise OSError(errno.EINVAL, f"it is {_KINDS[found]}, and not {_KINDS[wanted]}", str(path))
    return found is not None


def own(folder: Path, names: Sequence[str], folders: Sequence[str]) -> None:
    """Refuses whatever in a folder has a name of ours and is not of our kind.

    Args:
        folder: which may not be there yet.
        names: of files, as patterns.
        folders: likewise.

    Raises:
        OSError: something is not.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        for patterns, is_folder in ((names, False), (folders, True)):
            if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns):
                there(path, folder=is_folder)


def plain(folder: Path) -> None:
    """Refuses what is neither a file nor a folder, however deep below a folder.

    Raises:
        OSError: something is not, such as a link.
    """
    # Another process may remove some.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                plain(folder / entry.name)
            elif not entry.is_file(follow_symlinks=False):
                there(folder / entry.name)


def opened(path: Path, mode: str = "r", **options: Any) -> IO[Any]:
    """As `open`, in UTF-8, of a file that is one; "x" makes a new one, "a" appends.

    Raises:
        OSError: as `open`, or there is something else under that name.
    """

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a file", name)
        return descriptor

    there(path)
    return open(path, mode, encoding=None if "b" in mode else "utf-8", opener=opener, **options)


def read(path: Path, errors: str = "strict") -> str:
    """The text of a file.

    Raises:
        ValueError: it is no text in UTF-8.
        OSError: it cannot be read, or is no file.
    """
    with opened(path, errors=errors) as file:
        return file.read()


@contextlib.contextmanager
def whole(path: Path, mode: str = "x") -> Iterator[IO[Any]]:
    """A file to write, which takes its name at the end: who reads sees the one before or the new one.

    Until then it lies beside it as a new file ``NAME.tmp``; what a killed process left under that name is removed, and
    if it was a link, not what it leads to.

    Args:
        path: of the file.
        mode: "x" for text in UTF-8, "xb" for bytes.

    Raises:
        OSError: it cannot be written, or there is something else under its name, which stays as it was.
    """
    there(path)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with opened(temporary, mode, **({} if "b" in mode else {"newline": ""})) as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write(path: Path, text: str) -> None:
    """Writes a text, as `whole` does."""
    with whole(path) as file:
        file.write(text)


def save(figure: "Figure", path: Path) -> None:
    """Writes a picture as PNG, as `whole` does."""
    with whole(path, "xb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in letters that the font does not have
        figure.savefig(file, format="png")
