"""NNGuide beside the baselines on every OOD dataset: metrics with intervals, and paired differences.

Every row is one OOD dataset against all ID queries; OOD is the positive class. Queries without a finite score
are left out and counted, apart for each detector in its metrics, together in a paired difference.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from nnguide_core import metrics
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation.judging import NNGUIDE, Evaluation, Judged
from nnguide_core.intervals import (
    DEFAULT_CONFIDENCE,
    Difference,
    Interval,
    auroc_difference,
    auroc_interval,
    id_flagged_interval,
    ood_passed_interval,
)
from nnguide_core.records import Role
from nnguide_core.settings import DEFAULT_K

__all__ = [
    "DifferenceRow",
    "FlaggedRow",
    "MetricsRow",
    "differences",
    "flagged_table",
    "metrics_row",
    "metrics_table",
]

Result = TypeVar("Result")


@dataclass(frozen=True)
class MetricsRow:
    """One detector on one OOD dataset against all ID queries. None = not defined."""

    detector: str
    dataset: str
    id_count: int
    ood_count: int
    left_out: int  # queries without a finite score
    auroc: Interval | None
    aupr_ood: float | None
    aupr_id: float | None
    ood_passed_at_95_id_kept: Interval | None
    id_flagged_at_95_ood_caught: Interval | None


@dataclass(frozen=True)
class DifferenceRow:
    """AUROC of NNGuide minus that of a baseline on one OOD dataset, on the same images."""

    baseline: str
    dataset: str
    images: int  # ID and OOD queries for which both have a finite score
    difference: Difference | None  # above 0 where NNGuide separates better; None = not defined


@dataclass(frozen=True)
class FlaggedRow:
    """What one threshold does to the images of one dataset."""

    dataset: str
    role: Role
    images: int
    without_score: int  # of these, those that have no score and so are not flagged
    flagged: int


def metrics_table(
    evaluation: Evaluation, k: int = DEFAULT_K, detectors: Iterable[str] | None = None
) -> list[MetricsRow]:
    """Return one row per OOD dataset and detector (all if not given), dataset by dataset, NNGuide first."""
    named = evaluation.detectors if detectors is None else tuple(detectors)
    return [
        metrics_row(
            detector,
            judged.dataset.name,
            _id_scores(evaluation, detector, k),
            judged.scores(detector, k),
        )
        for judged in evaluation.ood
        for detector in named
    ]


def flagged_table(evaluation: Evaluation, k: int, threshold: float) -> list[FlaggedRow]:
    """Return how many images of each dataset NNGuide flags, ID before OOD; one side is enough.

    Raises:
        ValueError: the threshold is NaN or infinite, or k is out of range.
    """
    return [
        FlaggedRow(
            judged.dataset.name,
            judged.dataset.role,
            images=len(judged.features),
            without_score=len(judged.features) - int(judged.neighbors.finite.sum()),
            flagged=int(judged.flagged(k, threshold).sum()),
        )
        for judged in evaluation.queries
    ]


def metrics_row(detector: str, dataset: str, id_scores: Tensor, ood_scores: Tensor) -> MetricsRow:
    """Return a detector's metrics, (N,) ID and (M,) OOD scores; NaN scores are left out and counted."""
    sides = id_scores[id_scores.isfinite()], ood_scores[ood_scores.isfinite()]
    return MetricsRow(
        detector=detector,
        dataset=dataset,
        id_count=len(sides[0]),
        ood_count=len(sides[1]),
        left_out=len(id_scores) + len(ood_scores) - len(sides[0]) - len(sides[1]),
        auroc=_defined(auroc_interval, *sides) or _defined(_auroc_alone, *sides),
        aupr_ood=_defined(metrics.aupr_ood, *sides),
        aupr_id=_defined(metrics.aupr_id, *sides),
        ood_passed_at_95_id_kept=_defined(ood_passed_interval, *sides),
        id_flagged_at_95_ood_caught=_defined(id_flagged_interval, *sides),
    )


def differences(evaluation: Evaluation, k: int = DEFAULT_K) -> list[DifferenceRow]:
    """Return how much better NNGuide separates than each baseline, by paired DeLong, dataset by dataset."""
    return [
        _difference(evaluation, judged, baseline, k)
        for judged in evaluation.ood
        for baseline in evaluation.detectors
        if baseline != NNGUIDE
    ]


def _difference(evaluation: Evaluation, judged: Judged, baseline: str, k: int) -> DifferenceRow:
    first_id, second_id = _both_finite(*(_id_scores(evaluation, name, k) for name in (NNGUIDE, baseline)))
    first_ood, second_ood = _both_finite(*(judged.scores(name, k) for name in (NNGUIDE, baseline)))
    try:
        found = auroc_difference(first_id, first_ood, second_id, second_ood)
    except UndefinedMetricError:
        found = None
    return DifferenceRow(baseline, judged.dataset.name, len(first_id) + len(first_ood), found)


def _both_finite(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    both = first.isfinite() & second.isfinite()
    return first[both], second[both]


def _id_scores(evaluation: Evaluation, detector: str, k: int) -> Tensor:
    """Return the scores of all ID queries in order, NaN among them."""
    return torch.cat([torch.empty(0), *(part.scores(detector, k) for part in evaluation.id)])


def _auroc_alone(id_scores: Tensor, ood_scores: Tensor) -> Interval:
    """Return AUROC where one score on a side shows no spread: anything is possible then."""
    estimate = metrics.auroc(id_scores, ood_scores)
    return Interval(estimate, 0.0, 1.0, DEFAULT_CONFIDENCE, "unbounded: one score on a side shows no spread")


def _defined(
    metric: Callable[[Tensor, Tensor], Result], id_scores: Tensor, ood_scores: Tensor
) -> Result | None:
    try:
        return metric(id_scores, ood_scores)
    except UndefinedMetricError:
        return None
