"""Intervals against straight loops, how often they cover the truth, and the cases without variance."""

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


def held(found: intervals.Interval | intervals.Difference, truth: float) -> bool:
    return found.low <= truth <= found.high


@given(scores, scores)
@settings(deadline=None, max_examples=40)
def test_an_auroc_interval_holds_what_its_own_standard_error_explains(
    id_scores: list[float], ood_scores: list[float]
) -> None:
    variance = reference.delong_variance(id_scores, ood_scores)
    found = intervals.auroc_interval(np.array(id_scores), np.array(ood_scores))
    expected = reference.auroc(id_scores, ood_scores)
    low, high = reference.auroc_bounds(
        expected, variance if variance > 1e-12 else 0.0, len(id_scores), len(ood_scores)
    )
    assert found.estimate == pytest.approx(expected)
    assert [found.low, found.high] == pytest.approx([low, high], abs=2.1e-4)
    assert held(found, found.estimate)


def test_with_many_images_an_auroc_interval_is_delong_s(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=4000), rng.normal(1, size=3000)
    wins = (outside[:, None] > inside).mean(axis=0), (outside[:, None] > inside).mean(axis=1)
    error = math.sqrt(sum(part.var(ddof=1) / part.size for part in wins))
    found = intervals.auroc_interval(inside, outside)
    assert found.high - found.low == pytest.approx(2 * Z * error, rel=0.02)


@pytest.mark.parametrize("images", [50, 100])
def test_an_auroc_interval_near_1_holds_the_truth_as_often_as_it_says(images: int) -> None:
    generator = np.random.default_rng(5)
    found = [
        intervals.auroc_interval(
            generator.exponential(size=images), generator.exponential(0.975 / 0.025, size=images)
        )
        for _ in range(1500)
    ]
    assert 0.93 <= sum(held(one, 0.975) for one in found) / 1500 <= 0.98


def test_a_difference_near_1_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(6)
    shifts = [math.sqrt(2) * NormalDist().inv_cdf(truth) for truth in (0.975, 0.94)]
    covered = 0
    for _ in range(200):
        inside, outside = (generator.normal(size=(3, 50)) * math.sqrt(0.5) for _ in range(2))
        first, second = (
            (inside[0] + inside[one], outside[0] + outside[one] + shifts[one - 1]) for one in (1, 2)
        )
        covered += held(intervals.auroc_difference(*first, *second), 0.975 - 0.94)
    assert 0.93 <= covered / 200 <= 0.99


def test_the_interval_holds_no_more_than_it_must_for_detectors_that_agree_on_most_images() -> None:
    generator = np.random.default_rng(8)
    shifts = [math.sqrt(2) * NormalDist().inv_cdf(truth) for truth in (0.94, 0.935)]
    covered = 0
    for _ in range(400):
        inside, outside = generator.normal(size=(2, 100)), generator.normal(size=(2, 100))
        first, second = (
            (math.sqrt(0.995) * inside[0] + math.sqrt(0.005) * sign * inside[1],
             math.sqrt(0.995) * outside[0] + math.sqrt(0.005) * sign * outside[1] + shift)
            for sign, shift in zip((1, -1), shifts, strict=True)
        )  # fmt: skip
        covered += held(intervals.auroc_difference(*first, *second), 0.94 - 0.935)
    assert 0.93 <= covered / 400 <= 0.98


