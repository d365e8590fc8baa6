"""Every file below a folder, in a fixed order, links to folders not followed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnguide_core.paths.boundaries import lies_in
from nnguide_core.paths.locations import location_of
from nnguide_core.paths.regular_files import open_folder

__all__ = ["Found", "is_litter", "walk", "written"]

_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # what systems leave in folders and zips, in lower case


@dataclass(frozen=True, slots=True)
class Found:
    """One thing in a folder that is no folder, or a folder that cannot be entered, with the reason."""

    path: str  # as shown: "/" between parts, always encodable as UTF-8
    location: str  # for reading.read
    reason: str | None = None


def walk(root: Path) -> list[Found]:
    """Return everything found below a resolved folder, sorted by path, character by character.

    Hidden files and folders (a dot first) and what systems leave behind (Thumbs.db, desktop.ini, __MACOSX)
    do not count as found. Pipes, devices and broken links do: reading them gives the reason.

    Raises:
        OSError: the folder itself cannot be listed, or has become a link.
    """
    with open_folder(str(root)):
        pass
    return sorted(_walk(str(root)), key=lambda found: found.path)


def is_litter(path: str) -> bool:
    """Return whether any part of a relative path is hidden or left behind by a system."""
    return any(
        (part.startswith(".") and part not in (".", "..")) or part.lower() in _LITTER
        for part in path.split("/")
    )


def written(path: str) -> str:
    """Return a path as text: bytes of its name that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _walk(root: str) -> Iterator[Found]:
    folders = [""]
    while folders:
        inside = folders.pop()
        try:
            with open_folder(_joined(root, inside)) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    path = _joined(inside, entry.name)
                    if is_litter(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    else:
                        yield Found(
                            written(path), location_of(path), _refusal(entry, _joined(root, path), root)
                        )
        except OSError as error:
            yield Found(written(inside), location_of(inside), f"Not readable: {error.strerror}.")


def _joined(folder: str, name: str) -> str:
    return f"{folder.removesuffix('/')}/{name}" if folder and name else folder or name


def _refusal(entry: os.DirEntry[str], path: str, root: str) -> str | None:
    if not entry.is_symlink():
        return None
    real = Path(os.path.realpath(path))
    # Outside the folder, not even whether it is a folder is looked at.
    return (
        "Link to a folder: these are not followed." if lies_in(real, Path(root)) and real.is_dir() else None
    )
