"""What a map shows and hides: which true neighbours are near on it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Agreement", "neighbour_agreement"]

WITHIN = 5  # times k: among so many nearest points on the map a true neighbour counts as near
_BLOCK = 2**14  # queries looked at together

_Edges = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Which of the k true neighbours of each of Q queries also lie near it on the map.

    A true neighbour is near if it is at most as far from the query, on the map, as the bank row that is the
    `within`-th nearest on the map.
    """

    near: Tensor  # (Q, k) bool, in the order of the neighbours
    placed: Tensor  # (Q,) bool, whether the query has neighbours and a place on the map
    within: int

    @property
    def share(self) -> Tensor:
        """Share of the true neighbours that are near on the map, (Q,) float32; NaN where there is none."""
        return self.near.float().mean(dim=1).where(self.placed, torch.nan)


def neighbour_agreement(
    bank_positions: Tensor, query_positions: Tensor, indices: Tensor, within: int | None = None
) -> Agreement:
    """Return which true neighbours of each query are among the nearest bank rows on the map, too.

    Args:
        bank_positions: where the bank rows lie, (N, 2); NaN for a row without a place, which is never near.
        query_positions: where the queries lie, (Q, 2); NaN for a query without a place.
        indices: the true neighbours, rows of the bank, (Q, k); -1 where a query has none.
        within: how many of the nearest bank rows on the map count as near; 5 * k by default, at most all.

    Raises:
        ValueError: within is below 1.
    """
    from sklearn.neighbors import KDTree

    if within is not None and within < 1:
        raise ValueError(f"At least 1 bank row must count as near, got {within}.")
    bank, queries = _as_array(bank_positions), _as_array(query_positions)
    true_rows = indices.cpu().numpy()
    on_map = np.flatnonzero(np.isfinite(bank).all(axis=1))
    placed = np.isfinite(queries).all(axis=1) & (true_rows >= 0).all(axis=1)
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


def _squares(queries: _Edges, points: _Edges) -> _Edges:
    """Return the squared distances from each query to its own points, (Q, 2) and (Q, k, 2) -> (Q, k)."""
    squares: _Edges = np.square(points - queries[:, None]).sum(axis=2)
    return squares


def _as_array(positions: Tensor) -> _Edges:
    return positions.detach().cpu().double().numpy()