def test_both_shares_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(7)
    # With normal scores of one spread a threshold that catches 95 % of OOD flags so much of ID, and the
    # other way round.
    shift = math.sqrt(2) * NormalDist().inv_cdf(0.94)
    truth = NormalDist().cdf(NormalDist().inv_cdf(0.95) - shift)
    covered = np.zeros(2)
    for _ in range(300):
        sides = generator.normal(size=100), generator.normal(shift, size=100)
        covered[0] += held(intervals.id_flagged_interval(*sides, draws=1000), truth)
        covered[1] += held(intervals.ood_passed_interval(*sides, draws=1000), truth)
    assert ((covered / 300 >= 0.93) & (covered / 300 <= 0.99)).all()


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "low", "high"),
    [
        # Where all are ranked right, 1 - low solves (1 - low)² = 1.96² (1 - low)(1 + 49 / 2) / 2500, nearly.
        ([0.0] * 50, [1.0] * 50, 0.96034, 1.0),
        ([1.0] * 50, [0.0] * 50, 0.0, 1 - 0.96034),
        ([1.0] * 50, [1.0] * 50, 0.38967, 0.61033),
    ],
)
def test_where_all_pairs_compare_alike_the_interval_is_not_a_point(
    id_scores: list[float], ood_scores: list[float], low: float, high: float
) -> None:
    found = intervals.auroc_interval(np.array(id_scores), np.array(ood_scores))
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-5)


@given(st.data(), st.integers(2, 12), st.integers(2, 12))
@settings(deadline=None, max_examples=40)
def test_a_difference_is_bounded_by_both_intervals_and_their_correlation(
    data: st.DataObject, inside: int, outside: int
) -> None:
    def draw(size: int) -> list[float]:
        return data.draw(
            st.lists(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-4, 4), min_size=size, max_size=size)
        )

    one, other = (draw(inside), draw(outside)), (draw(inside), draw(outside))
    ours, theirs = (np.array(one[0]), np.array(one[1])), (np.array(other[0]), np.array(other[1]))
    first, second = intervals.auroc_interval(*ours), intervals.auroc_interval(*theirs)
    variances = reference.delong_variance(*one), reference.delong_variance(*other)
    of_gap = reference.delong_difference_variance(*one, *other)
    assume(min(*variances, of_gap) > 1e-12)
    shared = (sum(variances) - of_gap) / 2 / math.sqrt(variances[0] * variances[1])
    found = intervals.auroc_difference(*ours, *theirs)
    down, up = first.estimate - first.low, second.high - second.estimate
    with_down = second.estimate - second.low if shared > 0 else up
    with_up = first.high - first.estimate if shared > 0 else down
    apart = (1 - shared**2) * (down**2 + up**2)
    both = math.sqrt((apart + (down - shared * with_down) ** 2 + (up - shared * with_up) ** 2) / 2)
    below = max(both, NormalDist().inv_cdf(0.975) * math.sqrt(of_gap))
    assert found.estimate == pytest.approx(first.estimate - second.estimate)
    assert found.low == pytest.approx(max(-1.0, found.estimate - below), abs=1e-6)
    mirrored = intervals.auroc_difference(*theirs, *ours)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (-mirrored.estimate, -mirrored.high, -mirrored.low)
    )
    assert found.p_value == pytest.approx(mirrored.p_value)
    assert (found.p_value < 0.05 - 1e-9) <= (not held(found, 0.0))
    assert (found.p_value > 0.05 + 1e-9) <= held(found, 0.0)


def test_five_images_a_side_prove_nothing_where_the_gap_is_constant() -> None:
    # Every image wins one pair in five more with the first detector. As floats the gaps are 1 - 0.8,
    # 0.8 - 0.6, ..., which differ in their last digits.
    inside = np.arange(5.0)
    found = intervals.auroc_difference(inside, inside + 0.5, inside, inside - 0.5)
    assert found.estimate == 0.2
    assert found.low < 0 < found.high
    assert found.p_value > 0.05


@pytest.mark.parametrize(("images", "misses"), [(20, 6), (100, 10)])
def test_one_image_that_makes_all_the_difference_proves_nothing(images: int, misses: int) -> None:
    first = np.zeros(images)
    first[0] = 3.0
    second, outside = first.copy(), np.full(images, 9.0)
    second[0], outside[:misses] = 4.0, 3.0
    found = intervals.auroc_difference(first, outside, second, outside)
    assert found.estimate > 0.0 > found.low
    assert found.p_value > 0.3


