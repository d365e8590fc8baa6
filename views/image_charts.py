"""What explains one image's score, as Plotly figures.

Every name is shown literally, every axis has its quantity in words, and no curve has more than 500 points.
Show the figures with `theme=None`: they carry their own colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from views.figure_parts import PERCENT, Counts, Floats, finish, k_axis, line
from views.text import plotly_text
from views.theme import MARKERS, Group, Theme, group_of

__all__ = ["Quantities", "energy_guidance_plane", "score_over_k", "top_classes"]

_BAR_NAME_LIMIT = 24  # characters beside a bar
_DENSITY_BINS = 48
_DENSITY_PASSES = 3  # of a five-bin kernel: a standard deviation of 1.7 bins
_MAX_FLIPS = 500  # marked at most


@dataclass(frozen=True)
class Quantities:
    """Energy and guidance of some images: the two factors of the score."""

    energy: Floats  # (N,)
    guidance: Floats  # (N,)


def score_over_k(
    ks: Counts, scores: Floats, threshold: float | Floats, k: int, ood: bool, theme: Theme
) -> go.Figure:
    """Draw one image's score against k with the threshold, and mark each k where the decision flips.

    Args:
        ks: (K,) ascending.
        scores: (K,) the image's score at each k.
        threshold: one value, or (K,) where the threshold follows k.
        k: the current k.
        ood: whether the image is OOD in truth.
        theme: colours.
    """
    limits = np.broadcast_to(np.asarray(threshold, dtype=float), np.shape(scores))
    flagged = np.asarray(scores) >= limits
    figure = go.Figure(line(ks, np.asarray(scores), "score", 0, theme, "k = %{x}", ".3f"))
    limit = line(ks, limits, "threshold", 1, theme, "k = %{x}", ".3f")
    limit.line = {"color": theme.accent, "dash": "dash"}
    figure.add_trace(limit)
    _mark_flips(figure, ks, np.asarray(scores), flagged, ood, theme)
    figure.add_vline(x=k, line={"color": theme.accent, "dash": "dot"})
    k_axis(figure)
    figure.update_yaxes(title_text="score (higher = more OOD)")
    return finish(figure, theme)


def energy_guidance_plane(
    id_images: Quantities,
    ood_images: Quantities,
    image: tuple[float, float],
    group: Group,
    threshold: float,
    theme: Theme,
) -> go.Figure:
    """Draw where the ID and OOD images lie, the curve guidance × energy = −threshold, and this image.

    Args:
        id_images: all ID queries.
        ood_images: all OOD queries, possibly none.
        image: energy and guidance of the image in question.
        group: its truth and decision.
        threshold: as a score; points with −guidance × energy at or above it are flagged.
        theme: colours.
    """
    figure = go.Figure()
    spans = _spans(id_images, ood_images, image)
    for name, images, color in (
        ("ID images", id_images, theme.id_passed),
        ("OOD images", ood_images, theme.ood_flagged),
    ):
        if len(images.energy):
            figure.add_trace(_density(images, spans, name, color))
    figure.add_trace(_threshold_curve(threshold, spans, theme))
    figure.add_trace(_this_image(image, group, theme))
    figure.update_xaxes(title_text="energy (log Σ exp of logits)", range=spans[0])
    figure.update_yaxes(title_text="guidance (mean of bank energy × cosine)", range=spans[1])
    return finish(figure, theme)


def top_classes(names: Sequence[str], probabilities: Floats, theme: Theme) -> go.Figure:
    """Draw the most probable classes as bars, best first; probabilities in [0, 1]."""
    figure = _named_bars(names, probabilities, (0.0, 1.0), theme)
    figure.update_xaxes(title_text="probability (softmax)")
    figure.update_layout(height=90 + 34 * len(names), showlegend=False)
    return finish(figure, theme)


def _mark_flips(
    figure: go.Figure, ks: Counts, scores: Floats, flagged: NDArray[np.bool_], ood: bool, theme: Theme
) -> None:
    flips = np.flatnonzero(flagged[1:] != flagged[:-1])[:_MAX_FLIPS] + 1
    for after in (False, True):
        at = flips[flagged[flips] == after]
        if not len(at):
            continue
        group = group_of(ood=ood, flagged=after)
        figure.add_trace(
            go.Scatter(
                x=ks[at],
                y=scores[at],
                mode="markers",
                name=f"from here {'flagged' if after else 'passed'}",
                marker={"size": 11, "color": theme.color(group), "symbol": MARKERS[group].symbol},
                hovertemplate="the decision flips at k = %{x}<extra></extra>",
            )
        )


def _spans(
    id_images: Quantities, ood_images: Quantities, image: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """Return the ranges of energy and guidance that hold the image and 99.8 % of the others."""
    spans = []
    for values, own in (
        (np.concatenate([id_images.energy, ood_images.energy]), image[0]),
        (np.concatenate([id_images.guidance, ood_images.guidance]), image[1]),
    ):
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, [0.001, 0.999]) if len(finite) else (own, own)
        low, high = min(float(low), own), max(float(high), own)
        margin = 0.06 * (high - low) or 1.0
        spans.append([low - margin, high + margin])
    return spans[0], spans[1]


def _density(images: Quantities, spans: tuple[list[float], list[float]], name: str, color: str) -> go.Contour:
    counts, x_edges, y_edges = np.histogram2d(
        images.energy, images.guidance, bins=_DENSITY_BINS, range=[tuple(spans[0]), tuple(spans[1])]
    )
    smooth = _smoothed(counts)
    peak = float(smooth.max()) or 1.0
    return go.Contour(
        x=(x_edges[:-1] + x_edges[1:]) / 2,
        y=(y_edges[:-1] + y_edges[1:]) / 2,
        z=(smooth / peak).T.round(4),
        name=f"{name} (n = {len(images.energy):,})",
        contours={"start": 0.05, "end": 0.95, "size": 0.18, "coloring": "lines"},
        colorscale=[[0, color], [1, color]],
        line={"width": 2, "smoothing": 1},
        showscale=False,
        showlegend=True,
        hoverinfo="skip",
    )


def _smoothed(counts: Floats) -> Floats:
    kernel = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    for axis in (0, 1) * _DENSITY_PASSES:
        counts = np.apply_along_axis(np.convolve, axis, counts, kernel, mode="same")
    return counts


def _threshold_curve(threshold: float, spans: tuple[list[float], list[float]], theme: Theme) -> go.Scatter:
    """Return guidance = −threshold / energy over the visible energies, broken where the energy is zero."""
    energy = np.linspace(spans[0][0], spans[0][1], 300)
    with np.errstate(divide="ignore"):
        guidance = np.where(energy == 0, np.nan, -threshold / energy)
    height = spans[1][1] - spans[1][0]
    visible = (guidance > spans[1][0] - height) & (guidance < spans[1][1] + height)
    return go.Scatter(
        x=energy,
        y=np.where(visible, guidance, np.nan),
        mode="lines",
        name=f"threshold (product {-threshold:.4g})",
        line={"color": theme.accent, "width": 2, "dash": "dash"},
        hovertemplate="threshold: energy %{x:.2f}, guidance %{y:.2f}<extra></extra>",
    )


def _this_image(image: tuple[float, float], group: Group, theme: Theme) -> go.Scatter:
    return go.Scatter(
        x=[image[0]],
        y=[image[1]],
        mode="markers",
        name=f"this image, {group}",
        marker={
            "size": 16,
            "symbol": MARKERS[group].symbol,
            "color": theme.color(group),
            "line": {"color": theme.text, "width": 2},
        },
        hovertemplate="this image<br>energy %{x:.3f}, guidance %{y:.3f}<extra></extra>",
    )


def _named_bars(names: Sequence[str], values: Floats, reach: tuple[float, float], theme: Theme) -> go.Figure:
    """Return horizontal bars, the first on top, in rows numbered 0, 1, …: names may repeat.

    Names stand to the left of the plot and numbers to its right, where no bar and no mark covers them.
    """
    rows = list(range(len(names)))
    bars = go.Bar(
        x=values,
        y=rows,
        orientation="h",
        marker={"color": theme.series[0]},
        customdata=[plotly_text(name) for name in names],
        hovertemplate="%{customdata}: %{x:.2%}<extra></extra>",
        name="this image",
    )
    right = go.Scatter(x=[None], y=[None], yaxis="y2", showlegend=False)
    figure = go.Figure([bars, right])
    side = {"tickvals": rows, "range": [len(names) - 0.4, -0.6], "showgrid": False, "zeroline": False}
    figure.update_layout(
        yaxis={
            **side,
            "ticktext": [plotly_text(name, _BAR_NAME_LIMIT) for name in names],
            "ticklabelstandoff": 8,
        },
        yaxis2={**side, "ticktext": [f"{value:.1%}" for value in values], "side": "right", "overlaying": "y"},
    )
    figure.update_yaxes(automargin=True, color=theme.text)
    figure.update_xaxes(range=reach, tickformat=PERCENT, tickangle=0, nticks=5)
    return figure
