"""ROC and precision-recall curves and histograms small enough to send: at most 500 points, about 100 bins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnguide_core.errors import UndefinedMetricError
from nnguide_core.metrics import Floats, Scores, finite_scores, sorted_pair

__all__ = [
    "MOST_POINTS",
    "Curve",
    "Histogram",
    "count_in_bins",
    "histogram",
    "pr_curve",
    "robust_range",
    "roc_curve",
]

MOST_POINTS = 500
DEFAULT_BINS = 100
_INNER = (0.005, 0.995)  # the quantiles of a group between which its scores are typical
_MARGIN = 0.25  # of the typical range: scores further out than this go to an end bin

_THINNED = 4  # times the points allowed: longer curves are thinned to so many before points are weighed

_Points = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A polyline over P <= 500 points, each exact; its area is the whole curve's to 1e-4."""

    x: _Points  # (P,) in [0, 1], not falling
    y: _Points  # (P,) in [0, 1]
    thresholds: _Points  # (P,) not rising; infinity where nothing is flagged

    @property
    def area(self) -> float:
        """The area under the polyline, in [0, 1]."""
        return float(np.trapezoid(self.y, self.x))


@dataclass(frozen=True)
class Histogram:
    """Counts of G groups of scores over the same B bins; the end bins are open.

    Bin b holds edges[b] <= score < edges[b + 1], except that the first bin also holds everything below and
    the last everything above: every score is counted once.
    """

    edges: _Points  # (B + 1,) ascending
    groups: tuple[str, ...]  # G names
    counts: NDArray[np.int64]  # (G, B)
    below: NDArray[np.int64]  # (G,) how many of the first bin's scores lie below the first edge
    above: NDArray[np.int64]  # (G,) how many of the last bin's scores lie above the last edge


def roc_curve(
    id_scores: Scores, ood_scores: Scores, keep: Iterable[float] = (), points: int = MOST_POINTS
) -> Curve:
    """Return share of OOD caught (y) against share of ID flagged (x); the area is AUROC to 1e-4.

    Args:
        id_scores: (N,), higher = more OOD.
        ood_scores: (M,), higher = more OOD.
        keep: thresholds whose points must be on the curve, exactly.
        points: at most so many, the kept ones included.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: there are too few points for those kept.
    """
    thresholds, alarms, caught = _counts_by_threshold(id_scores, ood_scores)
    x = np.append(0.0, alarms / alarms[-1])
    y = np.append(0.0, caught / caught[-1])
    levels = np.append(np.inf, thresholds)
    turns = np.flatnonzero(_turns(np.append(0, alarms), np.append(0, caught)))
    chosen = _decimate(x, y, turns, _rows_at(levels, keep), points)
    return Curve(x[chosen], y[chosen], levels[chosen])


def pr_curve(
    id_scores: Scores, ood_scores: Scores, keep: Iterable[float] = (), points: int = MOST_POINTS
) -> Curve:
    """Return precision (y) against recall (x) with OOD positive; the area is the average precision to 1e-4.

    Average precision is the area under steps, so both corners of a step are points of the curve. For ID as
    positive class, exchange the sides and negate the scores.

    Args:
        id_scores: (N,), higher = more OOD.
        ood_scores: (M,), higher = more OOD.
        keep: thresholds whose points must be on the curve, exactly.
        points: at most so many, the kept ones included.

    Raises:
        UndefinedMetricError: a side is empty or holds a score that is not finite.
        ValueError: there are too few points for those kept.
    """
    thresholds, alarms, caught = _counts_by_threshold(id_scores, ood_scores)
    recall, precision = caught / caught[-1], caught / (caught + alarms)
    x = np.column_stack([np.append(0.0, recall[:-1]), recall]).ravel()
    y = np.repeat(precision, 2)
    levels = np.repeat(thresholds, 2)
    steps = np.flatnonzero(np.diff(caught, prepend=0))
    kept = 2 * np.maximum(_rows_at(thresholds, keep), 0) + 1
    chosen = _decimate(x, y, np.sort(np.append(2 * steps, 2 * steps + 1)), kept, points)
    return Curve(x[chosen], y[chosen], levels[chosen])


