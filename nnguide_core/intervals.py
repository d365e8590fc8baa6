"""How sure the metrics are: intervals for AUROC, for the difference of two, and for the two FPRs.

benchmarks/coverage.py simulates how often they cover the truth.

Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988, for the covariance of AUROCs; Sun & Xu, IEEE
Signal Processing Letters 21, 2014, for computing it from ranks in O(n log n); Hanley & McNeil, Radiology 143,
1982, and Newcombe, Statistics in Medicine 25, 2006, for how the variance depends on the true AUROC; Zou &
Donner, Statistics in Medicine 27, 2008, for the interval of a difference from two intervals.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnguide_core.errors import UndefinedMetricError
from nnguide_core.metrics import (
    DEFAULT_LEVEL,
    Floats,
    Scores,
    finite_scores,
    id_flagged_at_ood_caught,
    ood_passed_at_id_kept,
)

__all__ = [
    "DEFAULT_CONFIDENCE",
    "Difference",
    "Interval",
    "auroc_difference",
    "auroc_interval",
    "id_flagged_interval",
    "ood_passed_interval",
]

DEFAULT_CONFIDENCE = 0.95
DEFAULT_DRAWS = 10_000  # the bounds then vary by about 3 % of a standard error from seed to seed
_AREA = "score interval with DeLong's variance"
_DIFFERENCE = "paired DeLong, from both score intervals"
_SHARE = "binomial rank of the threshold, beta share"
_HALVINGS = 50  # of a range that is searched: down to rounding
_MOST_ERRORS = 40.0  # standard errors; a p-value beyond is below the smallest float


@dataclass(frozen=True)
class Interval:
    """A metric and the range that holds its true value with the given confidence."""

    estimate: float
    low: float
    high: float
    confidence: float  # in (0, 1)
    method: str  # how the range was found, in words


@dataclass(frozen=True)
class Difference:
    """AUROC of a first detector minus that of a second, judged on the same images."""

    estimate: float  # in [-1, 1], above 0 where the first separates better
    low: float
    high: float
    confidence: float  # in (0, 1)
    p_value: float  # two-sided, of no difference
    method: str  # how the range was found, in words


def auroc_interval(id_scores: Scores, ood_scores: Scores, confidence: float = DEFAULT_CONFIDENCE) -> Interval:
    """Return AUROC with its score interval: the true AUROCs that their own standard error does not rule out.

    The standard error is DeLong's at the AUROC found; at any other it is assumed to change as it does for
    exponential scores (Newcombe's method). Few images on the wrong side tell little about the spread, and
    then DeLong's variance is mixed with the exponential one; where every pair compares alike (AUROC 0 or 1,
    or all scores equal), DeLong's is 0 and the exponential one is used alone.

    Simulated with 50 to 200 images a side, a 95 % interval covers 94 to 97 % at AUROC 0.80 to 0.975, and 95
    to 99 % at 0.995.

    Raises:
        UndefinedMetricError: a side has fewer than two scores, or one that is not finite.
        ValueError: the confidence is not in (0, 1).
    """
    _check_confidence(confidence)
    area = _area(_pairwise_wins(_two_or_more(id_scores, "ID"), _two_or_more(ood_scores, "OOD")))
    errors = _quantile(confidence)
    return Interval(area.estimate, _bound(area, errors, 0.0), _bound(area, errors, 1.0), confidence, _AREA)


def auroc_difference(
    first_id: Scores,
    first_ood: Scores,
    second_id: Scores,
    second_ood: Scores,
    confidence: float = DEFAULT_CONFIDENCE,
) -> Difference:
    """Return how much better a first detector separates the same images than a second.

    The bounds combine both detectors' intervals with DeLong's correlation of the two AUROCs, as Zou and
    Donner's do. Unlike theirs, they let the shared part of the error move both AUROCs the same way: for
    detectors that agree on most images, theirs are up to three times as wide. The interval is never narrower
    than DeLong's own. If the difference has no spread (both perfect, say), the correlation cannot be
    estimated and is taken as 0. The p-value is 1 minus the confidence of the widest interval that excludes 0.

    Simulated with 50 to 200 images a side, a 95 % interval covers 95 to 98 % at AUROC 0.88 to 0.975 and for
    the demo's photos, and 96 to 99 % at 0.995. It covers less, down to 89 %, for the demo's noise, 100
    near-identical images, and where both detectors err on the same few ID images alone.

    Args:
        first_id: the first detector's scores of N ID images, (N,).
        first_ood: the first detector's scores of M OOD images, (M,).
        second_id: the second detector's scores of the same N images in the same order, (N,).
        second_ood: the second detector's scores of the same M images in the same order, (M,).
        confidence: of the interval, in (0, 1).

    Raises:
        UndefinedMetricError: a side has fewer than two scores, or one that is not finite.
        ValueError: the two detectors were not given equally many scores, or the confidence is not in (0, 1).
    """
    _check_confidence(confidence)
    _check_same_images(first_id, second_id, "ID")
    _check_same_images(first_ood, second_ood, "OOD")
    wins = [
        _pairwise_wins(_two_or_more(inside, "ID"), _two_or_more(outside, "OOD"))
        for inside, outside in ((first_id, first_ood), (second_id, second_ood))
    ]
    first, second = map(_area, wins)
    spread = _spread(*wins)
    shared = _correlation(*wins) if spread > 0.0 else 0.0
    # Whole numbers are subtracted and divided once: a constant gap must have no spread at all.
    pairs = 2 * wins[0].of_id.size * wins[0].of_ood.size
    estimate = (int(wins[0].of_id.sum()) - int(wins[1].of_id.sum())) / pairs
    errors = _quantile(confidence)
    return Difference(
        estimate=estimate,
        low=max(-1.0, estimate - _below(first, second, shared, spread, errors)),
        high=min(1.0, estimate + _below(second, first, shared, spread, errors)),
        confidence=confidence,
        p_value=_p_value(first, second, shared, spread, estimate),
        method=_DIFFERENCE,
    )


def id_flagged_interval(
    id_scores: Scores,
    ood_scores: Scores,
    level: float = DEFAULT_LEVEL,
    confidence: float = DEFAULT_CONFIDENCE,
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the share of ID flagged when this share of OOD is caught, with its interval.

    The number of OOD scores found that reach the true threshold is binomial, which locates the threshold
    among them; the true share of ID above it then follows a beta distribution. The bounds are quantiles of
    random draws from both, and always contain the share found.

    Simulated with 50 to 200 images a side, a 95 % interval covers 93 to 98 % at AUROC 0.80 to 0.975, and 94
    to 99 % at 0.995. It covers less where the true share is far below one image: 88 % of the time for 50
    images with long tails at AUROC 0.995 (true share 0.004 %), and the intervals that miss lie above it.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: the level is not in (0, 1], the confidence not in (0, 1), or draws below 1.
    """
    estimate = id_flagged_at_ood_caught(id_scores, ood_scores, level)
    negatives, positives = finite_scores(id_scores, "ID"), finite_scores(ood_scores, "OOD")
    return _share_interval(estimate, negatives, positives, level, confidence, draws, seed)


