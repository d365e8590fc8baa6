"""Small disks to fill."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of a few megabytes on a folder; skip the test where that is not permitted."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    place, kind = os.fsencode(folder), b"tmpfs"
    if libc.mount(kind, place, kind, 0, f"size={megabytes}m".encode()) != 0:
        pytest.skip(f"this user may not mount a small disk: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        libc.umount2(place, 2)  # also while something in it is still open
