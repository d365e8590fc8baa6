"""UMAP's graph and layout: from distances to neighbours, to places on a plane.

The layout's inner loop is umap-learn's own, compiled so that other threads keep running meanwhile, and the
loop over epochs is here so that it can be watched and stopped. Source: McInnes, Healy, Melville, UMAP,
arXiv 1802.03426.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Edges",
    "lay_out",
    "memberships",
    "pca_start",
    "query_edges",
    "shape_of_curve",
    "united_edges",
    "weighted_start",
]

NEGATIVE_SAMPLES = 5  # points pushed away for each point pulled near, umap-learn's default
_SIZE = 10.0  # of the plane at the start
_SEARCH_STEPS = 64  # halvings of the interval that holds a row's scale
_SMALLEST_SCALE = 1e-3  # of the mean distance to the neighbours
# What the inner loop takes for densMAP, which is not used here.
_NO_DENSMAP = (
    False,
    *[np.zeros(1, dtype=np.float32)] * 2,
    0.0,
    0.0,
    0.0,
    0.0,
    *[np.zeros(1, dtype=np.float32)] * 2,
    0.0,
)

_Places = NDArray[np.float32]


@dataclass(frozen=True)
class Edges:
    """Which points pull each other, and how strongly."""

    heads: NDArray[np.int32]  # (E,) points that move
    tails: NDArray[np.int32]  # (E,) points that they are pulled to
    weights: NDArray[np.float64]  # (E,) in (0, 1], 1 = in every epoch

    def worth_sampling(self, epochs: int) -> "Edges":
        """Return the edges that are sampled at least once in so many epochs."""
        kept = self.weights >= 1.0 / epochs
        return Edges(self.heads[kept], self.tails[kept], self.weights[kept])


def memberships(
    distances: NDArray[np.float32], nearest: NDArray[np.float64], target: float, first: int = 0
) -> NDArray[np.float64]:
    """Return how far each neighbour belongs to each row, exp(-max(0, distance - nearest) / scale).

    The scale of a row makes its memberships add up to the target.

    Args:
        distances: to the neighbours, (R, k), nearest first.
        nearest: up to which distance a neighbour belongs entirely, (R,).
        target: what the memberships of a row add up to; log2 of the number of neighbours in UMAP.
        first: the first column that counts towards the target.

    Returns:
        (R, k) in [0, 1].
    """
    beyond = np.maximum(distances.astype(np.float64) - nearest[:, None], 0.0)
    low, high = np.zeros(len(beyond)), np.full(len(beyond), np.inf)
    scale = np.ones(len(beyond))
    for _ in range(_SEARCH_STEPS):
        too_much = _decay(beyond[:, first:], scale).sum(axis=1) > target
        high, low = np.where(too_much, scale, high), np.where(too_much, low, scale)
        scale = np.where(np.isinf(high), 2 * scale, (low + high) / 2)
    mean = distances.mean(axis=1, dtype=np.float64) if distances.size else np.zeros(len(beyond))
    return _decay(beyond, np.maximum(scale, _SMALLEST_SCALE * mean))


def united_edges(indices: NDArray[np.int64], belongs: NDArray[np.float64]) -> Edges:
    """Return the edges of a graph whose points are each other's neighbours: a + b - a * b both ways.

    Args:
        indices: the neighbours of each point, itself not among them, (R, k).
        belongs: their memberships, (R, k).
    """
    points, k = indices.shape
    keys = np.arange(points).repeat(k) * points + indices.ravel()
    reverse = indices.ravel() * points + np.arange(points).repeat(k)
    every, place = np.unique(np.concatenate([keys, reverse]), return_inverse=True)
    there, back = np.zeros(every.size), np.zeros(every.size)
    there[place[: keys.size]], back[place[keys.size :]] = belongs.ravel(), belongs.ravel()
    weights = there + back - there * back
    largest = weights.max(initial=1e-300)
    heads, tails = np.divmod(every, points)
    return Edges(heads.astype(np.int32), tails.astype(np.int32), weights / largest)


def query_edges(indices: NDArray[np.int64], belongs: NDArray[np.float64]) -> Edges:
    """Return the edges from each query to its neighbours, weighted by membership.

    UMAP divides by the largest of all queries; not so here: a query's place depends on no other query.
    """
    heads = np.arange(len(indices), dtype=np.int32).repeat(indices.shape[1])
    return Edges(heads, indices.ravel().astype(np.int32), belongs.ravel())


def weighted_start(anchors: _Places, indices: NDArray[np.int64], belongs: NDArray[np.float64]) -> _Places:
    """Return the mean of each query's neighbours weighted by membership, (Q, 2); at a twin where it has one.

    Args:
        anchors: where the fitted rows lie, (N, 2).
        indices: each query's neighbours, nearest first, (Q, k).
        belongs: their memberships, (Q, k); 1 for a twin.
    """
    weights = belongs / belongs.sum(axis=1, keepdims=True)
    means = (anchors[indices] * weights[:, :, None]).sum(axis=1)
    return np.where(belongs[:, :1] == 1.0, anchors[indices[:, 0]], means).astype(np.float32)


def pca_start(rows: NDArray[np.float32], seed: int) -> _Places:
    """Return the two principal axes of R rows, stretched over the plane, (R, D) -> (R, 2).

    Seeded noise, a hundredth of a percent of the plane, parts equal rows.
    """
    from sklearn.decomposition import PCA

    axes = min(2, *rows.shape)
    places = np.zeros((len(rows), 2))
    if np.ptp(rows, axis=0).any():
        pca = PCA(axes, svd_solver="randomized", random_state=seed)
        places[:, :axes] = pca.fit_transform(rows)
    places -= places.min(axis=0)
    spans = places.max(axis=0)
    # An axis along which all rows are equal but for rounding has nothing to stretch.
    places *= np.where(spans > 1e-6, _SIZE / np.maximum(spans, 1e-6), 0.0)
    noise = np.random.default_rng(seed).normal(scale=1e-4 * _SIZE, size=places.shape)
    return (places + noise).astype(np.float32)


def lay_out(
    moving: _Places,
    anchors: _Places,
    edges: Edges,
    curve: tuple[float, float],
    epochs: int,
    rate: float,
    seeds: NDArray[np.int64],
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Move points in place, (R, 2), until edges are short and points that share none are apart.

    Args:
        moving: where the points start; each one's random numbers follow from its start and the seeds alone.
        anchors: what the tails of the edges name, (N, 2); the same array as moving where all points move.
        edges: between moving points and anchors.
        curve: a and b of the curve that UMAP draws its forces from.
        epochs: how many.
        rate: the learning rate at the start; it falls to 0.
        seeds: three numbers, (3,).
        on_epoch: called with the number of finished epochs; what it raises stops the layout.
    """
    edges = edges.worth_sampling(epochs)
    every = 1.0 / edges.weights
    next_pull, every_push = every.copy(), every / NEGATIVE_SAMPLES
    next_push = every_push.copy()
    states = seeds + moving[:, 0].astype(np.float64).view(np.int64)[:, None]
    inner_loop, speed = _inner_loop(), rate
    for epoch in range(epochs):
        inner_loop(
            moving, anchors, edges.heads, edges.tails, len(anchors), every, *curve, states, 1.0, 2,
            moving is anchors, speed, every_push, next_push, next_pull, epoch, *_NO_DENSMAP,
        )  # fmt: skip
        speed = rate * (1.0 - epoch / epochs)
        if on_epoch is not None:
            on_epoch(epoch + 1)


@cache
def shape_of_curve(min_dist: float) -> tuple[float, float]:
    """Return a and b of UMAP's curve 1 / (1 + a * d ** (2 * b)) for this smallest distance on the map."""
    from umap.umap_ import find_ab_params

    a, b = find_ab_params(1.0, min_dist)
    return float(a), float(b)


def _decay(beyond: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        decayed: NDArray[np.float64] = np.exp(-np.where(beyond > 0, beyond / scale[:, None], 0.0))
    return decayed


@cache
def _inner_loop() -> Callable[..., Any]:
    import numba
    from umap.layouts import _optimize_layout_euclidean_single_epoch as one_epoch

    compiled: Callable[..., Any] = numba.njit(one_epoch, fastmath=True, nogil=True, cache=True)
    return compiled
