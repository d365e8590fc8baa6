"""Areas, shares and thresholds against scikit-learn, straight loops and answers worked out by hand."""

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from nnguide_core import metrics
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.scoring import flagged
from tests import reference

Array = NDArray[Any]

# The hand-computed case: confidence is ID 1..20, so the score is its negative.
ID = [-float(confidence) for confidence in range(1, 21)]
OOD = [3.0, 2.0, 1.0, 0.0, -0.5, -1.5, -2.5, -3.5, -4.5, -18.5]

# Few distinct values make ties, within and across the sides; the rest are whatever float32 can hold.
some_score = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.7]) | st.floats(
    width=32, allow_nan=False, allow_infinity=False
)
side = st.lists(some_score, min_size=1, max_size=40)
levels = st.sampled_from([0.05, 0.07, 0.5, 0.9, 0.95, 0.99, 1.0]) | st.floats(0.001, 1.0)


def as_float32(scores: list[float]) -> Array:
    return np.array(scores, dtype=np.float32)


def labelled(id_scores: list[float], ood_scores: list[float]) -> tuple[Array, Array]:
    return np.repeat([0, 1], [len(id_scores), len(ood_scores)]), np.array(id_scores + ood_scores)


def test_metrics_of_the_hand_computed_case() -> None:
    inside, outside = torch.tensor(ID), torch.tensor(OOD)
    assert metrics.auroc(inside, outside) == pytest.approx(0.86)
    assert metrics.ood_passed_at_id_kept(inside, outside) == pytest.approx(0.40)
    assert metrics.id_flagged_at_ood_caught(inside, outside) == pytest.approx(0.90)


def test_thresholds_of_the_hand_computed_case() -> None:
    # 19 of 20 ID images have a score of -2 or less; all 10 OOD images must be flagged to reach 95 %.
    assert metrics.threshold_id_kept(np.array(ID)) == np.nextafter(-2.0, 0.0)
    assert metrics.threshold_ood_caught(np.array(OOD)) == -18.5
    assert metrics.threshold_ood_caught(np.array(OOD), level=0.9) == -4.5


@given(side, side)
@settings(deadline=None, max_examples=150)
def test_areas_equal_those_of_sklearn_and_of_loops(id_scores: list[float], ood_scores: list[float]) -> None:
    inside, outside = as_float32(id_scores), as_float32(ood_scores)
    truth, scores = labelled(id_scores, ood_scores)
    assert metrics.auroc(inside, outside) == pytest.approx(reference.auroc(id_scores, ood_scores), abs=1e-12)
    assert metrics.auroc(inside, outside) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert metrics.aupr_ood(inside, outside) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )
    assert metrics.aupr_id(inside, outside) == pytest.approx(
        average_precision_score(1 - truth, -scores), abs=1e-12
    )


@given(side, side, levels)
@settings(deadline=None, max_examples=150)
def test_shares_at_a_level_equal_those_of_loops(
    id_scores: list[float], ood_scores: list[float], level: float
) -> None:
    inside, outside = as_float32(id_scores), as_float32(ood_scores)
    assert metrics.id_flagged_at_ood_caught(inside, outside, level) == reference.id_flagged_at_ood_caught(
        id_scores, ood_scores, level
    )
    assert metrics.ood_passed_at_id_kept(inside, outside, level) == reference.ood_passed_at_id_kept(
        id_scores, ood_scores, level
    )


def decided(scores: Array, threshold: float) -> NDArray[np.bool_]:
    decisions: NDArray[np.bool_] = flagged(torch.from_numpy(scores), threshold).numpy()
    return decisions


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@given(side, side, levels)
@settings(deadline=None, max_examples=100)
def test_a_threshold_reproduces_the_share_it_was_found_for(
    precision: type[np.floating[Any]], id_scores: list[float], ood_scores: list[float], level: float
) -> None:
    inside: Array = np.array(id_scores, dtype=precision)
    outside: Array = np.array(ood_scores, dtype=precision)
    threshold = metrics.threshold_ood_caught(outside, level)
    assert decided(outside, threshold).mean() >= level
    assert decided(inside, threshold).mean() == metrics.id_flagged_at_ood_caught(inside, outside, level)
    threshold = metrics.threshold_id_kept(inside, level)
    assert (~decided(inside, threshold)).mean() >= level
    assert (~decided(outside, threshold)).mean() == metrics.ood_passed_at_id_kept(inside, outside, level)


