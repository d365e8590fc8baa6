"""Which points lie inside an outline: by the even-odd rule, each edge against the points at its height."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["points_inside"]


def points_inside(
    polygon: NDArray[np.floating[Any]], positions: NDArray[np.floating[Any]]
) -> NDArray[np.bool_]:
    """Return which of N positions lie inside a closed polygon, (P, 2), (N, 2) -> (N,) bool.

    A point is inside when a ray from it to the right crosses the outline an odd number of times, so the
    overlap of a lasso with itself is outside. Points exactly on the outline may count either way.
    """
    corners = polygon.astype(positions.dtype)
    near = _in_box(corners, positions)
    near = near[np.argsort(positions[near, 1])]
    x, y = positions[near].T
    odd = np.zeros(len(near), dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        start, stop = np.searchsorted(y, np.sort(np.stack([y1, y2])), side="right")
        if stop > start:
            odd[start:stop] ^= x[start:stop] < x1 + (y[start:stop] - y1) * ((x2 - x1) / (y2 - y1))
    inside = np.zeros(len(positions), dtype=bool)
    inside[near[odd]] = True
    return inside


def _in_box(corners: NDArray[np.floating[Any]], positions: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """Return the rows of the positions in the box around the corners."""
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    x, y = positions.T
    return np.flatnonzero((x >= left) & (x <= right) & (y >= bottom) & (y <= top))
