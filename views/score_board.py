"""The scores of a run in the browser: histogram, curves and sentence under the k and threshold sliders."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st
from torch import Tensor

from nnguide_core import metrics
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation import NNGUIDE
from views import resources, state
from views.components.scores import Choice, Exact, Reply, scores
from views.current import View
from views.text import markdown_text

__all__ = ["score_board"]


def score_board(view: View) -> View:
    """Show the board and return the view at what the user has just set, which then holds on every page."""
    now = view
    try:
        table = resources.score_table(view.run.question)
    except UndefinedMetricError as error:
        st.info(markdown_text(str(error)))
        return view

    def reply(chosen: Choice | None) -> Reply:
        nonlocal now
        if chosen is not None:
            now = replace(view, k=min(chosen.k, view.evaluation.k_max), rule=chosen.rule)
            state.set_k(now.k)
            state.set_threshold(now.rule)
        return _reply(now)

    scores(table, reply, key="board")
    return now


def _reply(view: View) -> Reply:
    evaluation = view.evaluation
    threshold = evaluation.threshold(view.rule, view.k)
    flagged = tuple(int(judged.flagged(view.k, threshold).sum()) for judged in evaluation.queries)
    id_scores, ood_scores = evaluation.id_scores(NNGUIDE, view.k), evaluation.ood_scores(NNGUIDE, view.k)
    exact = Exact(
        flagged,
        passed_when_kept=_defined(metrics.ood_passed_at_id_kept, id_scores, ood_scores),
        flagged_when_caught=_defined(metrics.id_flagged_at_ood_caught, id_scores, ood_scores),
        aupr=tuple(
            _defined(metrics.aupr_ood, id_scores, judged.scores(NNGUIDE, view.k)) for judged in evaluation.ood
        ),
    )
    return Reply(Choice(view.k, view.rule, threshold), exact)


def _defined(
    metric: Callable[[Tensor, Tensor], float], id_scores: Tensor, ood_scores: Tensor
) -> float | None:
    """Return a metric of the finite scores; None where a side has none."""
    finite = ood_scores[ood_scores.isfinite()]
    return metric(id_scores, finite) if len(id_scores) and len(finite) else None
