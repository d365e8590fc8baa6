"""Decimated curves keep their area and their operating points; histograms count every score once."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from nnguide_core import curves, metrics
from nnguide_core.errors import UndefinedMetricError
from tests import reference

Sides = tuple[NDArray[Any], NDArray[Any]]
CURVES = [(curves.roc_curve, metrics.auroc), (curves.pr_curve, metrics.aupr_ood)]


@st.composite
def nasty_sides(draw: st.DrawFn) -> Sides:
    """Two sides whose curve is a staircase of unequal steps, with or without ties, long or short."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.integers(1, 3000))
    runs = {
        "alternating": np.ones(steps),
        "geometric": rng.geometric(rng.uniform(0.05, 1), size=steps),
        "long and short": np.where(np.arange(steps) % 2, 1, rng.integers(1, 30, size=steps)),
        "heavy": np.ceil(np.exp(rng.uniform(0, 2) * rng.normal(size=steps))),
        "periodic": np.resize(rng.integers(1, 12, size=rng.integers(2, 9)), steps),
        "growing": np.ceil(np.linspace(1, rng.integers(2, 60), steps)),
        "shrinking": np.ceil(np.linspace(rng.integers(2, 60), 1, steps)),
    }[
        draw(
            st.sampled_from(
                ["alternating", "geometric", "long and short", "heavy", "periodic", "growing", "shrinking"]
            )
        )
    ]
    outside = np.append(np.repeat(np.arange(steps) % 2, runs.astype(int)), draw(st.booleans()))
    scores = (np.arange(outside.size) // draw(st.integers(1, 5))).astype(float)
    return np.append(scores[outside == 0], -1.0), np.append(
        scores[outside == 1], draw(st.sampled_from([-2.0, 1e9]))
    )


@pytest.mark.parametrize(("curve", "area"), CURVES)
@given(nasty_sides())
@settings(deadline=None, max_examples=150)
def test_at_most_500_points_keep_the_area(
    curve: Callable[..., curves.Curve], area: Callable[..., float], sides: Sides
) -> None:
    keep = [metrics.threshold_id_kept(sides[0]), metrics.threshold_ood_caught(sides[1])]
    found = curve(*sides, keep=keep)
    assert found.x.size <= curves.MOST_POINTS
    assert found.area == pytest.approx(area(*sides), abs=1e-4)


def shares_flagged(sides: Sides, threshold: float) -> tuple[float, float]:
    alarms, caught = (reference.share_at_least(side.tolist(), threshold) for side in sides)
    return alarms, caught


@given(nasty_sides())
@settings(deadline=None, max_examples=60)
def test_every_point_of_the_roc_curve_is_what_its_threshold_gives(
    sides: Sides,
) -> None:
    found = curves.roc_curve(*sides)
    for row in range(0, found.x.size, 50):
        alarms, caught = shares_flagged(sides, found.thresholds[row])
        assert (found.x[row], found.y[row]) == (alarms, caught)


@given(nasty_sides(), st.floats(-5, 2000))
@settings(deadline=None, max_examples=60)
def test_a_kept_threshold_s_point_is_on_the_curve_exactly(sides: Sides, threshold: float) -> None:
    alarms, caught = shares_flagged(sides, threshold)
    roc = curves.roc_curve(*sides, keep=[threshold])
    assert (alarms, caught) in zip(roc.x, roc.y, strict=True)
    if caught:
        flagged = [round(share * side.size) for share, side in zip((alarms, caught), sides, strict=True)]
        pr = curves.pr_curve(*sides, keep=[threshold])
        assert (caught, flagged[1] / sum(flagged)) in zip(pr.x, pr.y, strict=True)


@pytest.mark.parametrize("curve", [curves.roc_curve, curves.pr_curve])
@given(nasty_sides())
@settings(deadline=None, max_examples=40)
def test_a_curve_never_runs_back(curve: Callable[..., curves.Curve], sides: Sides) -> None:
    found = curve(*sides)
    assert (np.diff(found.x) >= 0).all()
    assert (np.diff(found.thresholds) <= 0).all()
    assert (found.x[0], found.x[-1]) == (0.0, 1.0)


def test_short_curves_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=60).round(1), rng.normal(1, size=50).round(1)
    truth, scores = np.repeat([0, 1], [60, 50]), np.concatenate([inside, outside])
    alarms, caught, thresholds = sklearn_metrics.roc_curve(truth, scores)
    roc = curves.roc_curve(inside, outside)
    assert set(zip(roc.x, roc.y, roc.thresholds, strict=True)) <= set(
        zip(alarms, caught, thresholds, strict=True)
    )
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth, scores)
    pr = curves.pr_curve(inside, outside)
    assert set(zip(pr.x[1::2], pr.y[1::2], strict=True)) <= set(zip(recall, precision, strict=True))


