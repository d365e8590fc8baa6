"""DeLong and bootstrap intervals against straight loops, coverage and the cases without variance."""

import math
from statistics import NormalDist

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

from nnguide_core import intervals, metrics
from nnguide_core.errors import UndefinedMetricError
from tests import reference

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5]) | st.floats(-4, 4), min_size=2, max_size=15)
Z = NormalDist().inv_cdf(0.975)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@given(scores, scores)
@settings(deadline=None, max_examples=80)
def test_auroc_interval_has_delong_s_width(id_scores: list[float], ood_scores: list[float]) -> None:
    variance = reference.delong_variance(id_scores, ood_scores)
    assume(variance > 1e-12)
    found = intervals.auroc_interval(np.array(id_scores), np.array(ood_scores))
    expected = reference.auroc(id_scores, ood_scores)
    assert found.estimate == pytest.approx(expected)
    assert found.low == pytest.approx(max(0.0, expected - Z * math.sqrt(variance)))
    assert found.high == pytest.approx(min(1.0, expected + Z * math.sqrt(variance)))


def test_auroc_interval_covers_the_truth_about_as_often_as_it_says(rng: np.random.Generator) -> None:
    truth = NormalDist().cdf(1 / math.sqrt(2))
    found = [intervals.auroc_interval(rng.normal(size=80), rng.normal(1, size=60)) for _ in range(400)]
    assert sum(one.low <= truth <= one.high for one in found) / 400 == pytest.approx(0.95, abs=0.035)


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "low", "high"),
    [
        ([0.0] * 100, [1.0] * 200, 0.025**0.01, 1.0),
        ([1.0] * 100, [0.0] * 200, 0.0, 1 - 0.025**0.01),
        ([1.0] * 100, [1.0] * 200, 0.5 * 0.025**0.01, 1 - 0.5 * 0.025**0.01),
    ],
)
def test_where_all_pairs_compare_alike_the_interval_is_not_a_point(
    id_scores: list[float], ood_scores: list[float], low: float, high: float
) -> None:
    found = intervals.auroc_interval(np.array(id_scores), np.array(ood_scores))
    assert [found.low, found.high] == pytest.approx([low, high])
    assert "disjoint pairs" in found.method


@given(st.data(), st.integers(2, 12), st.integers(2, 12))
@settings(deadline=None, max_examples=60)
def test_difference_has_the_paired_width(data: st.DataObject, inside: int, outside: int) -> None:
    def draw(size: int) -> list[float]:
        return data.draw(
            st.lists(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-4, 4), min_size=size, max_size=size)
        )

    sides = draw(inside), draw(outside), draw(inside), draw(outside)
    first, second = np.array(sides[0]), np.array(sides[2])
    variance = reference.delong_difference_variance(*sides)
    assume(variance > 1e-12)
    found = intervals.auroc_difference(first, np.array(sides[1]), second, np.array(sides[3]))
    expected = reference.auroc(sides[0], sides[1]) - reference.auroc(sides[2], sides[3])
    assert found.estimate == pytest.approx(expected)
    assert found.low == pytest.approx(max(-1.0, expected - Z * math.sqrt(variance)))
    assert found.high == pytest.approx(min(1.0, expected + Z * math.sqrt(variance)))
    assert found.p_value == pytest.approx(
        2 * NormalDist().cdf(-abs(expected) / math.sqrt(variance)), abs=1e-12
    )


def test_pairing_sees_a_difference_that_two_separate_intervals_would_not(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=150), rng.normal(1, size=150)
    worse = inside, outside - 0.15 * rng.uniform(0.9, 1.1, size=150)
    found = intervals.auroc_difference(inside, outside, *worse)
    assert found.low > 0.0
    assert found.p_value < 0.05
    assert intervals.auroc_interval(inside, outside).low < metrics.auroc(*worse)


def test_a_detector_does_not_differ_from_itself(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=50), rng.normal(1, size=40)
    found = intervals.auroc_difference(inside, outside, inside, outside)
    assert (found.estimate, found.p_value) == (0.0, 1.0)
    assert found.low == pytest.approx(-found.high)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 40))


def test_a_perfect_detector_differs_from_a_reversed_one() -> None:
    good, bad = np.zeros(50), np.ones(50)
    found = intervals.auroc_difference(good, bad, bad, good)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(2 * 0.025 ** (1 / 50) - 1)
    assert found.p_value < 1e-9


def test_detectors_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same OOD images, got scores of shape \(3,\) and \(4,\)"):
        intervals.auroc_difference(np.ones(2), np.ones(3), np.ones(2), np.ones(4))


def test_bootstrap_equals_one_that_draws_scores(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=60).round(1), rng.normal(2.0, size=45).round(1)
    drawn = reference.resampled_id_flagged(inside.tolist(), outside.tolist(), 0.9, times=3000, seed=1)
    found = intervals.id_flagged_interval(inside, outside, 0.9)
    assert found.estimate == metrics.id_flagged_at_ood_caught(inside, outside, 0.9)
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.02)


def test_bootstrap_of_the_other_share_is_its_mirror_image(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=60), rng.normal(2.0, size=45)
    found = intervals.ood_passed_interval(inside, outside)
    mirrored = intervals.id_flagged_interval(-outside, -inside)
    assert (found.estimate, found.low, found.high) == (mirrored.estimate, mirrored.low, mirrored.high)
    assert found.estimate == metrics.ood_passed_at_id_kept(inside, outside)


def test_bootstrap_is_the_same_for_the_same_seed_only(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=997), rng.normal(1.0, size=983)
    bounds = [intervals.id_flagged_interval(inside, outside, seed=seed, resamples=50) for seed in (3, 3, 4)]
    assert bounds[0] == bounds[1]
    assert bounds[0] != bounds[2]


@pytest.mark.parametrize(("shift", "estimate"), [(100.0, 0.0), (-100.0, 1.0)])
def test_no_or_only_false_alarms_have_a_bound_that_is_not_a_point(
    rng: np.random.Generator, shift: float, estimate: float
) -> None:
    found = intervals.id_flagged_interval(rng.normal(size=100), rng.normal(shift, size=50))
    assert found.estimate == estimate
    width = 1 - 0.025**0.01
    expected = [0.0, width] if estimate == 0.0 else [1 - width, 1.0]
    assert [found.low, found.high] == pytest.approx(expected)


def test_one_score_has_no_interval() -> None:
    with pytest.raises(UndefinedMetricError, match="One OOD score shows no spread"):
        intervals.auroc_interval(np.array([1.0, 2.0]), np.array([1.0]))


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    sides = np.array([1.0, 2.0]), np.array([1.0, 3.0])
    for interval in (intervals.auroc_interval, intervals.id_flagged_interval):
        with pytest.raises(ValueError, match="confidence must be in"):
            interval(*sides, confidence=confidence)


def test_a_bootstrap_without_resamples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one resample, got 0"):
        intervals.ood_passed_interval(np.array([1.0]), np.array([2.0]), resamples=0)
