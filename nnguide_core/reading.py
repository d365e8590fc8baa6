"""From where an image lies to its checked bytes; what worker processes run, so it imports no torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from nnguide_core import images
from nnguide_core.archives import read_member
from nnguide_core.errors import ArchiveError, ImageError
from nnguide_core.regular_files import read_regular

__all__ = ["Checked", "check", "check_at", "location_of", "path_at", "read"]

_RAW = "/"  # starts a location that is hexadecimal: a name whose bytes are no text


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of an image once it has been decoded in full."""

    id: str  # SHA-256 of its bytes, 64 hex digits
    look: str  # 32 hex digits, images.look


def check(data: bytes) -> Checked:
    """Decode an image in full and return its id and look.

    Raises:
        ImageError: the bytes are no readable image.
    """
    return Checked(images.image_id(data), images.look(images.decode(data)))


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
    if root.is_dir():
        return read_regular(root / path_at(location), images.LIMITS.bytes, within=root)
    try:
        return read_member(root, location, images.LIMITS.bytes)
    except ArchiveError as error:
        raise ImageError(f"Zip gone: {error}") from error


def location_of(path: str) -> str:
    """Return a relative path as a location: itself, or its bytes in hexadecimal where they are no UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _RAW + os.fsencode(path).hex()
    return path


def path_at(location: str) -> str:
    """Return the relative path that location_of was given."""
    return os.fsdecode(bytes.fromhex(location[1:])) if location.startswith(_RAW) else location
