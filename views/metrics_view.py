"""The numbers of a run as tables: every detector on every OOD dataset, with each convention in words."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from nnguide_core.evaluation import MetricsRow
from views.text import literal

__all__ = ["metrics_frame", "rate", "share", "show_metrics"]

PASSED = "OOD passed when 95 % of ID is kept"
FLAGGED = "ID flagged when 95 % of OOD is caught"


def show_metrics(rows: Sequence[MetricsRow]) -> None:
    """Show one table per OOD dataset, one line per detector, and say what was left out."""
    for name in dict.fromkeys(row.dataset for row in rows):
        block = [row for row in rows if row.dataset == name]
        first = block[0]
        st.text(literal(f"{name}: {first.ood_count:,} OOD images against {first.id_count:,} ID images"))
        st.dataframe(metrics_frame(block), hide_index=True, width="stretch")
    if left_out := max((row.left_out for row in rows), default=0):
        st.caption(f"Left out, because a score is not a finite number: {left_out:,} images at most per line.")


def metrics_frame(rows: Sequence[MetricsRow]) -> pd.DataFrame:
    """Return the rows of one OOD dataset as text, one line per detector, "not defined" where a metric is."""
    return pd.DataFrame(
        {
            "detector": [row.detector for row in rows],
            "AUROC": [rate(row.auroc) for row in rows],
            "95 % interval (DeLong)": [f"{rate(row.auroc_low)} to {rate(row.auroc_high)}" for row in rows],
            "AUPR, OOD positive": [rate(row.aupr_ood) for row in rows],
            "AUPR, ID positive": [rate(row.aupr_id) for row in rows],
            PASSED: [share(row.ood_passed_at_95_id_kept) for row in rows],
            FLAGGED: [share(row.id_flagged_at_95_ood_caught) for row in rows],
        }
    )


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
