"""What every figure is made of: the theme's layout, thinned lines, the k axis."""

from functools import cache
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from views.text import plotly_text
from views.theme import Theme, plotly_template

__all__ = [
    "NAME_LIMIT",
    "PERCENT",
    "Counts",
    "Floats",
    "finish",
    "k_axis",
    "line",
    "signed_figure",
    "thin",
]

MAX_POINTS = 500  # per curve
_LINE = 130  # characters below a figure
_HEIGHT = 420  # pixels of a figure that has none of its own
NAME_LIMIT = 44  # characters of a name on an axis or in a legend; hovers show it whole
PERCENT = ".0%"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]


def finish(figure: go.Figure, theme: Theme) -> go.Figure:
    """Return the figure in the colours of a theme."""
    figure.update_layout(template=_template(theme))
    return figure


def signed_figure(figure: go.Figure, words: str, theme: Theme) -> go.Figure:
    """Return a copy with what it comes from written below it, for a file that travels alone."""
    lines = wrap(words, _LINE)
    below = 24 + 16 * len(lines)
    signed = go.Figure(figure)
    height = signed.layout.height or _HEIGHT
    signed.update_layout(height=height + below, margin_b=60 + below)
    signed.add_annotation(
        text="<br>".join(plotly_text(each) for each in lines),
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        yshift=-50,
        xanchor="left",
        yanchor="top",
        align="left",
        showarrow=False,
        font={"color": theme.muted, "size": 11},
    )
    return signed


def thin(count: int) -> NDArray[np.intp]:
    """Return at most 500 ascending rows of count, ends included, evenly spread."""
    return np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(np.intp)


def line(x: Any, y: Any, name: str, index: int, theme: Theme, where: str, number: str = ".1%") -> go.Scatter:
    """Return a line whose colour and dash follow its index; where and number are Plotly hover formats."""
    stroke = {
        "color": theme.series[index % len(theme.series)],
        "dash": _DASHES[index % len(_DASHES)],
        "width": 2,
    }
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name=plotly_text(name, NAME_LIMIT),
        customdata=[plotly_text(name)] * len(x),
        line=stroke,
        hovertemplate=f"%{{customdata}}<br>{where}<br>%{{y:{number}}}<extra></extra>",
    )


def k_axis(figure: go.Figure) -> None:
    """Give the figure a log x axis for k, titled."""
    figure.update_xaxes(
        title_text="k (bank images that vote, log scale)",
        type="log",
        tickvals=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
        ticks="outside",
    )


@cache
def _template(theme: Theme) -> go.layout.Template:
    """Return the theme's layout, checked by Plotly once: that takes longer than drawing a figure."""
    return go.layout.Template(plotly_template(theme))
