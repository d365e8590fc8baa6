"""What a map shows and hides: which true neighbours are near on it, and how many points lie where."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Agreement", "Density", "density", "neighbour_agreement"]

WITHIN = 5  # times k: among so many nearest points on the map a true neighbour counts as near
DEFAULT_CELLS = 256
_BLOCK = 2**14  # queries looked at together

_Edges = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Which of the k true neighbours of each of Q queries also lie near it on the map.

    A true neighbour is near if it is at most as far from the query, on the map, as the bank row that is the
    `within`-th nearest on the map.
    """

    near: Tensor  # (Q, k) bool, in the order of the neighbours
    placed: Tensor  # (Q,) bool, whether the query has a place on the map
    within: int

    @property
    def elsewhere(self) -> Tensor:
        """How many true neighbours lie elsewhere on the map, (Q,) int64; all of a query without a place."""
        return (~self.near).sum(dim=1)

    @property
    def share(self) -> Tensor:
        """Share of the true neighbours that are near on the map, (Q,) float32; NaN without a place."""
        return self.near.float().mean(dim=1).where(self.placed, torch.nan)


@dataclass(frozen=True)
class Density:
    """How many points of G groups lie in each cell of a grid over the map."""

    x_edges: _Edges  # (W + 1,) ascending
    y_edges: _Edges  # (H + 1,) ascending
    groups: tuple[str, ...]  # G names
    counts: NDArray[np.int64]  # (G, H, W), the first row at the smallest y
    outside: NDArray[np.int64]  # (G,) points outside the grid or without a place


def neighbour_agreement(
    bank_positions: Tensor, query_positions: Tensor, indices: Tensor, within: int | None = None
) -> Agreement:
    """Return which true neighbours of each query are among the nearest bank rows on the map, too.

    Args:
        bank_positions: where the bank rows lie, (N, 2); NaN for a row without a place, which is never near.
        query_positions: where the queries lie, (Q, 2); NaN for a query without a place.
        indices: the true neighbours, rows of the bank, (Q, k).
        within: how many of the nearest bank rows on the map count as near; 5 * k by default, at most all.

    Raises:
        ValueError: within is below 1.
    """
    from sklearn.neighbors import KDTree

    if within is not None and within < 1:
        raise ValueError(f"At least 1 bank row must count as near, got {within}.")
    bank, queries = _as_array(bank_positions), _as_array(query_positions)
    true_rows = indices.cpu().numpy()
    on_map, placed = np.flatnonzero(np.isfinite(bank).all(axis=1)), np.isfinite(queries).all(axis=1)
    within = min(WITHIN * indices.shape[1] if within is None else within, on_map.size)
    near = np.zeros(indices.shape, dtype=bool)
    tree = KDTree(bank[on_map]) if within else None
    for rows in np.array_split(np.flatnonzero(placed), 1 + placed.size // _BLOCK):
        if tree is not None and rows.size:
            nearest = on_map[tree.query(queries[rows], within, return_distance=False, sort_results=False)]
            reach = _squares(queries[rows], bank[nearest]).max(axis=1)
            # NaN, the distance to a row without a place, is not within any reach.
            near[rows] = _squares(queries[rows], bank[true_rows[rows]]) <= reach[:, None]
    return Agreement(torch.from_numpy(near), torch.from_numpy(placed), within)


def density(
    groups: Mapping[str, Tensor],
    cells: int = DEFAULT_CELLS,
    bounds: tuple[float, float, float, float] | None = None,
) -> Density:
    """Return how many points of each group lie in each of cells * cells equal cells.

    A cell holds its lower and left edges; the last row and column also hold the outermost edges.

    Args:
        groups: name -> positions, (N_g, 2); NaN for a point without a place.
        cells: along each axis.
        bounds: x from, x to, y from, y to; by default those of all points.

    Raises:
        ValueError: fewer than one cell, or bounds that are not ascending.
    """
    if cells < 1:
        raise ValueError(f"A grid needs at least one cell along each axis, got {cells}.")
    points = {name: _as_array(positions) for name, positions in groups.items()}
    left, right, bottom, top = bounds if bounds is not None else _bounds_of(points)
    if not (left < right and bottom < top):
        raise ValueError(f"The bounds must be x from, x to, y from, y to, ascending, got {bounds}.")
    x_edges, y_edges = np.linspace(left, right, cells + 1), np.linspace(bottom, top, cells + 1)
    counts = np.zeros((len(points), cells, cells), dtype=np.int64)
    for number, positions in enumerate(points.values()):
        counts[number] = _count(positions, x_edges, y_edges)
    sizes = np.array([len(positions) for positions in points.values()], dtype=np.int64)
    return Density(x_edges, y_edges, tuple(points), counts, sizes - counts.sum(axis=(1, 2)))


def _count(positions: _Edges, x_edges: _Edges, y_edges: _Edges) -> NDArray[np.int64]:
    cells = x_edges.size - 1
    columns, rows = _cell(positions[:, 0], x_edges), _cell(positions[:, 1], y_edges)
    inside = (columns >= 0) & (rows >= 0)
    flat = np.bincount(rows[inside] * cells + columns[inside], minlength=cells * cells)
    return flat.reshape(cells, cells)


def _cell(values: _Edges, edges: _Edges) -> NDArray[np.int64]:
    """Return the cell along one axis that holds each value, -1 if none does, (N,)."""
    cells = edges.size - 1
    inside = (values >= edges[0]) & (values <= edges[-1])
    guess = (np.where(inside, values, edges[0]) - edges[0]) * (cells / (edges[-1] - edges[0]))
    cell = np.minimum(guess.astype(np.int64), cells - 1)
    # Rounding can put a value on an edge into the cell beside its own.
    cell -= values < edges[cell]
    cell += (values >= edges[cell + 1]) & (cell < cells - 1)
    return np.where(inside, cell, -1)


def _bounds_of(points: Mapping[str, _Edges]) -> tuple[float, float, float, float]:
    every = np.concatenate([*points.values(), np.empty((0, 2))])
    every = every[np.isfinite(every).all(axis=1)]
    low, high = (every.min(axis=0), every.max(axis=0)) if len(every) else (np.zeros(2), np.zeros(2))
    flat = high <= low
    low, high = low - 0.5 * flat, high + 0.5 * flat
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _squares(queries: _Edges, points: _Edges) -> _Edges:
    """Return the squared distances from each query to its own points, (Q, 2) and (Q, k, 2) -> (Q, k)."""
    squares: _Edges = np.square(points - queries[:, None]).sum(axis=2)
    return squares


def _as_array(positions: Tensor) -> _Edges:
    return positions.detach().cpu().double().numpy()
