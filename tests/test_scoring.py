"""Energy, guidance and score against straight loops and answers worked out by hand."""

import dataclasses
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from torch import Tensor

from nnguide_core.scoring import Neighbors, energy, flagged, running_guidance, score, unit_features, usage
from tests import reference

finite = st.floats(-1e3, 1e3, width=32)


def neighbors(similarities: list[list[float]], energies: list[float]) -> Neighbors:
    values = torch.tensor(similarities)
    return Neighbors(
        indices=torch.arange(values.shape[1]).expand(values.shape).contiguous(),
        similarities=values,
        cosines=values.clamp(-1, 1),
        energy=torch.tensor(energies),
        zero_norm=torch.zeros(len(values), dtype=torch.bool),
    )


def matrices(most_rows: int = 6, most_columns: int = 6) -> st.SearchStrategy[Tensor]:
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=max(most_rows, most_columns))
    return hnp.arrays("float32", shapes, elements=finite).map(torch.from_numpy)


@given(matrices())
@settings(deadline=None, max_examples=50)
def test_energy_is_log_sum_exp(logits: Tensor) -> None:
    expected = [reference.log_sum_exp(row) for row in logits.double().tolist()]
    assert energy(logits).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_energy_of_large_logits_does_not_overflow() -> None:
    assert energy(torch.tensor([[1000.0, 1000.0]])).tolist() == pytest.approx([1000.6931])


def test_energy_adds_its_offset() -> None:
    logits = torch.tensor([[1.0, 2.0]])
    assert energy(logits, offset=2.5).item() == pytest.approx(energy(logits).item() + 2.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_energy_of_half_precision_logits_is_summed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.full((1, 1000), 11.0, dtype=dtype)
    assert energy(logits).dtype == torch.float32
    assert energy(logits).item() == pytest.approx(11.0 + 6.907755, rel=1e-6)


def test_energy_of_float64_logits_is_summed_in_float64() -> None:
    small = 1e-9
    logits = torch.tensor([[-0.6931471805599453, -0.6931471805599453 + small]], dtype=torch.float64)
    assert energy(logits).item() == pytest.approx(small / 2, rel=1e-3)


def test_unit_features_have_norm_one_and_zero_rows_stay_zero() -> None:
    units = unit_features(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
    assert units.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0], [0.0, -1.0]]


def test_unit_features_below_the_smallest_norm_are_divided_by_it() -> None:
    assert unit_features(torch.tensor([[1e-13, 0.0]])).tolist() == [pytest.approx([0.1, 0.0])]


def test_unit_features_do_not_overflow() -> None:
    assert unit_features(torch.tensor([[3e30, 4e30], [3.0, 4.0]])).tolist() == [pytest.approx([0.6, 0.8])] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_unit_features_are_float32_from_any_precision(dtype: torch.dtype) -> None:
    units = unit_features(torch.tensor([[3, 4], [240, 0]]).to(dtype))
    assert units.dtype == torch.float32
    assert units.tolist() == [pytest.approx([0.6, 0.8]), [1.0, 0.0]]


@given(matrices())
@settings(deadline=None, max_examples=50)
def test_running_guidance_is_the_mean_of_the_first_j_for_every_j(similarities: Tensor) -> None:
    running = running_guidance(similarities)
    for j in range(1, similarities.shape[1] + 1):
        expected = similarities[:, :j].double().mean(dim=1)
        torch.testing.assert_close(running[:, j - 1].double(), expected, rtol=1e-6, atol=1e-6)


