"""Agreement of map and features against straight loops; densities count every point once."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from nnguide_core.projection.reading import neighbour_agreement
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


def test_a_query_without_neighbours_is_not_near_the_last_bank_row() -> None:
    bank, queries = torch.tensor([[5.0, 5.0], [0.0, 0.0]]), torch.zeros(2, 2)
    found = neighbour_agreement(bank, queries, torch.tensor([[-1, -1], [1, 0]]), within=1)
    assert found.near.tolist() == [[False, False], [True, False]]
    assert found.share.isnan().tolist() == [True, False]


def test_a_bank_without_places_agrees_with_nothing() -> None:
    found = neighbour_agreement(torch.full((2, 2), torch.nan), torch.zeros(1, 2), torch.tensor([[0, 1]]))
    assert (found.near.tolist(), found.within) == ([[False, False]], 0)


def test_no_bank_row_near_is_refused() -> None:
    with pytest.raises(ValueError, match="At least 1 bank row must count as near, got 0"):
        neighbour_agreement(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[0]]), within=0)
