"""What the check says of the time that computing takes."""

import pytest

from nnguide_core.datasets.report import report
from nnguide_core.evaluation.checks import Check, ModelCard
from views.check_view import time_in_words


@pytest.fixture
def make_check():
    """make_check(rate, to_compute) -> a check of a model that takes 3 s to load and 2 s to start."""

    def make(rate, to_compute):
        card = ModelCard({}, (), (), rate, loading=3.0, starting=2.0)
        return Check(report([]), (), card, "", {}, to_compute, sets_to_compute=bool(to_compute), search=0.2)

    return make


def test_the_time_is_named_part_by_part_with_what_is_not_counted(make_check):
    assert time_in_words(make_check(20.0, 100)) == (
        "Computing will take about 10 s: loading the model 3 s, computing features of 100 images 7 s, "
        "searching less than 1 s. The baselines come on top, and other work on this machine makes it longer."
    )


def test_features_that_are_kept_take_no_time(make_check):
    words = time_in_words(make_check(20.0, 0))
    assert words.startswith("Computing will take about 3 s: loading the model 3 s, all features are kept")


def test_a_pace_that_nobody_measured_is_not_guessed(make_check):
    assert time_in_words(make_check(None, 100)) == ""
