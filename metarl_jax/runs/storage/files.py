"""Reading and atomic writing of the files of runs.

Another user with write access to a folder can place a link or a pipe there under any name. Links are not followed,
since their targets do not belong to the run, and pipes, which could block, are not opened: both raise an OSError.
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
    """File type of `path`, without following links; None if it does not exist."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def there(path: Path, *, folder: bool = False) -> bool:
    """Whether the file, or the folder, exists.

    Raises:
        OSError: it exists but is of another type, such as a link.
    """
    actual, expected = _mode(path), stat.S_IFDIR if folder else stat.S_IFREG
    if actual not in (None, expected):
        raise OSError(errno.EINVAL, f"it is {_KINDS[actual]}, and not {_KINDS[expected]}", str(path))
    return actual is not None


def own(folder: Path, names: Sequence[str], folders: Sequence[str]) -> None:
    """Checks that entries of a folder with names of a run's files and folders are files and folders, not links.

    Args:
        folder: may not exist yet.
        names: patterns of file names.
        folders: patterns of folder names.

    Raises:
        OSError: an entry is of another type.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        for patterns, is_folder in ((names, False), (folders, True)):
            if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns):
                there(path, folder=is_folder)


def plain(folder: Path) -> None:
    """Checks recursively that a folder contains only files and folders.

    Raises:
        OSError: an entry is of another type, such as a link.
    """
    # Another process may remove entries in the meantime.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                plain(folder / entry.name)
            elif not entry.is_file(follow_symlinks=False):
                there(folder / entry.name)


def opened(path: Path, mode: str = "r", **options: Any) -> IO[Any]:
    """As `open`, in UTF-8, for regular files only; "x" creates a new file, "a" appends.

    Raises:
        OSError: as `open`, or it is not a regular file.
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
        ValueError: it is not UTF-8 text.
        OSError: it cannot be read, or is not a regular file.
    """
    with opened(path, errors=errors) as file:
        return file.read()


@contextlib.contextmanager
def whole(path: Path, mode: str = "x") -> Iterator[IO[Any]]:
    """Opens a file for atomic writing: readers see either the old or the new content.

    The content goes to a new file ``NAME.tmp`` in the same folder, which is renamed at the end. A leftover ``NAME.tmp``
    of a killed process is removed; if it is a link, its target is not.

    Args:
        path: path of the file.
        mode: "x" for text in UTF-8, "xb" for bytes.

    Raises:
        OSError: it cannot be written, or `path` is not a regular file and is left unchanged.
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
    """Writes a text atomically."""
    with whole(path) as file:
        file.write(text)


def save(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG atomically."""
    with whole(path, "xb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name with characters that the font lacks
        figure.savefig(file, format="png")
