"""Opening paths that may lead anywhere: regular files inside a given folder, folders that are no links."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nnguide_core.errors import ImageError
from nnguide_core.paths.boundaries import lies_in

__all__ = ["open_folder", "open_regular", "read_regular"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_OPEN_FILES = Path("/proc/self/fd")  # on Linux: where each open file really lies


def open_regular(path: Path, *, within: Path | None = None) -> BinaryIO:
    """Open a regular file for reading; pipes and devices are never opened, nothing ever blocks.

    Args:
        path: may be a link.
        within: a resolved folder in which the file must lie once every link is followed (boundaries.lies_in),
            or the resolved path itself, where no link may be followed.

    Raises:
        ImageError: no regular file, not there, not readable, or outside. A link that leads out gives the
            same reason whether or not anything is there.
    """
    try:
        real = _real(path)
        _check_inside(real, within)
        _check_regular(real.stat())
        handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(_why(error)) from error
    file = os.fdopen(handle, "rb")
    try:
        # Between the look and the opening, someone may have put another file or link there.
        _check_regular(os.fstat(handle))
        if _OPEN_FILES.exists():
            _check_inside((_OPEN_FILES / str(handle)).readlink(), within)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, most: int, *, within: Path | None = None) -> bytes:
    """Return a regular file's bytes, at most so many.

    Raises:
        ImageError: as open_regular, or the file is larger.
    """
    with open_regular(path, within=within) as file:
        _check_size(os.fstat(file.fileno()).st_size, most)
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise ImageError(_why(error)) from error
    _check_size(len(data), most)  # it may have grown
    return data


@contextmanager
def open_folder(path: str) -> Iterator[int]:
    """Open the folder at a resolved path, for os.scandir; no link on the way is followed.

    Raises:
        OSError: no folder, not readable, or a part of its path has become a link.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        opened = _OPEN_FILES / str(handle)
        if str(opened.readlink() if opened.exists() else _real(Path(path))) != path:
            raise OSError(errno.ELOOP, "A link was put in its place")
        yield handle
    finally:
        os.close(handle)


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise ImageError("Not a file: no file has a zero byte in its name.") from error


def _check_inside(real: Path, within: Path | None) -> None:
    if within is not None and not lies_in(real, within):
        raise ImageError("Link leads out: what it points to lies outside the dataset's folder.")


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something unknown")
        raise ImageError(f"Not a file: this is {kind}.")


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ImageError(f"Too large: {size:,} bytes; at most {most:,} are read.")


def _why(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "Not a file: nothing is there, or it is a link to nowhere."
        case errno.ELOOP:
            return "Not a file: this is a link that cannot be followed."
        case errno.EACCES | errno.EPERM:
            return "Not readable: permission was denied."
        case errno.ENAMETOOLONG:
            return "Not readable: its path is too long for this system."
    return f"Not readable: {error.strerror or 'the system gave no reason'}."