def test_the_points_dropped_from_a_regular_curve_are_not_all_of_one_kind() -> None:
    # Dropping every other upper corner alone would cost 3e-4 of the area.
    steps = -np.arange(520)
    inside = np.repeat(steps, np.resize([0, 4, 1, 2, 0], 520)).astype(float)
    outside = np.repeat(steps, np.resize([3, 0, 0, 1, 2], 520)).astype(float)
    for curve, area in CURVES:
        assert curve(inside, outside).area == pytest.approx(area(inside, outside), abs=2e-5)


def test_a_drawn_curve_looks_like_the_whole_one() -> None:
    rng = np.random.default_rng(0)
    sides = rng.normal(size=50_000), rng.normal(1, size=30_000)
    drawn, whole = curves.roc_curve(*sides), curves.roc_curve(*sides, points=10**6)
    assert whole.x.size > 10 * drawn.x.size
    assert np.abs(np.interp(whole.x + whole.y, drawn.x + drawn.y, drawn.y) - whole.y).max() < 0.002


def test_perfect_separation_is_three_points() -> None:
    found = curves.roc_curve(np.arange(1000.0), np.arange(1000.0) + 5000)
    assert list(zip(found.x, found.y, strict=True)) == [(0, 0), (0, 1), (1, 1)]


def test_more_points_to_keep_than_allowed_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="9 points are too few for the 10"):
        curves.roc_curve(rng.normal(size=900), rng.normal(size=900), keep=rng.normal(size=8), points=9)


def test_half_a_million_scores_a_side_keep_their_area() -> None:
    rng = np.random.default_rng(0)
    sides = rng.normal(size=500_000).astype(np.float32), rng.normal(1, size=500_000).astype(np.float32)
    for curve, area in CURVES:
        assert curve(*sides).area == pytest.approx(area(*sides), abs=1e-4)


groups = st.dictionaries(
    st.sampled_from(["ID", "near", "far"]),
    st.lists(st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0]), max_size=30),
    min_size=1,
)


@given(groups, st.integers(1, 40))
@settings(deadline=None, max_examples=80)
def test_a_histogram_counts_every_score_in_the_bin_its_edges_say(
    drawn: dict[str, list[float]], bins: int
) -> None:
    sides = {name: np.array(scores, dtype=np.float32) for name, scores in drawn.items()}
    if not any(drawn.values()):
        with pytest.raises(UndefinedMetricError, match="no range to show"):
            curves.histogram(sides, bins)
        return
    found = curves.histogram(sides, bins)
    inner = found.edges[1:-1]
    for row, scores in enumerate(sides.values()):
        assert found.counts[row].sum() == scores.size
        for bin_number in range(bins):
            low = -np.inf if bin_number == 0 else inner[bin_number - 1]
            high = np.inf if bin_number == bins - 1 else inner[bin_number]
            assert found.counts[row, bin_number] == ((scores >= low) & (scores < high)).sum()
        assert found.below[row] == (scores < found.edges[0]).sum()
        assert found.above[row] == (scores > found.edges[-1]).sum()


def test_outliers_do_not_stretch_the_bins() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(size=5000)
    found = curves.histogram({"ID": np.append(usual, [1e9, -1e7])})
    assert -7 < found.edges[0] < found.edges[-1] < 7
    assert (found.below[0], found.above[0]) >= (1, 1)


def test_a_small_group_far_away_is_within_the_bins() -> None:
    rng = np.random.default_rng(0)
    found = curves.histogram({"ID": rng.normal(size=50_000), "OOD": rng.normal(50, size=20)})
    assert found.edges[-1] > 49
    assert np.count_nonzero(found.counts[1]) > 1


@pytest.mark.parametrize("value", [0.0, -5.0, 1e9])
def test_equal_scores_are_in_the_middle(value: float) -> None:
    found = curves.histogram({"ID": np.full(10, value, dtype=np.float32)}, bins=11)
    assert found.counts[0].tolist() == [0] * 5 + [10] + [0] * 5


def test_scores_that_are_mostly_equal_show_all_of_them() -> None:
    found = curves.histogram({"ID": np.append(np.zeros(10_000), [1.0, -1.0])})
    assert (found.edges[0], found.edges[-1]) == (-1.0, 1.0)


def test_a_histogram_without_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one bin, got 0"):
        curves.histogram({"ID": np.ones(3)}, bins=0)


def test_a_histogram_names_the_group_that_is_not_finite() -> None:
    with pytest.raises(UndefinedMetricError, match="1 of 2 near scores are not finite"):
        curves.histogram({"ID": np.ones(3), "near": np.array([1.0, np.nan])})