def ood_passed_interval(
    id_scores: Scores,
    ood_scores: Scores,
    level: float = DEFAULT_LEVEL,
    confidence: float = DEFAULT_CONFIDENCE,
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the share of OOD passed when this share of ID is kept, with its interval.

    Found as in id_flagged_interval, with the roles of ID and OOD exchanged. Where 3 % of the ID images lie
    among OOD and all others far away, the true share is 0, and of 50 images 83 % of the intervals hold it.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: the level is not in (0, 1], the confidence not in (0, 1), or draws below 1.
    """
    estimate = ood_passed_at_id_kept(id_scores, ood_scores, level)
    negatives, positives = -finite_scores(ood_scores, "OOD"), -finite_scores(id_scores, "ID")
    return _share_interval(estimate, negatives, positives, level, confidence, draws, seed)


class _Wins(NamedTuple):
    """For each query, twice the number of queries of the other side that it beats, ties once."""

    of_id: NDArray[np.int64]  # (N,) OOD queries with a higher score
    of_ood: NDArray[np.int64]  # (M,) ID queries with a lower score


class _Area(NamedTuple):
    """An AUROC, and what its sampling variance would be if the true one were another."""

    estimate: float
    factor: float  # the variance over that of exponential scores
    id_count: int
    ood_count: int

    def variance(self, true: float) -> float:
        """Return the variance at a true AUROC in [0, 1]; 0 at its ends."""
        of_pair = true * (1 - true)
        shared = ((self.id_count + self.ood_count) / 2 - 1) * (1 + 2 * of_pair) / (2 + of_pair)
        return self.factor * of_pair * (1 + shared) / (self.id_count * self.ood_count)


def _pairwise_wins(id_side: Floats, ood_side: Floats) -> _Wins:
    inside, outside = np.sort(id_side), np.sort(ood_side)
    return _Wins(2 * ood_side.size - _doubled_below(outside, id_side), _doubled_below(inside, ood_side))


def _doubled_below(ascending: Floats, scores: Floats) -> NDArray[np.int64]:
    below = np.searchsorted(ascending, scores, side="left")
    return below + np.searchsorted(ascending, scores, side="right")


def _area(wins: _Wins) -> _Area:
    """Return the AUROC of these wins with DeLong's variance, mixed with the exponential one.

    The exponential one counts as much as one image on the wrong side.
    """
    id_count, ood_count = wins.of_id.size, wins.of_ood.size
    estimate = int(wins.of_id.sum()) / (2 * id_count * ood_count)
    found, usual = _covariance(wins, wins), _Area(estimate, 1.0, id_count, ood_count)
    if found == 0.0:
        return usual
    weight = 1 / (1 + min(id_count, ood_count) * min(estimate, 1 - estimate))
    return usual._replace(factor=weight + (1 - weight) * found / usual.variance(estimate))


def _covariance(first: _Wins, second: _Wins) -> float:
    """Return DeLong's covariance of two AUROCs on the same images; of one with itself, its variance."""
    id_count, ood_count = first.of_id.size, first.of_ood.size
    parts = (first.of_id, second.of_id, 2 * ood_count), (first.of_ood, second.of_ood, 2 * id_count)
    return sum(float(np.cov(one, other)[0, 1]) / (most * most * one.size) for one, other, most in parts)


def _correlation(first: _Wins, second: _Wins) -> float:
    """Return DeLong's correlation of two AUROCs in [-1, 1]; 0 where it is not known."""
    variances = _covariance(first, first) * _covariance(second, second)
    if variances == 0.0:
        return 0.0
    return max(-1.0, min(1.0, _covariance(first, second) / math.sqrt(variances)))


def _spread(first: _Wins, second: _Wins) -> float:
    """Return DeLong's standard error of the difference of two AUROCs."""
    gaps = _Wins(first.of_id - second.of_id, first.of_ood - second.of_ood)
    return math.sqrt(max(0.0, _covariance(gaps, gaps)))


def _bound(area: _Area, errors: float, end: float) -> float:
    """Return the true AUROC, towards 0 or 1, from which the one found is so many standard errors away."""
    inside, outside = area.estimate, end
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if abs(area.estimate - middle) > errors * math.sqrt(area.variance(middle)):
            outside = middle
        else:
            inside = middle
    return inside


def _below(first: _Area, second: _Area, shared: float, spread: float, errors: float) -> float:
    """Return how far below its estimate the difference first - second may lie.

    Each AUROC's error has a shared part and a part of its own. The shared part moves both AUROCs the same way
    if shared > 0, opposite ways if it is below 0; each own part makes the difference smaller. If one or two
    images make all the difference, this can come to almost nothing, so DeLong's own bound is the least.
    """
    (down, second_down), (up_of_first, up) = (
        [abs(each.estimate - _bound(each, errors, end)) for each in (first, second)] for end in (0.0, 1.0)
    )
    if shared < 0.0:
        second_down, up_of_first = up, down
    own = (1 - shared * shared) * (down * down + up * up)
    both = math.sqrt((own + (down - shared * second_down) ** 2 + (up - shared * up_of_first) ** 2) / 2)
    return max(both, errors * spread)


def _p_value(first: _Area, second: _Area, shared: float, spread: float, estimate: float) -> float:
    """Return 1 - the confidence at which the interval of the difference just reaches 0."""
    better, worse = (first, second) if estimate >= 0.0 else (second, first)
    inside, outside = 0.0, _MOST_ERRORS
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if _below(better, worse, shared, spread, middle) < abs(estimate):
            inside = middle
        else:
            outside = middle
    return math.erfc(inside / math.sqrt(2))


def _share_interval(
    estimate: float,
    negatives: Floats,
    positives: Floats,
    level: float,
    confidence: float,
    draws: int,
    seed: int,
) -> Interval:
    """Return the interval of the share of negatives at or above the threshold of the positives."""
    _check_confidence(confidence)
    if draws < 1:
        raise ValueError(f"The interval needs at least one draw, got {draws}.")
    generator = np.random.default_rng(seed)
    highest_first = np.sort(positives)[::-1]
    # How many negatives a threshold at each positive score flags, and before them one that flags nothing.
    flagged = np.append(0, negatives.size - np.searchsorted(np.sort(negatives), highest_first))
    reaching = generator.binomial(positives.size, level, size=draws)
    least, most = flagged[reaching], flagged[np.minimum(reaching + 1, positives.size)]
    between = least + generator.random(draws) * (most - least)
    shares = generator.beta(between + 0.5, negatives.size - between + 0.5)
    low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        estimate,
        0.0 if estimate == 0.0 else min(estimate, float(low)),
        1.0 if estimate == 1.0 else max(estimate, float(high)),
        confidence,
        _SHARE,
    )


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1.0 + confidence) / 2.0)


def _two_or_more(scores: Scores, side: str) -> Floats:
    array = finite_scores(scores, side)
    if array.size < 2:
        raise UndefinedMetricError(f"One {side} score shows no spread: an interval needs at least two.")
    return array


def _check_same_images(first: Scores, second: Scores, side: str) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"Both detectors must judge the same {side} images, got scores of shape "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"The confidence must be in (0, 1), such as 0.95, got {confidence}.")
