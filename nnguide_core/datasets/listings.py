"""What a list of images names, as found below its folder."""

from collections.abc import Sequence
from pathlib import Path

from nnguide_core.errors import CancelledError
from nnguide_core.paths.folders import Found, written
from nnguide_core.paths.listings import Listed
from nnguide_core.paths.locations import location_of
from nnguide_core.paths.places import Places
from nnguide_core.progress import Cancelled

__all__ = ["below"]

_LOOKS = 1_000  # at lines, between two questions whether to stop


def below(
    root: Path, listed: Sequence[Listed], cancelled: Cancelled | None = None
) -> list[tuple[Found, str | None]]:
    """Return each listed image as found below a resolved folder, with its label, sorted by path.

    What is listed twice, does not lie in the folder, or can be no path gets its reason.

    Raises:
        CancelledError: cancelled, asked now and then, returned True.
    """
    places, seen = Places(root, (root,)), set[str]()
    result = []
    for row, line in enumerate(sorted(listed, key=lambda each: each.path)):
        if cancelled is not None and row % _LOOKS == 0 and cancelled():
            raise CancelledError(f"Stopped after looking at {row:,} of {len(listed):,} lines.")
        found = _found(places, line.path)
        if found.reason is None and found.location in seen:
            found = Found(found.path, found.location, "Listed twice: an earlier line names it too.")
        seen.add(found.location)
        result.append((found, line.label))
    return result


def _found(places: Places, path: str) -> Found:
    try:
        place = places.find(path)
    except ValueError as error:
        return Found(written(path), "", str(error))
    if place.root is None:
        return Found(written(path), "", "Outside: it does not lie in the folder of the list.")
    return Found(written(place.path), location_of(place.path))
