"""The numbers of a run as tables: every detector on every OOD dataset, with each convention in words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from nnguide_core.evaluation import Evaluation
from nnguide_core.evaluation.comparison import DifferenceRow, MetricsRow, metrics_table
from nnguide_core.intervals import Interval
from nnguide_core.sweep import KSweep
from views import resources
from views.current import View
from views.frame import missing_side
from views.text import counted, literal

__all__ = [
    "differences_frame",
    "lines_over_k",
    "metrics_frame",
    "rate",
    "share",
    "show_before_and_after",
    "show_differences",
    "show_metrics",
]

PASSED = "OOD passed when 95 % of ID is kept"
FLAGGED = "ID flagged when 95 % of OOD is caught"


def show_metrics(evaluation: Evaluation, rows: Sequence[MetricsRow]) -> None:
    """Show an evaluation's rows, one table per OOD dataset, one line per detector, and what was left out."""
    if missing := missing_side(evaluation, "AUROC, AUPR and both FPRs"):
        st.info(missing)
        return
    for name in dict.fromkeys(row.dataset for row in rows):
        block = [row for row in rows if row.dataset == name]
        first = block[0]
        st.text(literal(f"{name}: {first.ood_count:,} OOD images against {first.id_count:,} ID images"))
        st.dataframe(metrics_frame(block), hide_index=True, width="stretch")
    if rows:
        st.caption(
            "OOD is the positive class. Each FPR has its 95 % interval in brackets. Its threshold keeps "
            "(or catches) at least 95 %; equal scores share one threshold."
        )
    if left_out := max((row.left_out for row in rows), default=0):
        st.caption(f"Left out, because a score is not a finite number: {left_out:,} images at most per line.")


def show_before_and_after(view: View) -> None:
    """Show the metrics as the datasets say and with the verdicts applied, side by side."""
    before, after = st.columns(2)
    with before:
        st.text("as the datasets say")
        show_metrics(view.evaluation, resources.metrics(view.run.question, view.k))
    with after:
        st.text(f"with {counted(len(view.verdicts), 'verdict')} applied")
        show_metrics(view.judged_by_people, metrics_table(view.judged_by_people, view.k))


def show_differences(rows: Sequence[DifferenceRow]) -> None:
    """Show by how much NNGuide separates better than each baseline, one table per OOD dataset."""
    for name in dict.fromkeys(row.dataset for row in rows):
        block = [row for row in rows if row.dataset == name]
        st.text(literal(f"{name}: AUROC of NNGuide minus that of the baseline, on the same images"))
        st.dataframe(differences_frame(block), hide_index=True, width="stretch")
    st.caption(
        "Above 0 NNGuide separates better; an interval that holds 0 leaves open which does. "
        f"The p-values are two-sided and not corrected for {len(rows)} comparisons."
    )


def lines_over_k(sweep: KSweep) -> dict[str, NDArray[np.float64]]:
    """Return AUROC and both FPRs for every k, (K,) each, by what they are called in a figure."""
    return {
        "AUROC": sweep.auroc,
        PASSED: sweep.ood_passed_at_id_kept,
        FLAGGED: sweep.id_flagged_at_ood_caught,
    }


def differences_frame(rows: Sequence[DifferenceRow]) -> pd.DataFrame:
    """Return the rows of one OOD dataset as text, one line per baseline."""
    found = [row.difference for row in rows]
    return pd.DataFrame(
        {
            "baseline": [row.baseline for row in rows],
            "difference": [_signed(each.estimate) if each else "not defined" for each in found],
            "95 % interval": [
                f"{_signed(each.low)} to {_signed(each.high)}" if each else "" for each in found
            ],
            "p": [_p_value(each.p_value) if each else "" for each in found],
            "images": [f"{row.images:,}" for row in rows],
        }
    )


def metrics_frame(rows: Sequence[MetricsRow]) -> pd.DataFrame:
    """Return the rows of one OOD dataset as text, one line per detector, "not defined" where a metric is."""
    return pd.DataFrame(
        {
            "detector": [row.detector for row in rows],
            "AUROC": [rate(row.auroc.estimate if row.auroc else None) for row in rows],
            "95 % interval": [_between(row.auroc) for row in rows],
            "AUPR, OOD positive": [rate(row.aupr_ood) for row in rows],
            "AUPR, ID positive": [rate(row.aupr_id) for row in rows],
            PASSED: [_share_between(row.ood_passed_at_95_id_kept) for row in rows],
            FLAGGED: [_share_between(row.id_flagged_at_95_ood_caught) for row in rows],
        }
    )


def _between(found: Interval | None) -> str:
    return "not defined" if found is None else f"{rate(found.low)} to {rate(found.high)}"


def _share_between(found: Interval | None) -> str:
    """Return a share in per cent with its interval."""
    if found is None:
        return "not defined"
    return f"{share(found.estimate)} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def rate(value: float | None) -> str:
    """Return a rate with four digits.

    >>> rate(0.98765), rate(None)
    ('0.9877', 'not defined')
    """
    return "not defined" if value is None else f"{value:.4f}"


def share(value: float | None) -> str:
    """Return a share in per cent.

    >>> share(0.1234), share(None)
    ('12.3 %', 'not defined')
    """
    return "not defined" if value is None else f"{100 * value:.1f} %"
