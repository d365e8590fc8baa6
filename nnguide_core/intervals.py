"""How sure the metrics are: DeLong intervals for AUROC, bootstrap intervals for the two FPRs.

Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988, for the covariance of AUROCs; Sun & Xu, IEEE
Signal Processing Letters 21, 2014, for computing it from ranks in O(n log n).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nnguide_core.errors import UndefinedMetricError
from nnguide_core.metrics import (
    DEFAULT_LEVEL,
    Floats,
    Scores,
    auroc,
    finite_scores,
    id_flagged_at_ood_caught,
    least_count,
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
DEFAULT_RESAMPLES = 10_000  # the bounds then vary by about 3 % of a standard error from seed to seed


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
    """Return AUROC with its DeLong interval, estimate +- z * standard error, cut to [0, 1].

    Where every ID/OOD pair compares alike (AUROC 0, 1, or all scores equal), DeLong's variance is 0 and its
    interval would be a point. The interval is then exact for m = min(N, M) disjoint pairs: had the pairs'
    common outcome a probability below ((1 - confidence) / 2) ** (1 / m), seeing it m times in m independent
    pairs would be too unlikely.

    Raises:
        UndefinedMetricError: a side has fewer than two scores, or one that is not finite.
        ValueError: the confidence is not in (0, 1).
    """
    _check_confidence(confidence)
    id_side, ood_side = _two_or_more(id_scores, "ID"), _two_or_more(ood_scores, "OOD")
    estimate = auroc(id_side, ood_side)
    wins = _pairwise_wins(id_side, ood_side)
    error = _standard_error(*wins)
    if error == 0.0:
        rest = 1.0 - _rarest(min(id_side.size, ood_side.size), confidence)
        return Interval(estimate, estimate * (1 - rest), estimate + (1 - estimate) * rest, confidence, _ALIKE)
    reach = _quantile(confidence) * error
    return Interval(estimate, max(0.0, estimate - reach), min(1.0, estimate + reach), confidence, "DeLong")


def auroc_difference(
    first_id: Scores,
    first_ood: Scores,
    second_id: Scores,
    second_ood: Scores,
    confidence: float = DEFAULT_CONFIDENCE,
) -> Difference:
    """Return how much better a first detector separates the same images than a second, by paired DeLong.

    Where the two never differ from their mean difference (both perfect, say), DeLong's variance is 0; the
    interval is then that of min(N, M) disjoint pairs, as in auroc_interval, and so is the p-value: 1 for
    equal AUROCs, else that of a sign test.

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
    first = _pairwise_wins(_two_or_more(first_id, "ID"), _two_or_more(first_ood, "OOD"))
    second = _pairwise_wins(_two_or_more(second_id, "ID"), _two_or_more(second_ood, "OOD"))
    estimate = auroc(first_id, first_ood) - auroc(second_id, second_ood)
    gaps = first[0] - second[0], first[1] - second[1]
    error = _standard_error(*gaps)
    if error == 0.0:
        return _difference_without_variance(estimate, min(gaps[0].size, gaps[1].size), confidence)
    reach = _quantile(confidence) * error
    return Difference(
        estimate=estimate,
        low=max(-1.0, estimate - reach),
        high=min(1.0, estimate + reach),
        confidence=confidence,
        p_value=math.erfc(abs(estimate) / error / math.sqrt(2)),
        method="paired DeLong",
    )


