"""The figures of whole datasets hold the numbers they were given, and show names literally."""

import numpy as np
import pytest

from views.charts import Curve, ScoreRow, metric_over_k, precision_recall, roc, score_histogram
from views.theme import DARK, LIGHT

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
HOSTILE = '<b onmouseover="x">&%{x}\u202e'
SHOWN = '&lt;b onmouseover="x"&gt;&amp;%{x}\\u202e'
EDGES = np.array([0.0, 1.0, 2.0, 3.0, 4.0])


@pytest.fixture
def rows():
    known = ScoreRow("known", ood=False, counts=np.array([8, 4, 2, 0]), wrong=np.array([1, 2, 2, 0]))
    return [known, ScoreRow(HOSTILE, ood=True, counts=np.array([0, 1, 5, 6]))]


@pytest.fixture
def curve():
    rates = np.linspace(0, 1, 4001)
    return Curve("far", rates, np.sqrt(rates), operating=(0.25, 0.5))


def bars(figure, words):
    return [bar for bar in figure.data if bar.type == "bar" and bar.x[0] is not None and words in bar.name]


def area(bar):
    return float(np.sum(np.asarray(bar.y) * np.asarray(bar.width)))


def strings(part):
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from strings(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from strings(value)


def every_figure(rows, curve, theme):
    yield score_histogram(EDGES, rows, 2.25, theme)
    yield roc([curve], theme)
    yield precision_recall([curve], theme)
    yield metric_over_k(np.arange(1, 101), {"AUROC": np.linspace(0.9, 0.8, 100)}, 10, theme)


def test_bars_are_colored_by_decision_and_cut_at_the_threshold(rows):
    figure = score_histogram(EDGES, rows, 2.25, LIGHT)
    passed, flagged = bars(figure, "ID passed"), bars(figure, "ID flagged")
    assert sum(map(area, passed)) == pytest.approx(8 + 4 + 2 * 0.25)
    assert sum(map(area, flagged)) == pytest.approx(2 * 0.75)
    assert {bar.marker.color for bar in passed} == {LIGHT.id_passed}
    assert {bar.marker.color for bar in bars(figure, "OOD passed")} == {LIGHT.ood_passed}
    assert sum(map(area, bars(figure, "OOD flagged"))) == pytest.approx(5 * 0.75 + 6)


def test_wrongly_classified_images_are_hatched_and_counted_once(rows):
    figure = score_histogram(EDGES, rows, 2.25, LIGHT)
    hatched = [bar for bar in bars(figure, "ID") if bar.marker.pattern.shape]
    assert sum(map(area, hatched)) == pytest.approx(5)
    assert sum(map(area, bars(figure, "ID "))) == pytest.approx(14)


def test_each_legend_word_appears_once(rows):
    twice = [*rows, ScoreRow("far", ood=True, counts=np.array([1, 1, 1, 1]))]
    shown = [
        bar.name for bar in score_histogram(EDGES, twice, 2.25, LIGHT).data if bar.showlegend is not False
    ]
    assert sorted(set(shown)) == sorted(shown)
    assert any("hatched" in name for name in shown)


def test_a_dataset_without_scores_has_a_row_of_its_own(rows):
    figure = score_histogram(
        EDGES, [ScoreRow("blank", ood=True, counts=np.zeros(4, int)), *rows], 2.25, LIGHT
    )
    (empty,) = [bar for bar in figure.data if bar.yaxis == "y" and bar.name is None]
    assert empty.showlegend is False
    assert {bar.yaxis for bar in bars(figure, "ID passed")} == {"y2"}


def test_a_threshold_outside_the_bins_passes_or_flags_everything(rows):
    assert not bars(score_histogram(EDGES, rows, 9.0, LIGHT), "flagged")
    assert not bars(score_histogram(EDGES, rows, -9.0, LIGHT), "passed")


def test_a_histogram_without_datasets_is_empty():
    assert not score_histogram(EDGES, [], 0.0, LIGHT).data


def test_no_curve_has_more_than_500_points_and_ends_are_kept(curve):
    line = roc([curve], LIGHT).data[0]
    assert len(line.x) <= 500
    assert (line.x[0], line.x[-1], line.y[-1]) == (0.0, 1.0, 1.0)
    over_k = metric_over_k(np.arange(1, 101), {"AUROC": np.linspace(0.9, 0.8, 100)}, 10, LIGHT).data[0]
    assert list(over_k.x) == list(range(1, 101))


def test_the_operating_point_is_marked_on_both_curves(curve):
    for figure in (roc([curve], LIGHT), precision_recall([curve], LIGHT)):
        (point,) = [trace for trace in figure.data if trace.mode == "markers"]
        assert (point.x[0], point.y[0]) == (0.25, 0.5)


def test_curves_differ_by_dash_as_well_as_color(curve):
    lines = [trace for trace in roc([curve] * 4, LIGHT).data if trace.mode == "lines"][:4]
    assert len({line.line.dash for line in lines}) == 4


def test_the_current_k_is_marked():
    figure = metric_over_k(np.arange(1, 51), {"AUROC": np.linspace(0.9, 0.8, 50)}, 7, LIGHT)
    assert figure.layout.shapes[0].x0 == 7


def test_names_are_shown_literally_everywhere(rows, curve):
    hostile = Curve(HOSTILE, curve.x, curve.y, curve.operating)
    figures = [score_histogram(EDGES, rows, 2.25, LIGHT), roc([hostile], LIGHT)]
    figures.append(metric_over_k(np.arange(1, 3), {HOSTILE: np.array([0.1, 0.2])}, 1, LIGHT))
    for figure in figures:
        texts = list(strings(figure.to_plotly_json()))
        assert not [text for text in texts if "<b " in text]
        assert any(SHOWN in text for text in texts)
        assert not [text for text in texts if "onmouseover" in text and "<extra>" in text]


@THEMES
def test_every_figure_has_titled_axes_and_the_colors_of_the_theme(rows, curve, theme):
    for figure in every_figure(rows, curve, theme):
        layout = figure.layout
        assert layout.yaxis.title.text
        assert any(axis.title.text for axis in figure.select_xaxes())
        assert layout.template.layout.paper_bgcolor == theme.background
        assert layout.template.layout.font.color == theme.text
