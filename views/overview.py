"""The first page at a glance: the datasets, the result in numbers and words, and single images explained."""

import pandas as pd
import streamlit as st

from nnguide_core.datasets.report import kind_of
from nnguide_core.evaluation import NNGUIDE, Part
from nnguide_core.evaluation.checks import NO_IMAGE
from views import resources
from views.current import View
from views.frame import missing_side, run_strip
from views.metrics_view import metrics_frame
from views.queries import gallery_of, hardest, looked_at
from views.score_board import score_board
from views.tables import show_table
from views.text import cell, literal
from views.why import why

__all__ = ["datasets", "examples", "result"]

_EXAMPLES = 60  # images shown, the wrongly judged and the closest to the threshold first
_ROLES = {"bank": "bank (ID training images)", "id": "ID queries", "ood": "OOD queries"}


def datasets(view: View) -> None:
    """Show every dataset with its role and counts."""
    rows = [
        {
            "dataset": cell(part.dataset.name),
            "role": _ROLES[part.dataset.role],
            "images": len(part.features),
            "classes": len(part.dataset.class_counts),
            "not an image": _without_image(part),
            "unreadable": len(part.dataset.skipped) + len(part.features.skipped) - _without_image(part),
        }
        for part in view.evaluation.question.parts
    ]
    show_table(pd.DataFrame(rows))


def _without_image(part: Part) -> int:
    """Return how many of the dataset's files are no images at all."""
    return sum(kind_of(each.reason) == NO_IMAGE for each in part.dataset.skipped)


def result(view: View) -> View:
    """Show the scores under the k and threshold sliders and AUROC and both FPRs; return the view then."""
    view = score_board(view)
    if missing := missing_side(view.evaluation, "AUROC and both FPRs"):
        st.info(missing)
    else:
        _metrics(view)
    run_strip(view)
    return view


def _metrics(view: View) -> None:
    every = resources.metrics(view.run.question, view.k)
    rows = [row for row in every if row.detector == NNGUIDE]
    frame = metrics_frame(rows).drop(columns=["detector", "AUPR, OOD positive", "AUPR, ID positive"])
    frame.insert(0, "OOD dataset", [cell(row.dataset) for row in rows])
    frame.insert(1, "n ID / OOD", [f"{row.id_count:,} / {row.ood_count:,}" for row in rows])
    st.dataframe(frame, hide_index=True, width="stretch")


def examples(view: View) -> None:
    """Show images, the wrongly judged first, and for the chosen one the bank images behind its score."""
    st.subheader("Why did an image get its score?")
    label = "images judged wrongly or closest to the threshold"
    gallery_of(view, hardest(view, _EXAMPLES), key="examples", label=label)
    query = looked_at(view)
    if query is None:
        st.info("Choose an image above to see the bank images that its score comes from.")
        return
    st.text(literal(f"{query.image.path} of {query.judged.dataset.name}: {query.group}"))
    why(view, query)
