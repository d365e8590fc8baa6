"""What a zip holds as a dataset lists it, found out in a worker process and small enough to be sent."""

from pathlib import Path
from typing import BinaryIO

from nnguide_core.apart import Bounds, read_apart
from nnguide_core.archives.zips import inspect_open, open_zip
from nnguide_core.errors import ArchiveError
from nnguide_core.paths.folders import Found, is_litter
from nnguide_core.progress import Cancelled

__all__ = ["found_in"]

_BOUNDS = Bounds(memory=2**30, seconds=60.0)  # a directory of 64 MB takes 4 s and 400 MB

_Columns = tuple[list[str], list[str], list[str | None]]  # paths, locations, reasons


def found_in(path: Path, cancelled: Cancelled | None = None) -> list[Found]:
    """Return what lies in a zip at a resolved path, read in a worker process.

    Raises:
        ArchiveError: the zip is refused as a whole.
        CancelledError: cancelled returned True.
    """

    def refused(reason: str) -> ArchiveError:
        return ArchiveError(f"The zip cannot be read. {reason}")

    with open_zip(path) as file:
        columns = read_apart(_columns, file, bounds=_BOUNDS, refused=refused, cancelled=cancelled)
    return [Found(*row) for row in zip(*columns, strict=True)]


def _columns(file: BinaryIO) -> _Columns:
    """Return paths, locations and reasons; columns, because many small records are slow to receive."""
    archive = inspect_open(file)
    found = [(each.path, each.location, None) for each in archive.members if not is_litter(each.path)]
    refused = [
        (path, "", reason)
        for path, reason in archive.refused
        if not is_litter(path) or path in archive.unsafe
    ]
    rows = [*found, *refused]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
