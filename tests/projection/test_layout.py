"""UMAP's graph and layout against umap-learn's own."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from numpy.typing import NDArray

from nnguide_core.projection import layout
from nnguide_core.projection.layout import Edges

# One worker pays for importing umap-learn and for its compilation.
pytestmark = pytest.mark.xdist_group("umap")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def nearest_others(points: NDArray[Any], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    indices = np.argsort(distances + np.diag(np.full(len(points), np.inf)), axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(distances, indices, axis=1).astype(np.float32)


def closest_above_zero(distances: NDArray[Any]) -> NDArray[np.float64]:
    closest: NDArray[np.float64] = np.where(distances > 0, distances, np.inf).min(axis=1).astype(np.float64)
    return closest


def test_the_graph_is_umap_s(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    import umap.umap_

    # Interpreted, these two give the same without some seconds of compilation.
    for name in ("smooth_knn_dist", "compute_membership_strengths"):
        monkeypatch.setattr(umap.umap_, name, getattr(umap.umap_, name).py_func)
    points = np.concatenate([rng.normal(size=(40, 3)), rng.normal(8, 3, size=(20, 3))])
    indices, distances = nearest_others(points, 9)
    itself = np.arange(60)[:, None]
    expected, _, _ = umap.umap_.fuzzy_simplicial_set(
        points,
        10,
        np.random.RandomState(0),
        "euclidean",
        knn_indices=np.hstack([itself, indices]),
        knn_dists=np.hstack([np.zeros((60, 1)), distances]),
    )
    belongs = layout.memberships(distances, closest_above_zero(distances), np.log2(10))
    edges = layout.united_edges(indices, belongs)
    found = scipy.sparse.coo_matrix((edges.weights, (edges.heads, edges.tails)), shape=(60, 60))
    np.testing.assert_allclose(found.toarray(), expected.toarray() / expected.max(), atol=1e-4)


def test_memberships_of_queries_are_umap_s(rng: np.random.Generator) -> None:
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    distances = np.sort(rng.uniform(0.1, 2, size=(30, 10)), axis=1).astype(np.float32)
    scales, nearest = smooth_knn_dist.py_func(distances, 10.0, local_connectivity=0.0)
    rows = np.arange(300).reshape(30, 10)
    expected = compute_membership_strengths.py_func(rows, distances, scales, nearest, bipartite=True)[2]
    found = layout.memberships(distances, np.zeros(30), np.log2(10), first=1)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)


def test_the_layout_is_umap_s_to_the_bit(rng: np.random.Generator) -> None:
    from umap.layouts import optimize_layout_euclidean

    start = rng.uniform(0, 10, size=(50, 2)).astype(np.float32)
    indices, distances = nearest_others(start, 6)
    belongs = layout.memberships(distances, closest_above_zero(distances), np.log2(7))
    edges = layout.united_edges(indices, belongs).worth_sampling(30)
    seeds = rng.integers(-(2**31), 2**31, size=3)
    expected = start.copy()
    optimize_layout_euclidean(
        expected,
        expected,
        edges.heads,
        edges.tails,
        30,
        50,
        1 / edges.weights,
        1.5,
        0.9,
        seeds,
        move_other=True,
    )
    found = start.copy()
    epochs: list[int] = []
    layout.lay_out(found, found, edges, (1.5, 0.9), 30, 1.0, seeds, epochs.append)
    assert np.abs(found - start).max() > 0.1
    assert found.tolist() == expected.tolist()
    assert epochs == list(range(1, 31))


def test_anchors_stay_where_they_are(rng: np.random.Generator) -> None:
    anchors = rng.uniform(0, 10, size=(20, 2)).astype(np.float32)
    moving, before = anchors[:5] + 1, anchors.copy()
    edges = layout.query_edges(np.tile([0, 1, 2], (5, 1)), np.ones((5, 3)))
    layout.lay_out(moving, anchors, edges, (1.5, 0.9), 20, 1.0, np.array([1, 2, 3]))
    assert anchors.tolist() == before.tolist()
    assert np.abs(moving - before[:5] - 1).max() > 0.01


def test_the_curve_is_umap_s_for_its_default_distance() -> None:
    assert layout.shape_of_curve(0.1) == pytest.approx((1.577, 0.895), abs=1e-3)


def test_memberships_add_up_to_their_target(rng: np.random.Generator) -> None:
    distances = np.sort(rng.exponential(size=(200, 12)), axis=1).astype(np.float32)
    found = layout.memberships(distances, distances[:, 0].astype(np.float64), target=3.0)
    np.testing.assert_allclose(found.sum(axis=1), 3.0, atol=1e-6)
    assert found[:, 0].tolist() == [1.0] * 200


def test_neighbours_at_no_distance_belong_entirely() -> None:
    found = layout.memberships(np.zeros((2, 5), dtype=np.float32), np.zeros(2), target=2.0)
    assert found.tolist() == [[1.0] * 5] * 2


def test_edges_that_are_never_sampled_are_left_out() -> None:
    edges = Edges(np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32), np.array([1.0, 0.1, 0.09]))
    assert edges.worth_sampling(10).weights.tolist() == [1.0, 0.1]


def test_a_query_starts_at_its_twin_else_at_the_mean_of_its_neighbours() -> None:
    anchors = np.array([[0, 0], [4, 0], [0, 8]], dtype=np.float32)
    start = layout.weighted_start(anchors, np.array([[1, 0], [1, 2]]), np.array([[1.0, 0.5], [0.75, 0.25]]))
    assert start.tolist() == [[4, 0], [3, 2]]


@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (3, 1), (5, 3)])
def test_equal_rows_start_apart_but_close(shape: tuple[int, int]) -> None:
    start = layout.pca_start(np.ones(shape, dtype=np.float32), seed=0)
    assert start.shape == (shape[0], 2)
    assert len({tuple(place) for place in start.tolist()}) == shape[0]
    assert np.abs(start).max() < 0.01


def test_the_start_shows_the_widest_direction_first(rng: np.random.Generator) -> None:
    rows = (rng.normal(size=(100, 5)) * [1, 1, 9, 1, 4]).astype(np.float32)
    start = layout.pca_start(rows, seed=0)
    assert abs(np.corrcoef(start[:, 0], rows[:, 2])[0, 1]) > 0.98
    assert abs(np.corrcoef(start[:, 1], rows[:, 4])[0, 1]) > 0.95
    np.testing.assert_allclose(np.ptp(start, axis=0), 10, atol=0.02)
