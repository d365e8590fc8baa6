"""Scores and curves of whole datasets as Plotly figures.

Every name is shown literally, every axis has its quantity in words, and no curve has more than 500 points.
Show the figures with `theme=None`: they carry their own colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from views.figure_parts import NAME_LIMIT, PERCENT, Counts, Floats, finish, k_axis, line, thin
from views.text import plotly_text
from views.theme import MARKERS, Group, Theme, group_of

__all__ = ["Curve", "ScoreRow", "metric_over_k", "precision_recall", "roc", "score_histogram"]

_SCORE_AXIS = "score (−guidance × energy; higher = more OOD)"
_WRONG = ", class predicted wrongly"


@dataclass(frozen=True)
class ScoreRow:
    """One dataset's binned scores."""

    name: str
    ood: bool
    counts: Counts  # (B,) images per bin
    wrong: Counts | None = None  # (B,) those of counts whose class was predicted wrongly; None where unknown


@dataclass(frozen=True)
class Curve:
    """One dataset's curve in rates, with the point at the current threshold."""

    name: str
    x: Floats  # (P,) in [0, 1]
    y: Floats  # (P,) in [0, 1]
    operating: tuple[float, float] | None = None


def score_histogram(edges: Floats, rows: Sequence[ScoreRow], threshold: float, theme: Theme) -> go.Figure:
    """Draw one row of bars per dataset, coloured by decision, wrongly classified ID images hatched.

    Args:
        edges: (B + 1,) ascending bin edges, shared by all rows.
        rows: datasets from top to bottom.
        threshold: scores from here on are flagged.
        theme: colours.
    """
    figure = make_subplots(
        rows=max(len(rows), 1), shared_xaxes=True, vertical_spacing=0.3 / max(len(rows), 1)
    )
    for position, row in enumerate(rows, start=1):
        # Without a bar a row would have no axis, and its name would stand in another row.
        none = [go.Bar(x=[None], y=[None], showlegend=False)]
        for bar in _histogram_bars(edges, row, threshold, theme) or none:
            figure.add_trace(bar, row=position, col=1)
        figure.update_yaxes(title_text="images", row=position, col=1, rangemode="tozero", nticks=4)
        _row_title(figure, position, row, theme)
    _name_bars_once(figure, theme)
    figure.add_vline(x=threshold, line={"color": theme.accent, "width": 2})
    figure.update_xaxes(title_text=_SCORE_AXIS, row=max(len(rows), 1), col=1)
    height = 130 + 120 * len(rows)
    figure.update_layout(barmode="stack", bargap=0, height=height, legend_y=1 + 30 / height)
    return finish(figure, theme)


def roc(curves: Sequence[Curve], theme: Theme) -> go.Figure:
    """Draw OOD caught against ID flagged for every OOD dataset; the operating point is marked."""
    figure = _rates(curves, theme, "ID flagged (share of ID images)", "OOD caught (share of OOD images)")
    chance = go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": theme.grid}, hoverinfo="skip", showlegend=False
    )
    figure.add_trace(chance)
    return figure


def precision_recall(curves: Sequence[Curve], theme: Theme) -> go.Figure:
    """Draw precision against recall, OOD positive; the operating point is marked."""
    return _rates(
        curves, theme, "OOD caught (recall, share of OOD images)", "OOD among the flagged (precision, share)"
    )


def metric_over_k(ks: Counts, lines: Mapping[str, Floats], k: int, theme: Theme) -> go.Figure:
    """Draw rates in [0, 1] against k on a log axis, one line per name; the current k is marked."""
    figure = go.Figure()
    for index, (name, values) in enumerate(lines.items()):
        figure.add_trace(line(ks, np.asarray(values), name, index, theme, "k = %{x}"))
    figure.add_vline(x=k, line={"color": theme.accent, "dash": "dot"})
    k_axis(figure)
    figure.update_yaxes(title_text="rate (share of images) or AUROC", tickformat=PERCENT)
    return finish(figure, theme)


