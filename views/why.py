"""Why an image got its score and its decision: in words, on the plane of its factors, by its neighbours."""

import math

import numpy as np
import streamlit as st
import torch

from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation.explanation import Typical, WhatIf, flips, gap_to, typical, what_if
from views import resources
from views.current import View
from views.exclusions import leave_out, left_out, put_back
from views.frame import current_theme, number
from views.image_charts import Quantities, energy_guidance_plane, score_over_k, top_classes
from views.neighbours import neighbour_choice
from views.queries import Query
from views.text import literal, markdown_text

__all__ = ["decision_in_words", "gap_in_words", "why"]

_TOP = 5  # classes shown
_PLANE_HEIGHT = 560  # pixels, as tall as the two figures beside it
_OVER_K_HEIGHT = 300


def why(view: View, query: Query) -> None:
    """Show the whole panel for one image."""
    if not math.isfinite(query.score):
        st.info("This image has no score and no neighbours: its features or logits hold NaN or infinity.")
        return
    usual = typical(view.evaluation, int(query.judged.predicted[query.row]), view.k)
    st.markdown("#### Why?")
    st.text(literal(f"{decision_in_words(view, query)} {gap_in_words(query, usual)}"))
    plane, beside = st.columns(2)
    with plane:
        _plane(view, query)
    with beside:
        _over_k(view, query)
        _classes(view, query)
    unticked = neighbour_choice(view, query, usual)
    if unticked:
        _show_what_if(view, query, unticked)


def decision_in_words(view: View, query: Query) -> str:
    """Return what the detector decided, with the score beside the threshold."""
    sign = "≥" if query.flagged else "<"
    decision = "Flagged" if query.flagged else "Passed"
    verdict = "" if not query.is_wrong else " (a false alarm)" if query.flagged else " (a miss)"
    return f"{decision}{verdict}: score {number(query.score, 2)} {sign} {number(view.threshold, 2)}."


def gap_in_words(query: Query, usual: Typical | None) -> str:
    """Return how the gap to a typical ID image divides between guidance and energy."""
    if usual is None:
        return "Without ID queries nothing is typical to compare it with."
    gap = gap_to(usual, float(query.neighbors.guidance), float(query.neighbors.energy))
    whom = f"ID image taken for {usual.class_name}" if usual.class_name else "ID image"
    against = f"a typical {whom} ({number(usual.score, 2)}, median of {usual.images:,})"
    side = "above" if gap.total > 0 else "below"
    whole = f"It lies {number(abs(gap.total), 2)} {side} {against}"
    share = gap.guidance_share
    if share is None:
        return f"{whole}."
    if 0 <= share <= 1:
        percent = round(100 * share)
        return f"{whole}: the guidance explains {percent} % of that, the energy {100 - percent} %."
    return (
        f"{whole}: the guidance moves the score by {number(gap.guidance, 2)}, the energy by "
        f"{number(gap.energy, 2)}; they oppose each other."
    )


def _plane(view: View, query: Query) -> None:
    if view.threshold is None:
        return
    sides = [_quantities(view, ood=ood) for ood in (False, True)]
    point = (float(query.neighbors.energy), float(query.neighbors.guidance))
    figure = energy_guidance_plane(sides[0], sides[1], point, query.group, view.threshold, current_theme())
    figure.update_layout(height=_PLANE_HEIGHT)
    st.plotly_chart(figure, theme=None, width="stretch", key="why_plane")


def _quantities(view: View, *, ood: bool) -> Quantities:
    parts = view.evaluation.ood if ood else view.evaluation.id
    found = [part.neighbors.rows(part.neighbors.finite) for part in parts]
    empty = torch.empty(0)
    return Quantities(
        torch.cat([empty, *(each.energy for each in found)]).numpy(),
        torch.cat([empty, *(each.guidance_at(view.k) for each in found)]).numpy(),
    )


def _over_k(view: View, query: Query) -> None:
    try:
        thresholds = resources.thresholds(view.run.question, view.rule.kind, view.rule.level)
    except UndefinedMetricError as error:
        st.info(markdown_text(f"No threshold for every k: {error}"))
        return
    found = flips(query.judged, query.row, thresholds)
    ks = np.arange(1, len(thresholds) + 1)
    figure = score_over_k(
        ks, found.scores.numpy(), found.thresholds.numpy(), view.k, query.is_ood, current_theme()
    )
    figure.update_layout(height=_OVER_K_HEIGHT)
    st.plotly_chart(figure, theme=None, width="stretch", key="why_over_k")
    st.caption(_flips_in_words(found.ks, bool(found.flagged[view.k - 1]), len(ks)))


def _flips_in_words(ks: tuple[int, ...], flagged: bool, k_max: int) -> str:
    decision = "flagged" if flagged else "passed"
    if not ks:
        return f"It is {decision} at every k up to {k_max}."
    listed = ", ".join(map(str, ks[:_TOP])) + (", …" if len(ks) > _TOP else "")
    return f"The decision changes at k = {listed}."


def _classes(view: View, query: Query) -> None:
    probabilities = query.judged.features.logits[query.row].softmax(dim=0)
    best = probabilities.topk(min(_TOP, len(probabilities)))
    names = [view.evaluation.question.class_names[index] for index in best.indices.tolist()]
    figure = top_classes(names, best.values.numpy(), current_theme())
    st.plotly_chart(figure, theme=None, width="stretch", key="why_classes")


def _show_what_if(view: View, query: Query, unticked: frozenset[int]) -> None:
    """Say what becomes of this decision, and of the others, without the unticked bank images."""
    if view.threshold is None:
        return
    try:
        found = what_if(
            view.evaluation,
            query.judged,
            query.row,
            torch.tensor(sorted(unticked), dtype=torch.int64),
            view.k,
            view.threshold,
        )
    except ValueError as error:
        st.error(markdown_text(str(error)))
        return
    st.info(markdown_text(_what_if_in_words(query, found, len(unticked))), icon=":material/science:")
    if unticked <= left_out(view):
        st.caption("On the list of bank images to leave out: see the export page.")
        st.button("Take off the list", on_click=put_back, args=(view, unticked))
    else:
        st.button("Put on the list of bank images to leave out", on_click=leave_out, args=(view, unticked))


def _what_if_in_words(query: Query, found: WhatIf, count: int) -> str:
    images = "1 bank image" if count == 1 else f"{count} bank images"
    change = "still" if found.flagged is query.flagged else "then"
    decision = "flagged" if found.flagged else "passed"
    return (
        f"Without {images} the score is {number(found.score, 2)} instead of {number(query.score, 2)}, "
        f"and the image is {change} {decision}. Of the other images {found.newly_flagged:,} would be newly "
        f"flagged and {found.newly_passed:,} newly passed, at the same threshold."
    )
