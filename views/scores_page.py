"""The parts of the scores page: board, metrics beside the baselines, every k, energy hubs."""

import numpy as np
import pandas as pd
import streamlit as st

from views import resources, state
from views.charts import metric_over_k
from views.current import View
from views.frame import cautions, current_theme, missing_side, number, run_strip
from views.metrics_view import lines_over_k, show_before_and_after, show_differences, show_metrics
from views.neighbours import bank_image
from views.pictures import as_address
from views.score_board import score_board
from views.text import cell, markdown_text

__all__ = ["board", "hubs", "metrics", "over_k"]

_HUBS = 10  # busiest bank images shown


def board(view: View) -> View:
    """Show the score board, the strip and the cautions; return the view at what the user has just set."""
    view = score_board(view)
    run_strip(view)
    cautions(view, compared=True)
    return view


def metrics(view: View) -> None:
    """Show every detector on every OOD dataset; with verdicts, before and after side by side."""
    st.subheader("NNGuide beside the baselines")
    for name, reason in view.evaluation.without.items():
        st.caption(markdown_text(f"{name} is not shown: {reason}"))
    applied = bool(view.verdicts) and st.toggle("Show what the verdicts change", value=state.with_verdicts())
    state.set_with_verdicts(applied)
    if not applied:
        show_metrics(view.evaluation, resources.metrics(view.run.question, view.k))
    else:
        show_before_and_after(view)
    if not missing_side(view.evaluation, "") and st.toggle(
        "Is NNGuide really better than each baseline?", key=state.field("differences", default=False)
    ):
        show_differences(resources.differences_from_baselines(view.run.question, view.k))


def over_k(view: View) -> None:
    """Show AUROC and both FPRs against k, from one search."""
    st.subheader("Every k")
    if missing := missing_side(view.evaluation, "AUROC and both FPRs at every k"):
        st.info(missing)
        return
    sweep = resources.sweep(view.run.question)
    figure = metric_over_k(sweep.ks, lines_over_k(sweep), view.k, current_theme())
    st.plotly_chart(figure, theme=None, width="stretch", key="over_k")
    best = int(sweep.ks[int(np.argmax(sweep.auroc))])
    st.caption(
        f"All ID against all OOD images. AUROC is highest at k = {best}. "
        "To report that figure, choose k on other images than those it is measured on."
    )


def hubs(view: View) -> None:
    """Show how unevenly the bank's images serve the queries, and the busiest of them."""
    st.subheader("Which bank images do the work?")
    used = resources.usage(view.run.question, view.k)
    order = np.argsort(-used, kind="stable")
    total = int(used.sum())
    if total == 0:
        st.info("No query has a score.")
        return
    half = int(np.searchsorted(np.cumsum(used[order]), total / 2) + 1)
    st.text(
        f"{half:,} of {used.size:,} bank images give half of all neighbours; "
        f"{int((used == 0).sum()):,} give none. The busiest serves {int(used[order[0]]):,} queries. "
        "Neighbours rank by energy × cosine, so a few of high energy can serve most queries."
    )
    st.dataframe(
        _busiest(view, order[:_HUBS].tolist()),
        hide_index=True,
        width="stretch",
        row_height=52,
        height="content",
        column_config={"picture": st.column_config.ImageColumn("picture", width="small")},
    )


def _busiest(view: View, rows: list[int]) -> pd.DataFrame:
    """Return the bank rows as a table, with their pictures."""
    used, images = resources.usage(view.run.question, view.k), [bank_image(view, row) for row in rows]
    bank = view.evaluation.question.bank.dataset
    pictures = resources.thumbnails((bank, image) for image in images)
    energies = view.evaluation.bank.energies
    queries = sum(int(judged.neighbors.finite.sum()) for judged in view.evaluation.queries)
    return pd.DataFrame(
        {
            "picture": [as_address(pictures.get(image.id)) for image in images],
            "bank image": [cell(image.path) for image in images],
            "class": [cell(image.label or "") for image in images],
            "energy": [number(float(energies[row]), 2) for row in rows],
            "queries served": [f"{int(used[row]):,} of {queries:,}" for row in rows],
            "share of all neighbours": [f"{100 * used[row] / used.sum():.1f} %" for row in rows],
        }
    )
