"""Why an image got its score: what is typical, what carries the difference, what would change the decision.

A score is -guidance * energy, so the gap between an image and a typical ID image divides between the two
exactly: each factor's part is its own change times the mean of the other (the Shapley value of two players).
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core import metrics
from nnguide_core.evaluation.judging import Evaluation, Judged, Part, neighbors
from nnguide_core.records import Threshold
from nnguide_core.scoring import Neighbors, flagged, running_guidance, score
from nnguide_core.sweep import Similarities, scores_over_k

__all__ = [
    "Flips",
    "Gap",
    "Typical",
    "WhatIf",
    "flips",
    "gap_to",
    "pooled_neighbors",
    "thresholds_over_k",
    "typical",
    "what_if",
]

_FEWEST = 5  # ID images of a class from which on the class has something typical of its own


@dataclass(frozen=True)
class Typical:
    """The median ID query that the model takes for a class, or of all ID queries where the class has few."""

    guidance: float
    energy: float
    cosine: float  # mean over its neighbours
    bank_energy: float  # mean over its neighbours
    images: int  # how many ID queries the medians are of
    class_name: str  # "" where they are of all classes

    @property
    def score(self) -> float:
        """The score of this guidance and energy, higher = more OOD."""
        return -self.guidance * self.energy


@dataclass(frozen=True)
class Gap:
    """How much more OOD an image is than a typical ID image. The two parts add up to it."""

    guidance: float  # what its lower guidance adds to its score
    energy: float  # what its lower energy adds

    @property
    def total(self) -> float:
        """Score of the image minus score of the typical image."""
        return self.guidance + self.energy

    @property
    def guidance_share(self) -> float | None:
        """The guidance's part of the gap; below 0 or above 1 where the parts oppose; None without a gap."""
        return self.guidance / self.total if self.total else None


@dataclass(frozen=True)
class Flips:
    """The score of one query and the threshold for every k, and where the decision changes."""

    scores: Tensor  # (k_max,) float32
    thresholds: Tensor  # (k_max,) float64

    @property
    def flagged(self) -> Tensor:
        """The decision at every k, (k_max,) bool."""
        return flagged(self.scores, self.thresholds)

    @property
    def ks(self) -> tuple[int, ...]:
        """Each k at which the decision is not that of k - 1, ascending."""
        changes = self.flagged[1:] != self.flagged[:-1]
        return tuple((changes.nonzero().squeeze(1) + 2).tolist())


@dataclass(frozen=True)
class WhatIf:
    """What becomes of the decisions when some bank images are left out; threshold and ReAct clip stay."""

    neighbors: Neighbors  # of the one query, (1, k)
    flagged: bool
    newly_flagged: int  # other queries that passed and would be flagged
    newly_passed: int  # other queries that were flagged and would pass

    @property
    def score(self) -> float:
        """The query's score without those bank images."""
        return float(self.neighbors.score)


def typical(evaluation: Evaluation, class_index: int, k: int) -> Typical | None:
    """Return what is typical of the ID queries that the model takes for a class; None without ID queries."""
    found = [judged.neighbors.rows(judged.neighbors.finite) for judged in evaluation.id]
    if sum(len(each.energy) for each in found) == 0:
        return None
    of_class = torch.cat(
        [judged.predicted[judged.neighbors.finite] == class_index for judged in evaluation.id]
    )
    chosen = of_class if of_class.sum() >= _FEWEST else torch.ones_like(of_class)
    rows = torch.cat([each.indices[:, :k] for each in found])[chosen]
    return Typical(
        guidance=_median(torch.cat([each.guidance_at(k) for each in found])[chosen]),
        energy=_median(torch.cat([each.energy for each in found])[chosen]),
        cosine=_median(torch.cat([each.cosines[:, :k].mean(dim=1) for each in found])[chosen]),
        bank_energy=_median(evaluation.bank.energies[rows].mean(dim=1)),
        images=int(chosen.sum()),
        class_name=evaluation.question.class_names[class_index] if chosen is of_class else "",
    )


def gap_to(usual: Typical, guidance: float, energy: float) -> Gap:
    """Divide the gap between a query and a typical one between guidance and energy.

    >>> gap_to(Typical(3.0, 10.0, 0.9, 3.5, 50, ""), guidance=2.0, energy=8.0)
    Gap(guidance=9.0, energy=5.0)
    """
    return Gap(
        guidance=(usual.guidance - guidance) * (usual.energy + energy) / 2,
        energy=(usual.energy - energy) * (usual.guidance + guidance) / 2,
    )


def thresholds_over_k(evaluation: Evaluation, rule: Threshold) -> Tensor:
    """Return the threshold that a rule gives for every k, (k_max,) float64.

    Raises:
        UndefinedMetricError: the rule needs ID (or OOD) queries with a score and there are none.
    """
    if rule.kind == "value":
        return torch.full((evaluation.k_max,), rule.level, dtype=torch.float64)
    if rule.kind == "id_kept":
        scores = _scores_over_k(evaluation, evaluation.id, "ID")
        return _doubles(metrics.threshold_id_kept(row, rule.level) for row in scores)
    if rule.kind == "ood_caught":
        scores = _scores_over_k(evaluation, evaluation.ood, "OOD")
        return _doubles(metrics.threshold_ood_caught(row, rule.level) for row in scores)
    assert_never(rule.kind)