@given(side, levels)
@settings(deadline=None, max_examples=100)
def test_torch_and_numpy_alone_decide_as_flagged_does_at_a_threshold_that_was_found(
    id_scores: list[float], level: float
) -> None:
    threshold = metrics.threshold_id_kept(as_float32(id_scores), level)
    expected = decided(as_float32(id_scores), threshold).tolist()
    assert (torch.tensor(id_scores) >= threshold).tolist() == expected
    assert (as_float32(id_scores) >= threshold).tolist() == expected


def test_a_share_that_is_a_whole_count_is_not_rounded_up() -> None:
    # 0.07 * 100 is 7.000000000000001 in floating point.
    assert metrics.threshold_ood_caught(np.arange(100.0), level=0.07) == 93.0


def test_equal_scores_share_one_threshold() -> None:
    outside = np.array([1.0, 1.0, 1.0, 5.0])
    assert metrics.threshold_ood_caught(outside, level=0.5) == 1.0
    assert metrics.id_flagged_at_ood_caught(np.array([1.0, 0.0]), outside, level=0.5) == 0.5


def test_a_float32_score_is_compared_with_the_threshold_as_given() -> None:
    inside = np.array([0.7], dtype=np.float32)  # 0.69999999 in float64
    assert metrics.id_flagged_at_ood_caught(inside, np.array([0.7])) == 0.0
    assert not decided(inside, 0.7).any()


def test_both_sides_may_have_different_precisions() -> None:
    assert metrics.auroc(np.array([0.7], dtype=np.float32), np.array([0.7])) == 1.0
    assert metrics.auroc(np.array([0.7]), np.array([0.7], dtype=np.float32)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_read_exactly(dtype: torch.dtype) -> None:
    inside, outside = torch.tensor([-3, 1, 5]).to(dtype), torch.tensor([1, 7]).to(dtype)
    assert metrics.auroc(inside, outside) == pytest.approx(4.5 / 6)


METRICS: list[Callable[..., float]] = [
    metrics.auroc,
    metrics.aupr_ood,
    metrics.aupr_id,
    metrics.id_flagged_at_ood_caught,
    metrics.ood_passed_at_id_kept,
]


@pytest.mark.parametrize("metric", METRICS)
def test_scores_that_are_not_finite_are_refused_with_their_count(metric: Callable[..., float]) -> None:
    bad = torch.tensor([math.nan, 1.0, math.inf, math.nan])
    words = r"3 of 4 ID scores are not finite \(2 NaN, 1 infinite\)"
    with pytest.raises(UndefinedMetricError, match=words):
        metric(bad, torch.tensor([1.0]))
    with pytest.raises(UndefinedMetricError, match=words.replace("ID", "OOD")):
        metric(torch.tensor([1.0]), bad)


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_side_is_not_defined(metric: Callable[..., float]) -> None:
    with pytest.raises(UndefinedMetricError, match="There are no OOD scores"):
        metric(torch.tensor([1.0]), torch.tensor([]))
    with pytest.raises(UndefinedMetricError, match="There are no ID scores"):
        metric(torch.tensor([]), torch.tensor([1.0]))


@pytest.mark.parametrize("level", [0.0, -1.0, 1.5, math.nan])
def test_a_level_outside_its_range_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level must be a share in"):
        metrics.id_flagged_at_ood_caught(np.array([1.0]), np.array([1.0]), level)
    with pytest.raises(ValueError, match="level must be a share in"):
        metrics.threshold_id_kept(np.array([1.0]), level)


def test_scores_of_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ID scores must have shape \(N,\), got \(2, 1\)"):
        metrics.auroc(np.ones((2, 1)), np.ones(2))


def test_images_of_the_largest_score_can_be_kept() -> None:
    largest = np.finfo(np.float32).max
    assert metrics.threshold_id_kept(np.array([largest, largest]), level=1.0) == math.inf
