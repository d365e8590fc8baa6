"""From where an image lies to its checked bytes; what worker processes run, so it imports no torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from nnguide_core.archives import read_member
from nnguide_core.errors import ArchiveError, ImageError
from nnguide_core.images import untrusted
from nnguide_core.paths.locations import path_at
from nnguide_core.paths.regular_files import read_regular

__all__ = ["Checked", "check", "check_at", "read", "why_gone"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of an image once it has been decoded in full."""

    id: str  # SHA-256 of its bytes, 64 hex digits
    look: str  # 32 hex digits, untrusted.look


def check(data: bytes) -> Checked:
    """Decode an image in full and return its id and look.

    Raises:
        ImageError: the bytes are no readable image.
    """
    return Checked(untrusted.image_id(data), untrusted.look(untrusted.decode(data)))


def check_at(location: str, root: Path) -> Checked:
    """Read and decode the image at a place in a dataset's root.

    Raises:
        ImageError: not readable, or no image.
    """
    return check(read(root, location))


def read(root: Path, location: str) -> bytes:
    """Return the bytes at a place in a dataset's root, a folder or a zip.

    Raises:
        ImageError: no regular file inside the folder, damaged in the zip, over the size limit, or gone.
    """
    try:
        is_folder = root.is_dir()
    except OSError as error:  # a mount that is lost
        raise ImageError(f"Not readable: {root} is gone ({error.strerror}).") from error
    if is_folder:
        return read_regular(root / path_at(location), untrusted.LIMITS.bytes, within=root)
    try:
        return read_member(root, location, untrusted.LIMITS.bytes)
    except ArchiveError as error:
        raise ImageError(f"Zip gone: {error}") from error


def why_gone(root: Path) -> str | None:
    """Return why nothing of a dataset's root can be read any more; None where something is there."""
    try:
        if not root.is_dir():
            return None if root.stat().st_size else "it is empty"
        with os.scandir(root) as entries:
            return None if any(entries) else "the folder is empty"  # what a lost mount leaves
    except OSError as error:
        return error.strerror or type(error).__name__