def _histogram_bars(edges: Floats, row: ScoreRow, threshold: float, theme: Theme) -> list[go.Bar]:
    wrong = np.zeros_like(row.counts) if row.wrong is None else row.wrong
    bars = []
    for flagged in (False, True):
        group = group_of(ood=row.ood, flagged=flagged)
        for counts, hatched in ((row.counts - wrong, False), (wrong, True)):
            left, width, heights = _one_side(edges, counts, threshold, flagged=flagged)
            if heights.any():
                bars.append(_bar(left, width, heights, group, row.name, hatched, theme))
    return bars


def _one_side(
    edges: Floats, counts: Counts, threshold: float, *, flagged: bool
) -> tuple[Floats, Floats, NDArray[Any]]:
    """Return left edges, widths and counts of the bins on one side, the threshold's own bin cut at it."""
    lows, highs = edges[:-1], edges[1:]
    if flagged:
        lows = np.maximum(lows, threshold)
    else:
        highs = np.minimum(highs, threshold)
    inside = (highs > lows) & (counts > 0)
    return lows[inside], (highs - lows)[inside], np.asarray(counts)[inside]


def _bar(
    left: Floats, width: Floats, heights: Any, group: Group, dataset: str, hatched: bool, theme: Theme
) -> go.Bar:
    words = f"{MARKERS[group].glyph} {group}"
    return go.Bar(
        x=left,
        y=heights,
        width=width,
        offset=0,
        name=words,
        legendgroup=words,
        marker={"color": theme.color(group), "line_width": 0, "pattern": _hatch(theme) if hatched else {}},
        showlegend=not hatched,
        customdata=[[plotly_text(dataset), words + _WRONG * hatched]] * len(left),
        hovertemplate=(
            "%{customdata[0]}<br>%{customdata[1]}<br>%{y} images, score from %{x:.3f}<extra></extra>"
        ),
    )


def _hatch(theme: Theme) -> dict[str, Any]:
    return {"shape": "/", "size": 5, "fgcolor": theme.background, "solidity": 0.45, "fillmode": "overlay"}


def _name_bars_once(figure: go.Figure, theme: Theme) -> None:
    """Leave one legend entry per group, and add one that says what the hatching means."""
    named: set[str] = set()
    for bar in figure.data:
        bar.showlegend = bar.showlegend and bar.name not in named
        named |= {bar.name} if bar.showlegend else set()
    if any(bar.marker.pattern.shape for bar in figure.data):
        marker = {"color": theme.muted, "pattern": _hatch(theme)}
        figure.add_trace(go.Bar(x=[None], y=[None], name="hatched: class predicted wrongly", marker=marker))


def _row_title(figure: go.Figure, position: int, row: ScoreRow, theme: Theme) -> None:
    suffix = "" if position == 1 else str(position)
    figure.add_annotation(
        text=f"{plotly_text(row.name, NAME_LIMIT)} (n = {int(np.sum(row.counts)):,})",
        xref="paper",
        yref=f"y{suffix} domain",
        x=0,
        y=1,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"color": theme.text, "size": 13},
    )


def _rates(curves: Sequence[Curve], theme: Theme, x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    for index, curve in enumerate(curves):
        keep = thin(len(curve.x))
        where = f"{x_title}: %{{x:.1%}}"
        drawn = line(np.asarray(curve.x)[keep], np.asarray(curve.y)[keep], curve.name, index, theme, where)
        figure.add_trace(drawn)
        if curve.operating is not None:
            figure.add_trace(_operating_point(curve, index, theme, first=index == 0))
    figure.update_xaxes(title_text=x_title, range=[-0.01, 1.01], tickformat=PERCENT)
    figure.update_yaxes(title_text=y_title, range=[-0.01, 1.02], tickformat=PERCENT)
    return finish(figure, theme)


def _operating_point(curve: Curve, index: int, theme: Theme, *, first: bool) -> go.Scatter:
    x, y = curve.operating or (np.nan, np.nan)
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        name="at the threshold",
        legendgroup="operating",
        showlegend=first,
        marker={
            "size": 12,
            "color": theme.series[index % len(theme.series)],
            "line": {"color": theme.accent, "width": 3},
        },
        customdata=[plotly_text(curve.name)],
        hovertemplate="%{customdata}, at the threshold<br>%{x:.1%} → %{y:.1%}<extra></extra>",
    )