def test_running_guidance_is_rounded_once() -> None:
    similarities = torch.rand(1000, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(running_guidance(similarities)[:, -1], similarities.double().mean(dim=1).float())


def test_score_is_higher_for_less_guidance_and_for_less_energy() -> None:
    guidance, energies = torch.tensor([3.0, 2.0, 3.0]), torch.tensor([4.0, 4.0, 1.0])
    assert score(guidance, energies).tolist() == [-12.0, -8.0, -3.0]


def test_neighbors_give_guidance_and_score_for_every_k_kept() -> None:
    found = neighbors([[6.0, 3.0, 0.0]], [2.0])
    assert [found.guidance_at(k).item() for k in (1, 2, 3)] == [6.0, 4.5, 3.0]
    assert [found.score_at(k).item() for k in (1, 2, 3)] == [-12.0, -9.0, -6.0]
    assert (found.k, found.guidance.item(), found.score.item()) == (3, 3.0, -6.0)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_neighbors_refuse_a_k_that_was_not_kept(k: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the 3 neighbours kept, got {k}"):
        neighbors([[6.0, 3.0, 0.0]], [2.0]).guidance_at(k)


def test_a_score_that_is_no_number_is_nan_and_not_infinite() -> None:
    found = neighbors([[1.0, 1.0], [torch.nan, torch.nan], [1.0, 0.0]], [torch.inf, 1.0, 2.0])
    assert found.finite.tolist() == [False, False, True]
    assert found.score.isnan().tolist() == [True, True, False]


def test_shares_say_what_part_of_the_guidance_each_neighbour_carries() -> None:
    assert neighbors([[6.0, 3.0, 1.0]], [1.0]).shares.tolist() == [pytest.approx([0.6, 0.3, 0.1])]


@pytest.mark.parametrize(
    ("similarities", "shares"),
    [
        ([3.0, -1.0], [0.75, -0.25]),
        ([-1.0, -3.0], [-0.25, -0.75]),
        ([1.0, -1.0], [0.5, -0.5]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([torch.nan, torch.nan], [0.0, 0.0]),
        ([3e38, 1e38], [0.75, 0.25]),
    ],
    ids=["mixed", "negative", "sum is zero", "all zero", "no number", "sum overflows"],
)
def test_shares_are_never_nan(similarities: list[float], shares: list[float]) -> None:
    assert neighbors([similarities], [1.0]).shares.tolist() == [pytest.approx(shares)]


@given(matrices())
@settings(deadline=None, max_examples=50)
def test_shares_keep_their_sign_and_their_sizes_add_up_to_one(similarities: Tensor) -> None:
    shares = neighbors(similarities.tolist(), [1.0] * len(similarities)).shares
    torch.testing.assert_close(shares.abs().sum(dim=1), similarities.any(dim=1).float())
    assert (shares * similarities >= 0).all()


def test_rows_of_neighbors_are_chosen_by_mask_index_or_slice() -> None:
    found = neighbors([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0])
    for chosen in (torch.tensor([False, True, True]), torch.tensor([1, 2]), slice(1, None)):
        assert found.rows(chosen).energy.tolist() == [2.0, 3.0]
        assert found.rows(chosen).similarities.tolist() == [[2.0], [3.0]]


def test_negative_energies_are_counted_with_those_that_are_zero() -> None:
    assert neighbors([[1.0]] * 4, [-1.0, 0.0, 0.5, torch.nan]).negative_energies == 2


def test_neighbors_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        neighbors([[1.0]], [1.0]).energy = torch.zeros(1)  # type: ignore[misc]


def test_usage_counts_how_many_queries_each_bank_row_serves() -> None:
    found = dataclasses.replace(
        neighbors([[2.0, 1.0]] * 3, [1.0] * 3), indices=torch.tensor([[4, 0], [4, 2], [0, 4]])
    )
    assert usage(found, bank_size=6).tolist() == [2, 0, 1, 0, 3, 0]
    assert usage(found, bank_size=6, k=1).tolist() == [1, 0, 0, 0, 2, 0]


def test_usage_leaves_out_queries_without_a_score() -> None:
    found = neighbors([[2.0, 1.0], [torch.nan, torch.nan]], [1.0, 1.0])
    assert usage(found, bank_size=2).tolist() == [1, 1]


def test_a_score_is_flagged_from_the_threshold_on() -> None:
    scores = torch.tensor([-2.0, -1.0, 0.0, torch.nan])
    assert flagged(scores, -1.0).tolist() == [False, True, True, False]
    assert flagged(scores, torch.tensor([-3.0, -0.5, 0.0, 0.0])).tolist() == [True, False, True, False]


def test_a_threshold_that_float32_cannot_hold_is_not_rounded() -> None:
    tenth = torch.tensor([0.1])
    assert not flagged(tenth, float(tenth) + 1e-11)
    assert flagged(tenth, float(tenth))


def test_a_threshold_that_is_no_number_is_refused() -> None:
    for threshold in (math.nan, torch.tensor([0.0, math.nan])):
        with pytest.raises(ValueError, match="The threshold is NaN: give a number"):
            flagged(torch.zeros(2), threshold)


def test_an_infinite_threshold_flags_nothing_or_every_score() -> None:
    scores = torch.tensor([-2.0, 3.4e38, torch.nan])
    assert flagged(scores, math.inf).tolist() == [False, False, False]
    assert flagged(scores, -math.inf).tolist() == [True, True, False]


@pytest.mark.parametrize("k", [0, -1, 3])
def test_usage_by_more_or_fewer_neighbours_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be between 1 and the 2 neighbours kept, got {k}"):
        usage(neighbors([[2.0, 1.0]], [1.0]), bank_size=2, k=k)
