"""Which images are worth a look: each queue is a rule on scores, decisions, labels and neighbours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnguide_core.evaluation.judging import NNGUIDE, Evaluation, Judged
from nnguide_core.records import Role, Threshold
from nnguide_core.scoring import flagged

__all__ = ["ORDERS", "QUEUES", "Places", "Situation", "narrowed", "ordered", "queue"]

NEAR_SHARE = 0.05  # of all queries, those closest to the threshold
DEEP_SHARE = 0.5  # an OOD image among this share of the most ID-like ID images is suspected to be ID
SURE = 0.9  # probability of another class from which on a label is suspected
_COMPARED = "Energy"  # the baseline that decisions are compared with
_KEPT = Threshold("id_kept", 0.95)  # level at which detectors are compared


@dataclass(frozen=True)
class Situation:
    """What the rules look at: everything judged, at one k and threshold."""

    evaluation: Evaluation
    k: int
    threshold: float


Rule = Callable[[Situation, Judged], Tensor]
Places = Mapping[str, Tensor]  # dataset name -> rows of it, (M,) int64


def queue(name: str, situation: Situation) -> Places:
    """Return the rows of each query dataset that are in a queue, (M,) int64 ascending, by dataset name.

    Queries without a score are in none.

    Raises:
        KeyError: there is no such queue.
    """
    rule = QUEUES[name]
    return {
        judged.dataset.name: (rule(situation, judged) & judged.neighbors.finite).nonzero().squeeze(1)
        for judged in situation.evaluation.queries
    }


def narrowed(
    situation: Situation,
    places: Places,
    *,
    dataset: str | None = None,
    label: str | None = None,
    predicted: int | None = None,
) -> Places:
    """Return the places that fit every filter given: dataset, class name, index of the predicted class."""
    kept = {}
    for judged in situation.evaluation.queries:
        rows = places[judged.dataset.name]
        if dataset not in (None, judged.dataset.name):
            rows = rows[:0]
        if predicted is not None:
            rows = rows[judged.predicted[rows] == predicted]
        if label is not None:
            wanted = [judged.images[row].label == label for row in rows.tolist()]
            rows = rows[torch.tensor(wanted, dtype=torch.bool)]
        kept[judged.dataset.name] = rows
    return kept


def ordered(situation: Situation, places: Places, order: str) -> list[tuple[Judged, int]]:
    """Return the places as dataset and row, in one of ORDERS; ties as the datasets have them.

    Raises:
        KeyError: there is no such order.
    """
    key = ORDERS[order]
    parts = [(judged, places[judged.dataset.name]) for judged in situation.evaluation.queries]
    ranks = [
        key(judged.neighbors.score_at(situation.k)[rows] - situation.threshold) for judged, rows in parts
    ]
    named = [(judged, row) for judged, rows in parts for row in rows.tolist()]
    return [named[place] for place in torch.cat([torch.empty(0), *ranks]).argsort(stable=True).tolist()]


def _false_alarms(situation: Situation, judged: Judged) -> Tensor:
    """ID images that are flagged."""
    return judged.flagged(situation.k, situation.threshold) & (judged.dataset.role is Role.ID)


def _misses(situation: Situation, judged: Judged) -> Tensor:
    """OOD images that pass."""
    return ~judged.flagged(situation.k, situation.threshold) & (judged.dataset.role is Role.OOD)


def _near(situation: Situation, judged: Judged) -> Tensor:
    """The 5 % of all queries whose scores are closest to the threshold, on either side."""
    margins = [(each.neighbors.score_at(situation.k) - situation.threshold).abs() for each in _all(situation)]
    pooled = torch.cat(margins)
    pooled = pooled[pooled.isfinite()]
    if len(pooled) == 0:
        return torch.zeros(len(judged.features), dtype=torch.bool)
    reach = pooled.kthvalue(max(1, round(NEAR_SHARE * len(pooled)))).values
    return (judged.neighbors.score_at(situation.k) - situation.threshold).abs() <= reach


def _suspected_id(situation: Situation, judged: Judged) -> Tensor:
    """Images of OOD sets that score below the median ID query: more ID-like than half of ID."""
    id_scores = situation.evaluation.id_scores(NNGUIDE, situation.k)
    if judged.dataset.role is not Role.OOD or len(id_scores) == 0:
        return torch.zeros(len(judged.features), dtype=torch.bool)
    return judged.neighbors.score_at(situation.k) < float(np.quantile(id_scores.numpy(), DEEP_SHARE))


def _suspected_labels(situation: Situation, judged: Judged) -> Tensor:
    """ID images that the model, at 90 % or more, and most neighbours put into the same other class."""
    labels, predicted = judged.features.labels, judged.predicted
    probability = judged.features.logits.softmax(dim=1).amax(dim=1)
    neighbours = situation.evaluation.bank.labels[judged.neighbors.indices[:, : situation.k].clamp_min(0)]
    agree = (neighbours == predicted[:, None]).float().mean(dim=1) > 0.5
    other = (labels >= 0) & (predicted != labels) & (probability >= SURE) & agree
    return other & (judged.dataset.role is Role.ID)


def _disagreements(situation: Situation, judged: Judged) -> Tensor:
    """Images on which NNGuide and Energy decide differently when each keeps at least 95 % of ID."""
    evaluation = situation.evaluation
    detectors = (NNGUIDE, _COMPARED)
    if _COMPARED not in judged.baselines or not all(
        len(evaluation.id_scores(detector, situation.k)) for detector in detectors
    ):
        return torch.zeros(len(judged.features), dtype=torch.bool)
    decisions = [
        flagged(judged.scores(detector, situation.k), evaluation.threshold(_KEPT, situation.k, detector))
        for detector in detectors
    ]
    return decisions[0] != decisions[1]


def _all(situation: Situation) -> tuple[Judged, ...]:
    return situation.evaluation.queries


ORDERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "furthest from the threshold": lambda margin: -margin.abs(),
    "closest to the threshold": lambda margin: margin.abs(),
    "highest score": lambda margin: -margin,
    "lowest score": lambda margin: margin,
}
QUEUES: Mapping[str, Rule] = {
    "misses": _misses,
    "false alarms": _false_alarms,
    "near the threshold": _near,
    "suspected ID in OOD sets": _suspected_id,
    "suspected wrong labels": _suspected_labels,
    "detectors disagree": _disagreements,
}
