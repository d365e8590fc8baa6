"""Where paths that a list or a features file names really lie, each folder on the way looked at once."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nnguide_core.paths.boundaries import lies_in
from nnguide_core.settings import workspace_home

__all__ = ["Place", "Places"]

_LONGEST = 4_096  # characters, Linux's own limit
_REMEMBERED = 50_000  # folders
_NO_NAMES = ("", ".", "..")
_SLASHES = re.compile("//+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path lies: in which of the folders that may be read, and where in it."""

    root: Path | None  # None where it lies in none of them, or in the workspace
    path: str  # relative to the root, "" where there is none


class Places:
    """Finds the places of many paths.

    Args:
        start: the folder that relative paths start from.
        roots: resolved folders that may be read; the first that holds a path is its root.
    """

    def __init__(self, start: Path, roots: Sequence[Path]) -> None:
        self._start, self._roots, self._home = str(start), roots, workspace_home()
        self._folder = lru_cache(_REMEMBERED)(self._find)

    def find(self, path: str) -> Place:
        """Return the place of a path: links on the way are followed, the last part is not.

        Raises:
            ValueError: no file can have this path; the message is a reason to show.
        """
        if "\0" in path:
            raise ValueError("Bad path: it holds a zero byte.")
        if len(path) > _LONGEST:
            raise ValueError(f"Bad path: it has {len(path):,} characters; at most {_LONGEST:,} can be.")
        full = os.path.join(self._start, path).rstrip("/")  # noqa: PTH118 - a hundred thousand of them a second
        if "//" in full:
            # Several slashes mean one, but after a circle of links realpath starts again at "/" with them.
            full = _SLASHES.sub("/", full)
        folder, name = os.path.split(full)
        if name in _NO_NAMES:
            folder, name = os.path.split(os.path.realpath(full or "/"))
        root, prefix = self._folder(folder)
        return Place(root, prefix + name if root is not None else "")

    def _find(self, folder: str) -> tuple[Path | None, str]:
        """Return the root that holds a folder, and the folder as what paths in it begin with."""
        real = Path(os.path.realpath(folder))
        root = next((root for root in self._roots if lies_in(real, root, self._home)), None)
        if root is None or real == root:
            return root, ""
        return root, f"{real.relative_to(root)}/"
