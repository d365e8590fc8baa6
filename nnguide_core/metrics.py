"""How well scores separate OOD from ID: threshold-free areas, shares at a level, and thresholds.

OOD is the positive class and higher score = more OOD. A query is flagged when score >= threshold, equal
scores share one threshold, and "at a level" means the first threshold that reaches at least that share,
without interpolation. NaN and infinite scores are refused: their metrics are not defined.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core.errors import UndefinedMetricError

__all__ = [
    "DEFAULT_LEVEL",
    "Floats",
    "Scores",
    "aupr_id",
    "aupr_ood",
    "auroc",
    "check_level",
    "doubled_wins",
    "finite_scores",
    "id_flagged_at_ood_caught",
    "least_count",
    "ood_passed_at_id_kept",
    "sorted_pair",
    "threshold_id_kept",
    "threshold_ood_caught",
]

DEFAULT_LEVEL = 0.95  # the share at which FPR is usually reported

Floats = NDArray[np.floating[Any]]
Scores = Tensor | NDArray[Any]  # (N,) of any real type


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """Return P(OOD score > ID score) + P(equal) / 2, in [0, 1], 0.5 = no separation, (N,) and (M,).

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
    """
    id_sorted, ood_sorted = sorted_pair(id_scores, ood_scores)
    return doubled_wins(id_sorted, ood_sorted) / (2 * id_sorted.size * ood_sorted.size)


def aupr_ood(id_scores: Scores, ood_scores: Scores) -> float:
    """Return the average precision with OOD as positive class, in (0, 1], (N,) and (M,).

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
    """
    return _average_precision(*sorted_pair(id_scores, ood_scores))


def aupr_id(id_scores: Scores, ood_scores: Scores) -> float:
    """Return the average precision with ID as positive class and -score as confidence, in (0, 1].

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
    """
    id_sorted, ood_sorted = sorted_pair(id_scores, ood_scores)
    return _average_precision(-ood_sorted[::-1], -id_sorted[::-1])


def id_flagged_at_ood_caught(id_scores: Scores, ood_scores: Scores, level: float = DEFAULT_LEVEL) -> float:
    """Return the share of ID flagged when at least this share of OOD is caught, in [0, 1], lower = better.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: the level is not in (0, 1].
    """
    scores = finite_scores(id_scores, "ID")
    return _share_from(scores, threshold_ood_caught(ood_scores, level))


def ood_passed_at_id_kept(id_scores: Scores, ood_scores: Scores, level: float = DEFAULT_LEVEL) -> float:
    """Return the share of OOD passed when at least this share of ID is kept, in [0, 1], lower = better.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: the level is not in (0, 1].
    """
    last_kept = _order_statistic(-finite_scores(id_scores, "ID"), level)
    return _share_from(-finite_scores(ood_scores, "OOD"), last_kept)


def threshold_ood_caught(ood_scores: Scores, level: float = DEFAULT_LEVEL) -> float:
    """Return the highest threshold that flags at least this share of OOD: one of the OOD scores.

    Raises:
        UndefinedMetricError: there are no OOD scores, or one is not finite.
        ValueError: the level is not in (0, 1].
    """
    return _order_statistic(finite_scores(ood_scores, "OOD"), level)


def threshold_id_kept(id_scores: Scores, level: float = DEFAULT_LEVEL) -> float:
    """Return the lowest threshold that passes at least this share of ID.

    It is the next number after the last ID score kept, in the scores' own precision: rounding it to fewer
    digits than it has can flag that score.

    Raises:
        UndefinedMetricError: there are no ID scores, or one is not finite.
        ValueError: the level is not in (0, 1].
    """
    scores = finite_scores(id_scores, "ID")
    return _just_above(-_order_statistic(-scores, level), scores.dtype)


def finite_scores(scores: Scores, side: str, *, allow_empty: bool = False) -> Floats:
    """Return the scores of one side as a float32 or float64 array after checking them, (N,) -> (N,).

    Raises:
        UndefinedMetricError: there are none, or some are NaN or infinite; the message names how many.
        ValueError: the scores are not one-dimensional.
    """
    array = _as_array(scores)
    if array.ndim != 1:
        raise ValueError(f"{side} scores must have shape (N,), got {array.shape}.")
    if array.size == 0 and not allow_empty:
        raise UndefinedMetricError(f"There are no {side} scores, so the metric is not defined.")
    unusable = array.size - int(np.isfinite(array).sum())
    if unusable:
        missing = int(np.isnan(array).sum())
        raise UndefinedMetricError(
            f"{unusable:,} of {array.size:,} {side} scores are not finite ({missing:,} NaN, "
            f"{unusable - missing:,} infinite), so the metric is not defined. Leave these queries out."
        )
    return array


def sorted_pair(id_scores: Scores, ood_scores: Scores) -> tuple[Floats, Floats]:
    """Return both sides checked and ascending, (N,) and (M,), in one common precision.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
    """
    id_side, ood_side = finite_scores(id_scores, "ID"), finite_scores(ood_scores, "OOD")
    common = np.result_type(id_side, ood_side)
    return np.sort(id_side.astype(common, copy=False)), np.sort(ood_side.astype(common, copy=False))


def doubled_wins(id_sorted: Floats, ood_sorted: Floats) -> int:
    """Return 2 * #(ID < OOD) + #(ID == OOD) over all pairs, both sides ascending and of one type."""
    below = np.searchsorted(id_sorted, ood_sorted, side="left")
    # Ties are looked up only where there are some: it halves the cost of scores without ties.
    tied = ood_sorted[id_sorted[np.minimum(below, id_sorted.size - 1)] == ood_sorted]
    ties = np.searchsorted(id_sorted, tied, side="right") - np.searchsorted(id_sorted, tied, side="left")
    return 2 * int(below.sum()) + int(ties.sum())