def histogram(groups: Mapping[str, Scores], bins: int = DEFAULT_BINS) -> Histogram:
    """Return the counts of every group over shared, equally wide bins that outliers cannot stretch.

    The bins span what robust_range returns. A group without scores has a row of zeros.

    Raises:
        UndefinedMetricError: no group has a score, or one is not finite.
        ValueError: fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"A histogram needs at least one bin, got {bins}.")
    sides = [finite_scores(scores, name, allow_empty=True) for name, scores in groups.items()]
    edges = np.linspace(*robust_range(sides), bins + 1)
    return Histogram(
        edges=edges,
        groups=tuple(groups),
        counts=np.stack([count_in_bins(side, edges) for side in sides]),
        below=np.array([(side < edges[0]).sum() for side in sides]),
        above=np.array([(side > edges[-1]).sum() for side in sides]),
    )


def robust_range(sides: Iterable[Floats]) -> tuple[float, float]:
    """Return the range worth showing, low < high: all scores, but for those far outside the typical ones.

    The typical range runs from the smallest 0.5 % quantile of any group to the largest 99.5 % quantile, so
    that a small group counts as much as a large one; it is widened by a quarter on both sides, and cut at
    the smallest and largest score. Where all typical scores are equal, it is the range of all scores.

    Raises:
        UndefinedMetricError: no group has a score.
    """
    full = [side for side in sides if side.size]
    if not full:
        raise UndefinedMetricError("There are no scores, so there is no range to show.")
    inner = np.array([np.quantile(side.astype(np.float64, copy=False), _INNER) for side in full])
    low, high = float(inner[:, 0].min()), float(inner[:, 1].max())
    smallest, largest = min(float(side.min()) for side in full), max(float(side.max()) for side in full)
    if smallest == largest:
        width = 1e-3 * max(abs(smallest), 1.0)
        return smallest - width, smallest + width
    if low == high:
        return smallest, largest
    margin = _MARGIN * (high - low)
    return max(low - margin, smallest), min(high + margin, largest)


def count_in_bins(scores: Floats, edges: _Points) -> NDArray[np.int64]:
    """Return how many scores fall into each bin of ascending edges, end bins open, (N,) -> (B,)."""
    places = np.searchsorted(edges[1:-1], scores, side="right")
    return np.bincount(places, minlength=edges.size - 1)


def _counts_by_threshold(
    id_scores: Scores, ood_scores: Scores
) -> tuple[_Points, NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct scores, falling, and how many ID and OOD queries each flags, (T,) each."""
    id_sorted, ood_sorted = sorted_pair(id_scores, ood_scores)
    thresholds = np.unique(np.concatenate([id_sorted, ood_sorted]))[::-1]
    alarms = id_sorted.size - np.searchsorted(id_sorted, thresholds)
    caught = ood_sorted.size - np.searchsorted(ood_sorted, thresholds)
    return thresholds.astype(np.float64), alarms, caught


def _turns(alarms: NDArray[np.int64], caught: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where the curve through these points bends, (T,) bool; its ends count as bends."""
    right, up = np.diff(alarms), np.diff(caught)
    bends = right[:-1] * up[1:] != right[1:] * up[:-1]
    return np.concatenate([[True], bends, [True]])


def _rows_at(levels: _Points, keep: Iterable[float]) -> NDArray[np.int64]:
    """Return for each threshold the last of the falling levels that flags the same scores; -1 if none."""
    wanted = np.array(list(keep), dtype=np.float64)
    return levels.size - 1 - np.searchsorted(levels[::-1], wanted)


def _decimate(
    x: _Points, y: _Points, turns: NDArray[np.int64], kept: NDArray[np.int64], points: int
) -> NDArray[np.int64]:
    """Return the rows of a polyline's points to draw, ascending: at most so many, the kept ones included."""
    forced = np.unique(np.concatenate([kept, turns[[0, -1]]]))
    if forced.size > points:
        raise ValueError(f"{points} points are too few for the {forced.size} that must be kept.")
    wanted = np.zeros(x.size, dtype=bool)
    wanted[turns] = wanted[forced] = True
    rows = np.flatnonzero(wanted)
    area = float(np.trapezoid(y[rows], x[rows]))
    if rows.size > _THINNED * points:
        wanted[rows] = _starts_block(x[rows], y[rows], _THINNED * points)
        wanted[forced] = True
        rows = np.flatnonzero(wanted)
    free = ~np.isin(rows, forced)
    return rows[_drop_points(x[rows], y[rows], free, area, points)]


def _starts_block(x: _Points, y: _Points, blocks: int) -> NDArray[np.bool_]:
    """Return which points are the first in one of so many blocks of equal length, (T,) bool."""
    right, up = np.abs(np.diff(x)), np.abs(np.diff(y))
    length = np.cumsum(right / max(right.sum(), 1e-300) + up / max(up.sum(), 1e-300))
    block = np.floor(blocks * length / length[-1])
    return np.append(True, np.diff(block, prepend=0.0) > 0)


def _drop_points(
    x: _Points, y: _Points, free: NDArray[np.bool_], area: float, points: int
) -> NDArray[np.bool_]:
    """Return which points remain, (T,) bool, after dropping one at a time the one that is missed least.

    Dropping a point adds a signed triangle to the area under the others. Small triangles go first, and of
    those the ones that bring the area back to the true one, so that the errors cancel instead of adding up.
    """
    before, after = np.arange(-1, x.size - 1), np.arange(1, x.size + 1)

    def triangle(at: int) -> float:
        one, two = before[at], after[at]
        return (
            float(
                (x[two] - x[one]) * (y[one] + y[two])
                - (x[at] - x[one]) * (y[one] + y[at])
                - (x[two] - x[at]) * (y[at] + y[two])
            )
            / 2
        )

    gains = np.array([triangle(at) if free[at] else np.inf for at in range(x.size)])
    error, remaining = float(np.trapezoid(y, x)) - area, np.ones(x.size, dtype=bool)
    for _ in range(x.size - points):
        dropped = int(np.argmin(np.abs(gains) + 2 * np.abs(gains + error)))
        error += gains[dropped]
        remaining[dropped], gains[dropped] = False, np.inf
        after[before[dropped]], before[after[dropped]] = after[dropped], before[dropped]
        for at in (before[dropped], after[dropped]):
            if free[at]:
                gains[at] = triangle(at)
    return remaining
