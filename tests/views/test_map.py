"""What the map sends and reads: outlines, colours and selections."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from views.components.events import Event
from views.components.map import ByClass, ByValue, MapEvent, MapPoints
from views.components.map import _coloring_message as coloring_message
from views.components.map import _merged as merge
from views.components.map.polygon import points_inside

COORDINATE = st.integers(-20, 20).map(lambda value: value / 4)
OFF_EDGES = np.array([0.1414213562, 0.0577350269])  # no line through corners holds a point moved by this
CORNER = st.tuples(COORDINATE, COORDINATE)


def inside(polygon, x, y):
    """Cast one ray to the right and count the edges that it crosses."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if (y1 >= y) != (y2 >= y):
            crossings += x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return crossings % 2 == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(CORNER, min_size=3, max_size=12), st.lists(CORNER, max_size=40))
def test_points_inside_an_outline_are_those_whose_ray_crosses_it_an_odd_number_of_times(polygon, points):
    shifted = np.array(points).reshape(-1, 2) + OFF_EDGES
    found = points_inside(np.array(polygon), shifted)
    assert found.tolist() == [inside(polygon, x, y) for x, y in shifted]


def test_a_square_holds_its_middle_and_a_star_leaves_its_middle_out():
    square = np.array([(0, 0), (4, 0), (4, 4), (0, 4)])
    points = np.array([(2.0, 2.0), (5.0, 2.0), (-1.0, 3.0), (3.9, 0.1)])
    assert points_inside(square, points).tolist() == [True, False, False, True]
    turns = np.array([0, 2, 4, 1, 3]) * 2 * np.pi / 5
    star = np.stack([np.sin(turns), np.cos(turns)], axis=1)
    assert points_inside(star, np.array([(0.0, 0.0), (0.0, 0.8)])).tolist() == [False, True]


def test_no_points_and_flat_outlines_hold_nothing():
    line = np.array([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)])
    assert points_inside(line, np.zeros((0, 2))).shape == (0,)
    assert not points_inside(line, np.array([(1.0, 0.0), (1.0, 1.0)])).any()


@pytest.mark.parametrize(
    ("positions", "groups", "message"),
    [
        (np.zeros((3, 3)), np.zeros(3, int), r"positions must be \(3, 2\), got \(3, 3\)"),
        (np.array([[0, np.nan], [1, 1]]), np.zeros(2, int), "1 of 2 positions are not finite"),
        (np.zeros((1, 2)), np.array([7]), "groups must be places in theme.GROUPS, 0 to 4"),
    ],
)
def test_points_that_cannot_be_drawn_are_refused(positions, groups, message):
    with pytest.raises(ValueError, match=message):
        MapPoints(positions, groups)


def test_the_most_frequent_classes_are_named_and_the_others_share_a_colour():
    names = [f"class {number}" for number in range(10)]
    codes = np.array([3] * 5 + [0] * 4 + [9] * 3 + [1, 2, 4, 5, 6, 7, 8] + [-1])
    header, arrays = coloring_message(ByClass("class", codes, names))
    assert header["names"][:3] == ["class 3", "class 0", "class 9"]
    assert len(header["names"]) == 8
    shown = arrays["codes"].tolist()
    assert shown[:5] == [0] * 5
    assert shown[9:12] == [2] * 3
    assert shown[-3:-1] == [255, 255]
    assert [header["names"][code] for code in shown[:-3]] == [names[code] for code in codes[:-3]]


def test_points_without_a_class_are_told_apart_from_those_of_rarer_classes():
    names = [f"class {number}" for number in range(10)]
    header, arrays = coloring_message(ByClass("class", np.array([*range(10), -1]), names))
    assert (header["others"], header["none"]) == (True, True)
    assert arrays["codes"].tolist()[-3:] == [255, 255, 254]
    header, arrays = coloring_message(ByClass("class", np.array([0, 1]), names))
    assert (header["others"], header["none"]) == (False, False)


def test_a_ramp_ignores_outliers_and_unknown_values():
    values = np.concatenate([np.linspace(0, 1, 999), [1e9, np.nan]])
    header, _ = coloring_message(ByValue("energy", values))
    assert header["low"] == pytest.approx(0.01, abs=1e-3)
    assert header["high"] == pytest.approx(0.99, abs=1e-3)
    assert coloring_message(ByValue("energy", np.full(3, np.nan)))[0]["high"] == 1.0


def test_several_events_come_to_the_last_of_each_kind_and_nothing_cleared_after():
    outline = {"outline": [0, 0, 1, 0, 1, 1], "hidden": [4]}
    clicked, hovered, drawn = Event("clicked", 3), Event("hovered", 4), Event("polygon", outline)
    merged = merge([hovered, clicked, Event("clicked", 5)], 10)
    assert (merged.hovered, merged.clicked, merged.cleared) == (4, 5, False)
    after = merge([clicked, hovered, Event("cleared", True), drawn], 10)
    assert (after.hovered, after.clicked, after.cleared) == (4, None, True)
    assert after.polygon.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert after.hidden == (4,)


def test_an_outline_selects_the_points_inside_that_the_legend_does_not_hide():
    points = MapPoints(np.array([[1.0, 1.0], [1.5, 1.0], [1.0, 1.5], [9.0, 1.0]]), np.array([0, 4, 2, 0]))
    square = {"outline": [0, 0, 2, 0, 2, 2, 0, 2], "hidden": []}
    drawn = merge([Event("polygon", square)], 4)
    assert drawn.selected(points).tolist() == [True, True, True, False]
    partly = merge([Event("polygon", {**square, "hidden": [0, 2]})], 4)
    assert partly.selected(points).tolist() == [False, True, False, False]
    assert not MapEvent().selected(points).any()


@pytest.mark.parametrize(
    "event",
    [
        Event("clicked", 10),
        Event("hovered", -1),
        Event("clicked", "3"),
        Event("polygon", [0, 0, 1, 0, 1, 1]),
        Event("polygon", {"outline": [0, 0, 1, 1], "hidden": []}),
        Event("polygon", {"outline": [0, 0, 1, 1, 2], "hidden": []}),
        Event("polygon", {"outline": [0, 0, 1, 1, 2, "x"], "hidden": []}),
        Event("polygon", {"outline": [0, 0, 1, 0, 1, 1]}),
        Event("polygon", {"outline": [0, 0, 1, 0, 1, 1], "hidden": ["x"]}),
        Event("other", 1),
    ],
)
def test_an_event_that_makes_no_sense_is_none(event):
    assert merge([event], 10) == MapEvent()
