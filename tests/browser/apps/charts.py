"""Every figure with hostile names, in the theme that the browser shows."""

import numpy as np
import streamlit as st

from views.charts import Curve, ScoreRow, metric_over_k, precision_recall, roc, score_histogram
from views.components.theme_watch import watch_theme
from views.image_charts import Quantities, energy_guidance_plane, score_over_k, top_classes
from views.theme import Group, theme_named

HOSTILE = '<b onmouseover="window.broken=1">&amp;</b> %{x} $y$'


def show():
    """Show the figures in two columns."""
    theme = theme_named(st.context.theme.type)
    watch_theme(theme)
    st.text(f"theme: {theme.name}")
    columns = st.columns(2)
    for index, figure in enumerate(figures(theme)):
        columns[index % 2].plotly_chart(figure, theme=None, key=f"figure{index}")


def figures(theme):
    """Return one of each kind."""
    rng = np.random.default_rng(6)
    edges = np.linspace(-120, -5, 97)
    known, near, far = (
        np.histogram(rng.normal(*shape), edges)[0]
        for shape in ((-80, 12, 999), (-55, 14, 500), (-30, 8, 300))
    )
    rows = [
        ScoreRow("known", False, known, known // 9),
        ScoreRow(HOSTILE, True, near),
        ScoreRow("a name that is much longer than any axis has room for, and then some", True, far),
    ]
    rates = np.linspace(0, 1, 400)
    curves = [
        Curve(HOSTILE, rates, rates**0.3, (0.05, 0.05**0.3)),
        Curve("far", rates, rates**0.05, (0.05, 0.86)),
    ]
    ks = np.unique(np.geomspace(1, 1000, 60).astype(int))
    lines = {
        "AUROC": 0.9 - 0.01 * np.log(ks),
        "OOD passed when 95 % of ID is kept": 0.4 + 0.02 * np.log(ks),
        "ID flagged when 95 % of OOD is caught": 0.3 + 0.02 * np.log(ks),
    }
    clouds = [
        Quantities(rng.normal(e, 1.2, n), rng.normal(g, 1, n)) for e, g, n in ((9, 8, 1000), (6, 6, 500))
    ]
    classes = [HOSTILE, "cat", "dog", "ship", "truck"]
    return [
        score_histogram(edges, rows, -58.0, theme),
        roc(curves, theme),
        precision_recall(curves, theme),
        metric_over_k(ks, lines, 10, theme),
        score_over_k(ks, -65 + 3 * np.log(ks), -58.0, 10, True, theme),
        energy_guidance_plane(*clouds, (7.0, 7.0), Group.OOD_PASSED, -58.0, theme),
        top_classes(classes, np.array([0.9, 0.05, 0.03, 0.01, 0.01]), theme),
    ]
