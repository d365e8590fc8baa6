"""What the browser draws a run's scores from: counts by score for every k on a log grid."""

import numpy as np
from torch import Tensor

from nnguide_core.evaluation import Evaluation, Judged
from nnguide_core.scoring import Neighbors
from nnguide_core.sweep import BinnedSweep, binned_over_k
from views.components.scores import BinnedScores

__all__ = ["binned_scores"]


def binned_scores(evaluation: Evaluation) -> BinnedScores:
    """Return what the browser draws from while the sliders move; ID is split by whether its class is right.

    Raises:
        UndefinedMetricError: there are no ID or no OOD queries with a score.
    """
    id_groups: dict[str, Neighbors] = {}
    for judged in evaluation.id:
        right = _not_wrong(judged)
        id_groups[f"{judged.dataset.name}/right"] = judged.neighbors.rows(judged.neighbors.finite & right)
        id_groups[f"{judged.dataset.name}/wrong"] = judged.neighbors.rows(judged.neighbors.finite & ~right)
    ood_groups = {each.dataset.name: each.neighbors.rows(each.neighbors.finite) for each in evaluation.ood}
    return _table(binned_over_k(id_groups, ood_groups), evaluation)


def _not_wrong(judged: Judged) -> Tensor:
    return judged.correct | (judged.features.labels < 0)


def _table(sweep: BinnedSweep, evaluation: Evaluation) -> BinnedScores:
    by_group = np.moveaxis(sweep.counts, 1, 0)  # (G, K, B), ID right and wrong in turn
    id_groups, ood_groups = by_group[: sweep.id_groups], by_group[sweep.id_groups :]
    wrong = np.concatenate([id_groups[1::2], np.zeros_like(ood_groups)])
    return BinnedScores(
        names=tuple(judged.dataset.name for judged in evaluation.queries),
        ood=(False,) * len(evaluation.id) + (True,) * len(evaluation.ood),
        ks=sweep.ks,
        edges=np.stack([sweep.edges(row) for row in range(len(sweep.ks))]),
        counts=np.concatenate([id_groups[::2] + id_groups[1::2], ood_groups]),
        wrong=wrong if wrong.any() else None,
    )
