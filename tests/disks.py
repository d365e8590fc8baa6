"""Small disks to fill."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_REMOUNT = 32


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of a few megabytes on a folder; skip the test where that is not permitted."""
    try:
        with mounted(folder, megabytes * 2**20) as place:
            yield place
    except PermissionError as error:
        pytest.skip(f"this user may not mount a small disk: {error.strerror}")


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes on a new folder; PermissionError where that is not permitted."""
    folder.mkdir()
    _mount(folder, 0, size)
    try:
        yield folder
    finally:
        _libc().umount2(os.fsencode(folder), 2)  # also while something in it is still open


def grow(folder: Path, size: int) -> None:
    """Let a mounted file system have so many bytes."""
    _mount(folder, _REMOUNT, size)


def _mount(folder: Path, flags: int, size: int) -> None:
    if _libc().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
