"""The design's promises on colour: contrast, distance under colour blindness, one place for every colour."""

import itertools
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from views.theme import DARK, GROUPS, LIGHT, MARKERS, Group, group_of, palette, theme_named

ROOT = Path(__file__).parents[2]
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
HEX = re.compile(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b")

# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
D65 = np.array([0.95047, 1.0, 1.08883])


def linear_rgb(color):
    parts = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    dark, light = sorted(float(XYZ[1] @ linear_rgb(color)) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    xyz = XYZ @ np.clip(rgb, 0, 1) / D65
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def ciede2000(one, other):
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    weight = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    dl = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * weight)
    bend = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    return np.sqrt(dl**2 + dc**2 + dh**2 - 2 * bend * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * dc * dh)


def test_the_color_difference_is_the_published_one():
    pairs = [((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425), ((50, 2.5, 0), (73, 25, -18), 27.1492)]
    for one, other, expected in pairs:  # Sharma, Wu, Dalal 2005, table 1
        assert ciede2000(one, other) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("theme", "promised"), [(LIGHT, 18.9), (DARK, 21.5)], ids=["light", "dark"])
def test_groups_stay_apart_under_every_color_blindness(theme, promised):
    smallest = min(
        ciede2000(
            lab(np.array(matrix) @ linear_rgb(theme.color(one))),
            lab(np.array(matrix) @ linear_rgb(theme.color(other))),
        )
        for matrix in BLINDNESS.values()
        for one, other in itertools.combinations(GROUPS, 2)
    )
    assert round(float(smallest), 1) == promised


@THEMES
def test_text_and_errors_of_the_detector_can_be_read(theme):
    for ground in (theme.background, theme.surface):
        for name in ("text", "muted", "accent", "id_flagged", "ood_passed"):
            assert contrast(getattr(theme, name), ground) >= 4.5, name
    for group in (Group.ID_PASSED, Group.OOD_FLAGGED):
        assert contrast(theme.color(group), theme.background) >= 2.0


@THEMES
def test_lines_can_be_seen_on_the_background(theme):
    assert len(set(theme.series)) == len(theme.series) >= 6
    assert min(contrast(color, theme.background) for color in theme.series) >= 3


@THEMES
def test_the_score_ramp_is_darkest_at_its_ends_and_neutral_at_the_threshold(theme):
    strength = [contrast(color, theme.background) for color in theme.score_ramp]
    middle = len(strength) // 2
    assert strength[middle] == min(strength)
    assert strength[: middle + 1] == sorted(strength[: middle + 1], reverse=True)
    assert strength[middle:] == sorted(strength[middle:])
    assert np.ptp(linear_rgb(theme.score_ramp[middle])) < 0.05


def test_every_group_has_its_own_marker_and_its_own_words():
    assert len({MARKERS[group].glyph for group in GROUPS}) == len(GROUPS)
    queries = [group for group in GROUPS if group != Group.BANK]
    assert len({MARKERS[group].symbol for group in queries}) == len(queries)
    assert len({str(group) for group in GROUPS}) == len(GROUPS)


def test_truth_and_decision_name_the_group():
    assert group_of(ood=False, flagged=True) == Group.ID_FLAGGED == "ID flagged (false alarm)"
    assert group_of(ood=True, flagged=False) == Group.OOD_PASSED == "OOD passed (miss)"
    assert group_of(ood=False, flagged=False) == Group.ID_PASSED
    assert group_of(ood=True, flagged=True) == Group.OOD_FLAGGED


def test_an_unknown_theme_is_light():
    assert theme_named("dark") is DARK
    assert theme_named("light") is theme_named(None) is LIGHT


@THEMES
def test_the_palette_gives_groups_in_drawing_order_with_errors_on_top(theme):
    assert palette(theme)["groups"][0] == theme.bank
    assert palette(theme)["groups"][-2:] == [theme.id_flagged, theme.ood_passed]


@THEMES
def test_the_page_has_the_colors_of_the_theme(theme):
    config = tomllib.loads((ROOT / ".streamlit/config.toml").read_text())["theme"][theme.name]
    assert config == {
        "primaryColor": theme.accent,
        "backgroundColor": theme.background,
        "secondaryBackgroundColor": theme.surface,
        "textColor": theme.text,
        "borderColor": theme.grid,
    }


def test_the_server_listens_to_this_machine_only_and_tells_nobody():
    config = tomllib.loads((ROOT / ".streamlit/config.toml").read_text())
    assert config["server"]["address"] == "127.0.0.1"
    assert set(config["server"]["allowedHosts"]) == {"127.0.0.1", "localhost"}
    assert config["server"]["enableXsrfProtection"] is True
    assert config["browser"]["gatherUsageStats"] is False
    assert config["client"]["showErrorDetails"] == "none"
    assert config["client"]["showErrorLinks"] is False
    assert config["runner"]["postScriptGC"] is False  # the collection takes 0.3 s after every run of a page


def test_no_other_file_of_the_dashboard_names_a_color():
    files = [ROOT / "app.py", *(ROOT / "pages").rglob("*.py"), *(ROOT / "views").rglob("*.*")]
    texts = {
        file.relative_to(ROOT): file.read_text()
        for file in files
        if file.suffix in {".py", ".js", ".css", ".html"} and file.name != "theme.py" and file.exists()
    }
    assert {file: found for file, text in texts.items() if (found := HEX.findall(text))} == {}