def check_level(level: float) -> None:
    """Refuse a level that is not a share in (0, 1].

    Raises:
        ValueError: it is not.
    """
    if not 0.0 < level <= 1.0:
        raise ValueError(f"The level must be a share in (0, 1], such as 0.95, got {level}.")


def least_count(level: float, total: int) -> int:
    """Return the smallest count with count / total >= level, so that 0.07 of 100 is 7 and not 8."""
    count = math.ceil(level * total)
    while count > 0 and (count - 1) / total >= level:
        count -= 1
    while count / total < level:
        count += 1
    return count


def _share_from(scores: Floats, threshold: float) -> float:
    """Return the share of scores at or above a threshold, compared in float64 as scoring.flagged does."""
    # np.float64, unlike a plain float, makes NumPy compare float32 scores in float64.
    return float(np.mean(scores >= np.float64(threshold)))


def _order_statistic(scores: Floats, level: float) -> float:
    """Return the highest score that at least this share of the scores reaches."""
    check_level(level)
    position = scores.size - least_count(level, scores.size)
    return float(np.partition(scores, position)[position])


def _just_above(score: float, dtype: np.dtype[Any]) -> float:
    """Return the smallest number of this type above a score; infinity above the largest."""
    with np.errstate(over="ignore"):
        return float(np.nextafter(dtype.type(score), dtype.type(np.inf)))


def _average_precision(negatives: Floats, positives: Floats) -> float:
    """Return the sum of precision over recall steps, both sides ascending, higher = more positive."""
    thresholds = np.unique(positives)
    caught = positives.size - np.searchsorted(positives, thresholds)
    alarms = negatives.size - np.searchsorted(negatives, thresholds)
    steps = caught - np.append(caught[1:], 0)
    return float((steps * (caught / (caught + alarms))).sum() / positives.size)


def _as_array(scores: Scores) -> Floats:
    if isinstance(scores, Tensor):
        kept = scores.dtype in (torch.float32, torch.float64)
        return (scores if kept else scores.double()).detach().cpu().numpy()
    array = np.asarray(scores)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
