"""Agreement of map and features against straight loops; densities count every point once."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from nnguide_core.projection.reading import density, neighbour_agreement
from tests import reference

# Whole numbers make many distances tie.
place = st.tuples(*[st.integers(-3, 3).map(float) | st.floats(-5, 5, width=32)] * 2)


@given(st.lists(place, min_size=1, max_size=25), st.lists(place, min_size=1, max_size=6), st.data())
@settings(deadline=None, max_examples=100)
def test_near_neighbours_are_those_of_loops(
    bank: list[tuple[float, float]], queries: list[tuple[float, float]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(bank)))
    within = data.draw(st.none() | st.integers(1, 30))
    indices = [data.draw(st.permutations(range(len(bank))))[:k] for _ in queries]
    found = neighbour_agreement(torch.tensor(bank), torch.tensor(queries), torch.tensor(indices), within)
    asked = min(within or 5 * k, len(bank))
    expected = [
        reference.near_on_map(bank, query, rows, asked) for query, rows in zip(queries, indices, strict=True)
    ]
    assert found.within == asked
    assert found.near.tolist() == expected
    assert found.elsewhere.tolist() == [k - sum(row) for row in expected]
    assert found.share.tolist() == pytest.approx([sum(row) / k for row in expected])


def test_many_queries_are_read_in_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(30, 2, generator=generator), torch.randn(40_000, 2, generator=generator)
    indices = torch.randint(0, 30, (40_000, 3), generator=generator)
    found = neighbour_agreement(bank, queries, indices, 10)
    for row in (0, 20_000, 39_999):
        expected = reference.near_on_map(
            bank.double().tolist(), tuple(queries[row].double().tolist()), indices[row].tolist(), 10
        )
        assert found.near[row].tolist() == expected


def test_points_without_a_place_agree_with_nothing() -> None:
    nowhere = [torch.nan, torch.nan]
    bank, queries = torch.tensor([[0.0, 0.0], nowhere, [9.0, 9.0]]), torch.tensor([[0.0, 0.0], nowhere])
    found = neighbour_agreement(bank, queries, torch.tensor([[0, 1, 2], [0, 1, 2]]), within=1)
    assert found.near.tolist() == [[True, False, False], [False, False, False]]
    assert found.share.isnan().tolist() == [False, True]
    assert found.elsewhere.tolist() == [2, 3]


def test_a_bank_without_places_agrees_with_nothing() -> None:
    found = neighbour_agreement(torch.full((2, 2), torch.nan), torch.zeros(1, 2), torch.tensor([[0, 1]]))
    assert (found.near.tolist(), found.within) == ([[False, False]], 0)


def test_no_bank_row_near_is_refused() -> None:
    with pytest.raises(ValueError, match="At least 1 bank row must count as near, got 0"):
        neighbour_agreement(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[0]]), within=0)


@given(st.lists(place, max_size=40), st.integers(1, 9), st.booleans())
@settings(deadline=None, max_examples=100)
def test_every_point_is_in_the_cell_its_edges_say(
    points: list[tuple[float, float]], cells: int, zoomed: bool
) -> None:
    bounds = (-1.0, 2.0, -2.0, 0.5) if zoomed else None
    found = density({"all": torch.tensor(points).reshape(-1, 2)}, cells, bounds)
    expected, _, _ = np.histogram2d(
        [y for _, y in points], [x for x, _ in points], bins=[found.y_edges, found.x_edges]
    )
    assert found.counts[0].tolist() == expected.tolist()
    assert found.outside[0] == len(points) - expected.sum()
    assert zoomed or found.outside[0] == 0


@pytest.mark.parametrize("cells", [3, 7, 10, 49, 100])
def test_points_on_edges_and_just_below_are_in_the_cell_their_edges_say(cells: int) -> None:
    bounds = (-0.1, 0.7, 0.1, 0.3)
    empty = density({}, cells, bounds)
    on = np.stack([empty.x_edges, empty.y_edges], axis=1)
    points = np.concatenate([on, np.nextafter(on, -1)])
    found = density({"all": torch.from_numpy(points)}, cells, bounds)
    expected, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=[found.y_edges, found.x_edges])
    assert found.counts[0].tolist() == expected.tolist()


def test_a_single_place_is_in_the_middle_of_the_grid() -> None:
    found = density({"all": torch.tensor([[5.0, 7.0], [5.0, 7.0]])}, cells=3)
    assert found.counts[0].tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 0]]


def test_groups_share_the_cells_and_points_without_a_place_are_outside() -> None:
    found = density(
        {"ID": torch.tensor([[0.0, 0.0], [torch.nan, 0.0]]), "OOD": torch.tensor([[4.0, 2.0]])}, cells=2
    )
    assert found.x_edges.tolist() == [0, 2, 4]
    assert found.y_edges.tolist() == [0, 1, 2]
    assert found.counts.tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 1]]]
    assert found.outside.tolist() == [1, 0]
    assert found.groups == ("ID", "OOD")


def test_a_grid_without_cells_or_with_reversed_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell along each axis, got 0"):
        density({"all": torch.zeros(1, 2)}, cells=0)
    with pytest.raises(ValueError, match="ascending"):
        density({"all": torch.zeros(1, 2)}, bounds=(1.0, 1.0, 0.0, 2.0))