def flips(judged: Judged, row: int, thresholds: Tensor) -> Flips:
    """Return one query's score for every k beside the thresholds of thresholds_over_k."""
    similarities = judged.neighbors.similarities[row : row + 1, : len(thresholds)]
    scores = score(running_guidance(similarities)[0], judged.neighbors.energy[row])
    return Flips(scores.where(scores.isfinite(), torch.nan), thresholds)


def what_if(
    evaluation: Evaluation, judged: Judged, row: int, excluded: Tensor, k: int, threshold: float
) -> WhatIf:
    """Return what changes when bank rows count as absent, exactly and without a new search where possible.

    Args:
        evaluation: what was judged, with the neighbours that it kept.
        judged: the query's dataset.
        row: the query.
        excluded: bank rows, (M,) int64.
        k: neighbours that guide.
        threshold: stays as it is.

    Raises:
        ValueError: fewer than k bank images would remain, or the threshold is NaN.
    """
    newly_flagged = newly_passed = 0
    own: Neighbors | None = None
    for each in evaluation.queries:
        after = _without(evaluation, each, excluded, k)
        before, now = each.flagged(k, threshold), flagged(after.score_at(k), threshold)
        if each is judged:
            own = after.rows(slice(row, row + 1))
            before, now = _all_but(before, row), _all_but(now, row)
        newly_flagged += int((now & ~before).sum())
        newly_passed += int((before & ~now).sum())
    if own is None:
        raise ValueError(f"{judged.dataset.name} is not part of this evaluation.")
    return WhatIf(own, bool(flagged(own.score, threshold)), newly_flagged, newly_passed)


def pooled_neighbors(parts: Sequence[Judged]) -> Similarities:
    """Return the guided similarities and energies of all queries with a score, as sweep takes them."""
    finite = [judged.neighbors.rows(judged.neighbors.finite) for judged in parts]
    width = min((each.k for each in finite), default=0)
    return Similarities(
        torch.cat([torch.empty(0, width), *(each.similarities[:, :width] for each in finite)]),
        torch.cat([torch.empty(0), *(each.energy for each in finite)]),
    )


def _scores_over_k(evaluation: Evaluation, parts: Sequence[Judged], side: str) -> NDArray[np.float32]:
    return scores_over_k(pooled_neighbors(parts), np.arange(1, evaluation.k_max + 1), side)


def _without(evaluation: Evaluation, judged: Judged, excluded: Tensor, k: int) -> Neighbors:
    """Return each query's first k neighbours that are not excluded.

    The neighbours kept are the nearest of all, so what remains of them is the nearest of the rest. Only
    where fewer than k remain is the bank searched again, or where the rest turns the sign of every product.
    """
    if evaluation.bank.direction(excluded) != evaluation.bank.direction():
        return _turned(evaluation, judged, excluded, k)
    kept = judged.neighbors
    remain = ~torch.isin(kept.indices, excluded)
    order = remain.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
    fields = ("indices", "similarities", "cosines")
    nearest = replace(kept, **{name: getattr(kept, name).gather(1, order) for name in fields})
    short = (remain.sum(dim=1) < k).nonzero().squeeze(1)
    if len(short):
        again = _search(evaluation, judged, short, excluded, k)
        for name in fields:
            getattr(nearest, name)[short] = getattr(again, name)
    return nearest


def _search(evaluation: Evaluation, judged: Judged, rows: Tensor, excluded: Tensor, k: int) -> Neighbors:
    part = Part(judged.dataset, judged.features)
    own = evaluation.bank.own_rows([part.features.ids[row] for row in rows.tolist()])
    absent = torch.cat([own, excluded.expand(len(rows), -1)], dim=1)
    return evaluation.detector.neighbors_features(
        part.features.features[rows], k=k, logits=part.features.logits[rows], exclude=absent
    )


def _turned(evaluation: Evaluation, judged: Judged, excluded: Tensor, k: int) -> Neighbors:
    """Return each query's neighbours in a bank of the other images, as rows of the whole bank."""
    detector = copy.copy(evaluation.detector)  # pages share the evaluation
    detector.bank = evaluation.bank.without(excluded)
    found = neighbors(detector, Part(judged.dataset, judged.features), k)
    rows = torch.arange(evaluation.bank.size)
    rows = rows[~torch.isin(rows, excluded)]
    return replace(found, indices=rows[found.indices].where(found.indices >= 0, -1))


def _doubles(numbers: Iterable[float]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float64)


def _all_but(decisions: Tensor, row: int) -> Tensor:
    return torch.cat([decisions[:row], decisions[row + 1 :]])


def _median(values: Tensor) -> float:
    return float(np.median(values.numpy()))  # torch's median is the lower of two middle values
