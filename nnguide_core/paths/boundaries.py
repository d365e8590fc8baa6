"""The one rule for paths from outside: once resolved they lie in a folder, and never in the workspace."""

from pathlib import Path

from nnguide_core.settings import data_roots, workspace_home

__all__ = ["lies_in", "readable_roots"]


def lies_in(path: Path, folder: Path, home: Path | None = None) -> bool:
    """Return whether a resolved path may be read as a part of a resolved folder.

    The workspace, which holds what others uploaded, is a part of no folder around it. What lies in it is read
    only from a folder in it: the program itself names such folders, those of a session's uploads.

    Args:
        path: resolved.
        folder: resolved.
        home: the workspace, where settings.workspace_home was asked before.
    """
    if not path.is_relative_to(folder):
        return False
    home = workspace_home() if home is None else home
    return folder.is_relative_to(home) or not path.is_relative_to(home)


def readable_roots() -> tuple[Path, ...]:
    """Return the folders below which paths from outside may be read: settings.data_roots, no workspace."""
    home = workspace_home()
    return tuple(root for root in data_roots() if not root.is_relative_to(home))
