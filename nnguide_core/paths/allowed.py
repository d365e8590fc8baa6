"""Paths that someone typed into a page: allowed under an allowed root and outside the workspace."""

import logging
import os
from pathlib import Path

from nnguide_core.errors import DatasetError, ForbiddenPathError
from nnguide_core.names import visible
from nnguide_core.paths.boundaries import lies_in, readable_roots
from nnguide_core.paths.folders import is_litter
from nnguide_core.settings import data_roots, workspace_home

__all__ = ["allowed_path", "still_allowed"]

_LOG = logging.getLogger(__name__)


def allowed_path(text: str) -> Path:
    """Return a typed path, resolved, if it lies under an allowed root (settings.data_roots).

    The workspace is never allowed, nor a folder whose scan would find it: it holds what others uploaded.

    Raises:
        ForbiddenPathError: it does not, in the same words whether or not anything is there.
        DatasetError: it does, but nothing is there.
    """
    typed = Path(text.strip())
    if typed.parts[:1] == ("~",):
        typed = Path.home().joinpath(*typed.parts[1:])
    path = _resolved(typed)
    if path is None or not _is_allowed(path):
        raise _forbidden(text)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
        raise DatasetError(f"There is nothing at {visible(str(path))}.")
    return path


def still_allowed(path: Path) -> Path:
    """Return a path that allowed_path gave, after the same check made anew: a job may run much later.

    Raises:
        ForbiddenPathError: it is no longer allowed, or a link put there since leads elsewhere.
    """
    if _resolved(path) != path or not _is_allowed(path):
        raise _forbidden(str(path))
    return path


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        return None


def _is_allowed(path: Path) -> bool:
    return any(lies_in(path, root) for root in readable_roots()) and not _shows_workspace(path)


def _shows_workspace(path: Path) -> bool:
    """Return whether the scan of a folder would come upon the workspace."""
    home = workspace_home()
    return home.exists() and home.is_relative_to(path) and not is_litter(str(home.relative_to(path)))


def _forbidden(text: str) -> ForbiddenPathError:
    _LOG.info("refused a typed path: %s", text)
    places = ", ".join(map(str, data_roots()))
    return ForbiddenPathError(f"This path is not in a folder that may be read here. Allowed: {places}.")
