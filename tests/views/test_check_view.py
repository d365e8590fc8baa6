"""What the check says of the time that computing takes."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nnguide_core.datasets.report import report
from nnguide_core.evaluation.checks import Check, ModelCard
from nnguide_core.records import Dataset, ImageRef, Role, Skipped
from views.check_view import time_in_words


@pytest.fixture
def make_check():
    """make_check(rate, to_compute) -> a check of a model that takes 3 s to load and 2 s to start."""

    def make(rate, to_compute):
        card = ModelCard({}, (), (), rate, loading=3.0, starting=2.0)
        return Check(report([]), (), card, "", to_compute, sets_to_compute=bool(to_compute), search=0.2)

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


def made_dataset(name, role, ids, skipped=0):
    """Return a dataset of made-up images with these ids, without classes."""
    images = tuple(ImageRef(each, name, f"{row}.png", None, f"{row}.png") for row, each in enumerate(ids))
    failed = tuple(Skipped(f"{row}.txt", "No image: text") for row in range(skipped))
    return Dataset(name, role, Path("/nowhere"), images, failed)


def shown(datasets, skipped=()):
    """Return what the page shows of a check of these datasets."""

    def page(found):
        from views.check_view import show_check

        show_check(found)

    found = Check(report(datasets), skipped, None, "", 0)
    app = AppTest.from_function(page, kwargs={"found": found}).run(timeout=60)
    assert not app.exception
    return app


def test_a_list_that_is_cut_says_how_many_there_are():
    pairs = [f"{row:04}" for row in range(1234) for _ in range(2)]
    test = made_dataset("test", Role.ID, pairs, skipped=1500)
    app = shown([test], tuple(("test", each) for each in test.skipped[:1000]))
    titles = [each.label for each in app.expander]
    assert titles == ["Skipped files and why (1,000 of 1,500)", "Copies inside a dataset (200 of 1,234)"]


def test_a_list_that_is_whole_says_how_many_it_holds():
    app = shown([made_dataset("test", Role.ID, ["a", "a", "b", "b"])])
    assert [each.label for each in app.expander] == ["Copies inside a dataset (2)"]


def test_images_on_both_sides_are_warned_of():
    app = shown(
        [made_dataset("test", Role.ID, ["a", "b", "c"]), made_dataset("street", Role.OOD, ["b", "c"])]
    )
    assert any("2 images both in an ID and in an OOD dataset" in each.value for each in app.warning)