@pytest.mark.parametrize("moved", [1, 2])
def test_so_many_moved_among_thousands_prove_no_more_than_their_number_does(moved: int) -> None:
    first, second = np.arange(3000) / 3000, np.arange(3000) / 3000
    outside = 2 + np.arange(3000) / 3000
    first[:moved], second[:moved] = 2.03 + 0.5 / 3000, 2.3 + 0.5 / 3000
    found = intervals.auroc_difference(first, outside, second, outside)
    # Independent images that all go one way: so many standard errors as the root of their number.
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(moved / 2)), abs=0.02)


def test_a_higher_confidence_never_makes_the_difference_more_certain(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=40), rng.normal(2, size=40)
    near = inside + rng.normal(scale=0.05, size=40), outside + rng.normal(scale=0.05, size=40)
    found = [intervals.auroc_difference(inside, outside, *near, level) for level in (0.5, 0.8, 0.95, 0.999)]
    assert [each.high - each.low for each in found] == sorted(each.high - each.low for each in found)


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
    alone = intervals.auroc_interval(inside, outside)
    assert found.high == pytest.approx(
        math.hypot(alone.estimate - alone.low, alone.high - alone.estimate)
    )  # as of two detectors that have nothing in common


def test_a_perfect_detector_differs_from_a_reversed_one() -> None:
    good, bad = np.zeros(50), np.ones(50)
    found = intervals.auroc_difference(good, bad, bad, good)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - math.sqrt(2) * (1 - 0.96034), abs=1e-4)
    assert found.p_value < 1e-9


def test_detectors_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same OOD images, got scores of shape \(3,\) and \(4,\)"):
        intervals.auroc_difference(np.ones(2), np.ones(3), np.ones(2), np.ones(4))


def test_a_share_s_bounds_are_those_of_draws_score_by_score(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=60).round(1), rng.normal(2.0, size=45).round(1)
    drawn = reference.drawn_id_flagged(inside.tolist(), outside.tolist(), 0.9, times=3000, seed=1)
    found = intervals.id_flagged_interval(inside, outside, 0.9)
    assert found.estimate == metrics.id_flagged_at_ood_caught(inside, outside, 0.9)
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.02)


def test_the_interval_of_the_other_share_is_its_mirror_image(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=60), rng.normal(2.0, size=45)
    found = intervals.ood_passed_interval(inside, outside)
    mirrored = intervals.id_flagged_interval(-outside, -inside)
    assert (found.estimate, found.low, found.high) == (mirrored.estimate, mirrored.low, mirrored.high)
    assert found.estimate == metrics.ood_passed_at_id_kept(inside, outside)


def test_a_share_s_interval_is_the_same_for_the_same_seed_only(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=997), rng.normal(1.0, size=983)
    bounds = [intervals.id_flagged_interval(inside, outside, seed=seed, draws=50) for seed in (3, 3, 4)]
    assert bounds[0] == bounds[1]
    assert bounds[0] != bounds[2]


@pytest.mark.parametrize(("shift", "estimate"), [(100.0, 0.0), (-100.0, 1.0)])
def test_no_or_only_false_alarms_have_a_bound_that_is_not_a_point(
    rng: np.random.Generator, shift: float, estimate: float
) -> None:
    found = intervals.id_flagged_interval(rng.normal(size=100), rng.normal(shift, size=50))
    assert found.estimate == estimate
    width = 0.0247  # the 97.5 % quantile of beta(0.5, 100.5)
    expected = [0.0, width] if estimate == 0.0 else [1 - width, 1.0]
    assert [found.low, found.high] == pytest.approx(expected, abs=0.001)


def test_one_score_has_no_interval() -> None:
    with pytest.raises(UndefinedMetricError, match="One OOD score shows no spread"):
        intervals.auroc_interval(np.array([1.0, 2.0]), np.array([1.0]))


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    sides = np.array([1.0, 2.0]), np.array([1.0, 3.0])
    for interval in (intervals.auroc_interval, intervals.id_flagged_interval):
        with pytest.raises(ValueError, match="confidence must be in"):
            interval(*sides, confidence=confidence)


def test_an_interval_without_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one draw, got 0"):
        intervals.ood_passed_interval(np.array([1.0]), np.array([2.0]), draws=0)
