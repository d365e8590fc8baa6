"""What the browser draws a run's scores from: counts by score for every k."""

from nnguide_core.evaluation import Evaluation
from nnguide_core.scoring import Neighbors
from nnguide_core.sweep import BinnedSweep, binned_over_k
from views.classified import wrongly_classified
from views.components.scores import BinnedScores
from views.components.scores import binned_scores as as_drawn

__all__ = ["binned_scores", "counted_scores"]

_WRONGLY = "\0wrongly classified"  # no dataset's name ends so


def counted_scores(evaluation: Evaluation) -> BinnedSweep:
    """Return counts by score and the metrics for every k; wrongly classified ID images are groups apart.

    Raises:
        UndefinedMetricError: no query has a score.
    """
    id_groups: dict[str, Neighbors] = {}
    for judged in evaluation.id:
        name, finite, is_wrong = judged.dataset.name, judged.neighbors.finite, wrongly_classified(judged)
        id_groups[name] = judged.neighbors.rows(finite & ~is_wrong)
        id_groups[name + _WRONGLY] = judged.neighbors.rows(finite & is_wrong)
    ood_groups = {each.dataset.name: each.neighbors.rows(each.neighbors.finite) for each in evaluation.ood}
    return binned_over_k(id_groups, ood_groups)


def binned_scores(evaluation: Evaluation, counted: BinnedSweep) -> BinnedScores:
    """Return what the browser draws from while the sliders move, from what counted_scores gives.

    An ID image of a class that the model does not know is neither right nor wrong: it is only counted.
    """
    wrong = {judged.dataset.name + _WRONGLY: judged.dataset.name for judged in evaluation.id}
    unknown = sum(int((judged.features.labels < 0).sum()) for judged in evaluation.id)
    return as_drawn(counted, wrong, unknown)