def id_flagged_interval(
    id_scores: Scores,
    ood_scores: Scores,
    level: float = DEFAULT_LEVEL,
    confidence: float = DEFAULT_CONFIDENCE,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the share of ID flagged when this share of OOD is caught, with its bootstrap interval.

    ID and OOD are resampled apart (stratified) and the threshold is found anew in each resample; the bounds
    are percentiles. Where no ID query is flagged, or all are, resampling cannot show that a larger sample
    might differ: that bound is then the exact binomial one at the threshold found, 0.036 for 0 of 100.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: the level is not in (0, 1], the confidence not in (0, 1), or resamples below 1.
    """
    estimate = id_flagged_at_ood_caught(id_scores, ood_scores, level)
    negatives, positives = finite_scores(id_scores, "ID"), finite_scores(ood_scores, "OOD")
    return _bootstrap(estimate, negatives, positives, level, confidence, resamples, seed)


def ood_passed_interval(
    id_scores: Scores,
    ood_scores: Scores,
    level: float = DEFAULT_LEVEL,
    confidence: float = DEFAULT_CONFIDENCE,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the share of OOD passed when this share of ID is kept, with its bootstrap interval.

    Found as in id_flagged_interval, with the roles of ID and OOD exchanged.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: the level is not in (0, 1], the confidence not in (0, 1), or resamples below 1.
    """
    estimate = ood_passed_at_id_kept(id_scores, ood_scores, level)
    negatives, positives = -finite_scores(ood_scores, "OOD"), -finite_scores(id_scores, "ID")
    return _bootstrap(estimate, negatives, positives, level, confidence, resamples, seed)


_ALIKE = "exact bound for disjoint pairs, since all pairs compare alike"


def _pairwise_wins(id_side: Floats, ood_side: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each query the share of the other side below it, ties half, (N,) and (M,)."""
    return _share_below(np.sort(ood_side), id_side), _share_below(np.sort(id_side), ood_side)


def _share_below(ascending: Floats, scores: Floats) -> NDArray[np.float64]:
    below = np.searchsorted(ascending, scores, side="left")
    not_above = np.searchsorted(ascending, scores, side="right")
    share: NDArray[np.float64] = (below + not_above) / (2.0 * ascending.size)
    return share


def _standard_error(id_parts: NDArray[np.float64], ood_parts: NDArray[np.float64]) -> float:
    return math.sqrt(sum(float(part.var(ddof=1)) / part.size for part in (id_parts, ood_parts)))


def _difference_without_variance(estimate: float, pairs: int, confidence: float) -> Difference:
    likely = _rarest(pairs, confidence)
    rest = 1.0 - likely
    return Difference(
        estimate=estimate,
        low=max(-1.0, estimate * likely - rest),
        high=min(1.0, estimate * likely + rest),
        confidence=confidence,
        p_value=1.0 if estimate == 0.0 else min(1.0, 2.0 ** (1 - pairs)),
        method=_ALIKE,
    )


def _bootstrap(
    estimate: float,
    negatives: Floats,
    positives: Floats,
    level: float,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Return the percentile interval of the share of negatives at or above the positives' threshold.

    A resample's threshold is an order statistic of uniform draws from the sorted scores, so its rank is a
    beta variate; the negatives at or above it are then binomial. This is the bootstrap's own distribution,
    without drawing a resample of scores.
    """
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"The bootstrap needs at least one resample, got {resamples}.")
    generator = np.random.default_rng(seed)
    from_top = least_count(level, positives.size)
    ranks = generator.beta(positives.size - from_top + 1, from_top, size=resamples)
    places = np.minimum((ranks * positives.size).astype(np.int64), positives.size - 1)
    thresholds = np.sort(positives)[places]
    reached = 1.0 - np.searchsorted(np.sort(negatives), thresholds) / negatives.size
    shares = generator.binomial(negatives.size, reached) / negatives.size
    low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2])
    unseen = 1.0 - _rarest(negatives.size, confidence)
    if estimate == 0.0:
        high = max(high, unseen)
    if estimate == 1.0:
        low = min(low, 1.0 - unseen)
    return Interval(estimate, float(low), float(high), confidence, "stratified bootstrap")


def _rarest(trials: int, confidence: float) -> float:
    """Return the smallest probability with which an outcome seen in every trial is not too unlikely."""
    return float(((1.0 - confidence) / 2.0) ** (1.0 / trials))


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
