"""The figures that explain one image hold what the score is made of."""

import numpy as np
import pytest

from views.image_charts import Quantities, energy_guidance_plane, score_over_k, top_classes
from views.theme import DARK, LIGHT, Group

HOSTILE = "<img src=x>&"
SHOWN = "&lt;img src=x&gt;&amp;"


@pytest.fixture
def clouds():
    rng = np.random.default_rng(3)
    known = Quantities(rng.normal(9, 1, 2000), rng.normal(8, 1, 2000))
    return known, Quantities(rng.normal(6, 1, 900), rng.normal(6, 1, 900))


def named(figure, words):
    (trace,) = [trace for trace in figure.data if words in (trace.name or "")]
    return trace


def test_the_threshold_curve_holds_points_whose_score_is_the_threshold(clouds):
    curve = named(energy_guidance_plane(*clouds, (7.0, 7.0), Group.OOD_PASSED, -58.0, LIGHT), "threshold")
    energy, guidance = np.asarray(curve.x, float), np.asarray(curve.y, float)
    visible = np.isfinite(guidance)
    assert visible.sum() > 100
    np.testing.assert_allclose(-guidance[visible] * energy[visible], -58.0)


def test_a_threshold_curve_that_passes_zero_energy_is_broken_there():
    cloud = Quantities(np.linspace(-2, 2, 101), np.linspace(-2, 2, 101))
    nothing = Quantities(np.zeros(0), np.zeros(0))
    curve = named(
        energy_guidance_plane(cloud, nothing, (0.0, 0.0), Group.ID_PASSED, -0.5, LIGHT), "threshold"
    )
    energy, guidance = np.asarray(curve.x, float), np.asarray(curve.y, float)
    assert np.isnan(guidance[np.abs(energy) < 0.05]).all()
    assert len(curve.x) <= 500


def test_this_image_is_marked_with_the_shape_of_its_group(clouds):
    figure = energy_guidance_plane(*clouds, (7.0, 6.5), Group.ID_FLAGGED, -58.0, DARK)
    point = named(figure, "this image")
    assert (point.x[0], point.y[0], point.marker.symbol) == (7.0, 6.5, "x")
    assert "false alarm" in point.name


def test_the_plane_holds_the_image_even_when_it_lies_far_out(clouds):
    figure = energy_guidance_plane(*clouds, (40.0, -3.0), Group.OOD_FLAGGED, -58.0, LIGHT)
    assert figure.layout.xaxis.range[0] < 40.0 < figure.layout.xaxis.range[1]
    assert figure.layout.yaxis.range[0] < -3.0


def test_densities_peak_where_the_images_are(clouds):
    density = named(energy_guidance_plane(*clouds, (7.0, 7.0), Group.OOD_PASSED, -58.0, LIGHT), "ID images")
    row, column = np.unravel_index(np.argmax(density.z), np.shape(density.z))
    assert density.x[column] == pytest.approx(9, abs=0.6)
    assert density.y[row] == pytest.approx(8, abs=0.6)
    assert "n = 2,000" in density.name


def test_each_flip_of_the_decision_is_marked_at_the_k_where_it_happens():
    ks, scores = np.arange(1, 7), np.array([-5.0, -5.0, -3.0, -3.0, -6.0, -6.0])
    figure = score_over_k(ks, scores, -4.0, 2, ood=True, theme=LIGHT)
    assert list(named(figure, "from here flagged").x) == [3]
    assert list(named(figure, "from here passed").x) == [5]
    assert named(figure, "from here passed").marker.color == LIGHT.ood_passed


def test_a_threshold_that_follows_k_is_compared_k_by_k():
    ks, scores = np.arange(1, 4), np.array([-5.0, -5.0, -5.0])
    figure = score_over_k(ks, scores, np.array([-6.0, -4.0, -4.0]), 1, ood=False, theme=LIGHT)
    assert list(named(figure, "from here passed").x) == [2]
    assert list(named(figure, "threshold").y) == [-6.0, -4.0, -4.0]


def test_a_decision_that_never_flips_has_no_mark():
    figure = score_over_k(np.arange(1, 101), np.full(100, -5.0), -4.0, 2, ood=True, theme=LIGHT)
    assert not [trace for trace in figure.data if "from here" in trace.name]
    assert all(len(trace.x) == 100 for trace in figure.data)


def test_class_names_are_shown_literally():
    text = (
        top_classes([HOSTILE, "dog"], np.array([0.9, 0.1]), LIGHT).to_json().encode().decode("unicode_escape")
    )
    assert "<img" not in text
    assert SHOWN in text


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_figure_has_titled_axes_and_the_colors_of_the_theme(clouds, theme):
    for figure in (
        energy_guidance_plane(*clouds, (7.0, 7.0), Group.OOD_PASSED, -58.0, theme),
        score_over_k(np.arange(1, 4), np.zeros(3), 1.0, 2, ood=True, theme=theme),
        top_classes(["a"], np.array([1.0]), theme),
    ):
        assert figure.layout.xaxis.title.text
        assert figure.layout.template.layout.paper_bgcolor == theme.background
