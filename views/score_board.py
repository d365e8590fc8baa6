"""The scores of a run in the browser: histogram, curves and sentence under the k and threshold sliders."""

from dataclasses import replace

from torch import Tensor

from nnguide_core import metrics
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation import NNGUIDE
from views import state
from views.components.scores import BinnedScores, Choice, Exact, Reply, scores
from views.current import View

__all__ = ["score_board"]


def score_board(view: View, table: BinnedScores, *, key: str) -> View:
    """Show the board and return the view at what the user has just set, which then holds on every page."""
    now = view

    def reply(chosen: Choice | None) -> Reply:
        nonlocal now
        if chosen is not None:
            now = replace(view, k=min(chosen.k, view.evaluation.k_max), rule=chosen.rule)
            state.set_k(now.k)
            state.set_threshold(now.rule)
        return _reply(now)

    scores(table, reply, key=key)
    return now


def _reply(view: View) -> Reply:
    evaluation, threshold = view.evaluation, view.threshold
    if threshold is None:
        raise UndefinedMetricError("There are no queries that the threshold could be found from.")
    flagged = tuple(int(judged.flagged(view.k, threshold).sum()) for judged in evaluation.queries)
    id_scores, ood_scores = evaluation.id_scores(NNGUIDE, view.k), evaluation.ood_scores(NNGUIDE, view.k)
    exact = Exact(
        flagged,
        passed_when_kept=metrics.ood_passed_at_id_kept(id_scores, ood_scores),
        flagged_when_caught=metrics.id_flagged_at_ood_caught(id_scores, ood_scores),
        aupr=tuple(_aupr(id_scores, judged.scores(NNGUIDE, view.k)) for judged in evaluation.ood),
    )
    return Reply(Choice(view.k, view.rule, threshold), exact)


def _aupr(id_scores: Tensor, scores: Tensor) -> float | None:
    """Return the area under the precision-recall curve, OOD positive; None where a side has no score."""
    finite = scores[scores.isfinite()]
    return metrics.aupr_ood(id_scores, finite) if len(id_scores) and len(finite) else None
