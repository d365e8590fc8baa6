"""What the browser draws a run's scores from: counts by score for every k on a log grid."""

from nnguide_core.evaluation import Evaluation
from nnguide_core.scoring import Neighbors
from nnguide_core.sweep import binned_over_k
from views.classified import wrongly_classified
from views.components.scores import BinnedScores
from views.components.scores import binned_scores as as_drawn

__all__ = ["binned_scores"]

_WRONGLY = "\0wrongly classified"  # no dataset's name ends so


def binned_scores(evaluation: Evaluation) -> BinnedScores:
    """Return what the browser draws from while the sliders move; wrongly classified ID images stand apart.

    An ID image of a class that the model does not know is neither right nor wrong: it is only counted.

    Raises:
        UndefinedMetricError: there are no ID or no OOD queries with a score.
    """
    id_groups: dict[str, Neighbors] = {}
    wrong: dict[str, str] = {}
    for judged in evaluation.id:
        name, finite, is_wrong = judged.dataset.name, judged.neighbors.finite, wrongly_classified(judged)
        id_groups[name] = judged.neighbors.rows(finite & ~is_wrong)
        id_groups[name + _WRONGLY] = judged.neighbors.rows(finite & is_wrong)
        wrong[name + _WRONGLY] = name
    unknown = sum(int((judged.features.labels < 0).sum()) for judged in evaluation.id)
    ood_groups = {each.dataset.name: each.neighbors.rows(each.neighbors.finite) for each in evaluation.ood}
    return as_drawn(binned_over_k(id_groups, ood_groups), wrong, unknown)
