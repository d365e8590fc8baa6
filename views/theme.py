"""Every colour, marker and chart style of the dashboard, for the light and the dark theme.

Hue says truth (blue is ID, orange is OOD), lightness and marker say the decision. The five group colours keep
a CIEDE2000 difference of at least 18.9 (light) and 21.5 (dark) under simulated colour blindness; a test
recomputes it. `.streamlit/config.toml` repeats the page colours; a test keeps the two equal.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

__all__ = [
    "DARK",
    "FONT",
    "GROUPS",
    "LIGHT",
    "MARKERS",
    "Group",
    "Marker",
    "Theme",
    "group_of",
    "palette",
    "plotly_template",
    "theme_named",
]

FONT = '"Source Sans", system-ui, sans-serif'  # the first is the one that Streamlit ships

Ramp = tuple[str, ...]


class Group(StrEnum):
    """Truth × decision, in the words that legends use; the values are in drawing order, the last on top."""

    BANK = "bank"
    ID_PASSED = "ID passed"
    OOD_FLAGGED = "OOD flagged"
    ID_FLAGGED = "ID flagged (false alarm)"
    OOD_PASSED = "OOD passed (miss)"


GROUPS = tuple(Group)


@dataclass(frozen=True, slots=True)
class Marker:
    """How a group is drawn without colour: as a character, and as Plotly calls the same shape."""

    glyph: str
    symbol: str


MARKERS = {
    Group.BANK: Marker("·", "circle"),
    Group.ID_PASSED: Marker("●", "circle"),
    Group.OOD_FLAGGED: Marker("■", "square"),
    Group.ID_FLAGGED: Marker("✕", "x"),
    Group.OOD_PASSED: Marker("◇", "diamond-open"),
}


@dataclass(frozen=True)
class Theme:
    """The colours of one theme, each as #RRGGBB."""

    name: Literal["light", "dark"]
    background: str
    surface: str  # widgets, cards, sidebar
    text: str
    muted: str  # axis text, captions; at least 4.5:1 on the background
    grid: str
    accent: str  # the current k, the threshold, the operating point
    bank: str
    id_passed: str
    id_flagged: str
    ood_flagged: str
    ood_passed: str
    score_ramp: Ramp  # lowest score, threshold, highest score
    value_ramp: Ramp  # low to high, for energy and guidance
    series: tuple[str, ...]  # lines and classes; each at least 3:1 on the background

    def color(self, group: Group) -> str:
        """Return the colour of a group."""
        return {
            Group.BANK: self.bank,
            Group.ID_PASSED: self.id_passed,
            Group.OOD_FLAGGED: self.ood_flagged,
            Group.ID_FLAGGED: self.id_flagged,
            Group.OOD_PASSED: self.ood_passed,
        }[group]


LIGHT = Theme(
    name="light",
    background="#FFFFFF",
    surface="#F3F5F7",
    text="#1B1F24",
    muted="#57606A",
    grid="#E1E5EA",
    accent="#8A1C7C",
    bank="#C4C4C4",
    id_passed="#6BA3D0",
    id_flagged="#08306B",
    ood_flagged="#F4A259",
    ood_passed="#A63603",
    score_ramp=("#08306B", "#6BA3D0", "#CFCFCF", "#F4A259", "#A63603"),
    value_ramp=("#BFD9EC", "#6BA3D0", "#2B6CA3", "#08306B"),
    series=("#2C6DA4", "#B5540B", "#1B7F5C", "#8A3FA0", "#8A6D00", "#C0334D", "#4A4F57", "#2A8C97"),
)

DARK = Theme(
    name="dark",
    background="#0F1216",
    surface="#1B2027",
    text="#E9ECEF",
    muted="#A9B1BC",
    grid="#2B313A",
    accent="#F08BE0",
    bank="#4B5058",
    id_passed="#3B82C4",
    id_flagged="#CDEBFF",
    ood_flagged="#C26A12",
    ood_passed="#FFC46B",
    score_ramp=("#CDEBFF", "#3B82C4", "#5C626B", "#C26A12", "#FFC46B"),
    value_ramp=("#2A4A6B", "#3B82C4", "#86BEEB", "#E3F4FF"),
    series=("#6FB3EE", "#F0A35A", "#4FC79B", "#C79BE8", "#D9C04A", "#F58A9B", "#B4BCC6", "#5CCBD6"),
)


def theme_named(name: str | None) -> Theme:
    """Return the theme called "light" or "dark"; light while the browser has not said which it shows.

    Pages pass `st.context.theme.type`.
    """
    return DARK if name == "dark" else LIGHT


def group_of(*, ood: bool, flagged: bool) -> Group:
    """Return the group of a query from its truth and its decision."""
    if ood:
        return Group.OOD_FLAGGED if flagged else Group.OOD_PASSED
    return Group.ID_FLAGGED if flagged else Group.ID_PASSED


def palette(theme: Theme) -> dict[str, Any]:
    """Return a theme's colours as JSON-able values for the browser components, groups in drawing order."""
    return {
        "background": theme.background,
        "surface": theme.surface,
        "text": theme.text,
        "muted": theme.muted,
        "grid": theme.grid,
        "accent": theme.accent,
        "groups": [theme.color(group) for group in GROUPS],
        "score_ramp": list(theme.score_ramp),
        "value_ramp": list(theme.value_ramp),
        "series": list(theme.series),
    }


def plotly_template(theme: Theme) -> dict[str, Any]:
    """Return the Plotly layout that every figure of a theme starts from; show figures with theme=None."""
    axis = {
        "gridcolor": theme.grid,
        "linecolor": theme.muted,
        "zerolinecolor": theme.grid,
        "tickfont": {"color": theme.muted},
        "title": {"font": {"color": theme.text}, "standoff": 8},
        "automargin": True,
    }
    return {
        "layout": {
            "paper_bgcolor": theme.background,
            "plot_bgcolor": theme.background,
            "font": {"family": FONT, "size": 14, "color": theme.text},
            "colorway": list(theme.series),
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": theme.surface, "font": {"color": theme.text, "family": FONT}},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
            "hovermode": "closest",
        }
    }
