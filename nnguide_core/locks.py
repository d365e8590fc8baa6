"""Locks between processes and threads: one builds, the others wait; a killed holder lets go."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nnguide_core.errors import CancelledError
from nnguide_core.progress import Cancelled

__all__ = ["is_locked", "locked"]

_PAUSE = 0.05  # seconds between two tries


@contextlib.contextmanager
def locked(path: Path, *, cancelled: Cancelled | None = None) -> Iterator[None]:
    """Hold the lock that a file's name stands for while the block runs; wait for it first.

    Args:
        path: the lock file, in an existing folder; it is there only while someone holds or wants the lock.
        cancelled: asked while waiting; once true, the wait ends.

    Raises:
        CancelledError: the wait was given up.
    """
    while (handle := _try(path)) is None:
        if cancelled is not None and cancelled():
            raise CancelledError("Stopped while waiting for another process that does the same work.")
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether any process or thread holds the lock now."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _try(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder before may have removed the file between our opening and locking it.
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(handle)
        raise
    os.close(handle)
    return None
