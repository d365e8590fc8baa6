"""The map page: made in the background on its first visit, then shown with what is selected on any page."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from views import resources
from views.state import Selection

ROOT = Path(__file__).parents[2]
PAGE = "pages/map.py"


@pytest.fixture(scope="module", autouse=True)
def workspace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNGUIDE_HOME", str(tmp_path_factory.mktemp("workspace")))
        resources.st.cache_resource.clear()
        yield
        resources.jobs().close()
    resources.st.cache_resource.clear()


@pytest.fixture
def app():
    opened = AppTest.from_file(ROOT / "app.py", default_timeout=300)
    opened.run()
    opened.switch_page(PAGE)
    return opened


@pytest.fixture
def shown(app):
    """The page once its map is made."""
    app.run()
    for job in resources.jobs().all():
        assert job.wait(300)
    return app.run()


def said(app, kind):
    return " ".join(element.value for element in app.get(kind))


def test_the_first_visit_makes_the_map_in_the_background_and_says_that_it_takes_longer(app):
    app.run()
    assert not app.exception
    assert "first map after the program starts takes some seconds longer" in said(app, "caption")
    (job,) = resources.jobs().all()
    assert job.wait(300)
    app.run()
    assert not app.exception
    assert "locates, it never decides" in said(app, "caption")
    assert "Nothing is selected" in said(app, "info")
    workspace = resources.workspace()
    assert [path.name for path in (workspace.root / "tensors").iterdir() if path.name == "projections"]


def test_what_is_selected_is_counted_by_dataset_decision_and_class(shown):
    queries = resources.evaluation(resources.demo_question()).queries
    chosen = {
        judged.dataset.name: frozenset(judged.features.ids[:count])
        for judged, count in zip(queries, (7, 3), strict=False)
    }
    shown.session_state["nnguide.selection"] = Selection(chosen)
    shown.run()
    assert not shown.exception
    assert "10 images selected: 10 queries and 0 bank images." in said(shown, "text")
    dataset, decision, label = (frame.value for frame in shown.dataframe)
    assert dict(zip(dataset["dataset"], dataset["images"], strict=True)) == {
        queries[0].dataset.name: 7,
        queries[1].dataset.name: 3,
    }
    assert decision["images"].sum() == label["images"].sum() == 10


def test_clearing_the_selection_clears_it_for_every_page(shown):
    judged = resources.evaluation(resources.demo_question()).queries[0]
    chosen = {judged.dataset.name: frozenset(judged.features.ids[:7])}
    shown.session_state["nnguide.selection"] = Selection(chosen)
    shown.run()
    next(button for button in shown.button if button.label == "Clear the selection").click()
    shown.run()
    assert shown.session_state["nnguide.selection"] == Selection({})
    assert "Nothing is selected" in said(shown, "info")


def test_a_bank_image_says_whom_it_serves_and_selects_them(shown):
    question = resources.demo_question()
    used = resources.usage(question, 10)
    busiest = int(used.argmax())
    shown.session_state["nnguide.page.bank_image"] = resources.evaluation(question).bank.ids[busiest]
    shown.run()
    assert not shown.exception
    assert f"among the 10 neighbours of {used[busiest]:,} queries: number 1 of 2,000" in said(shown, "text")
    next(button for button in shown.button if button.label == "Select these queries").click()
    shown.run()
    assert f"{used[busiest]:,} images selected" in said(shown, "text")


@pytest.mark.parametrize(
    "color", ["score", "class", "predicted class", "dataset", "energy", "guidance", "truth × decision"]
)
def test_every_coloring_is_shown_without_an_error(shown, color):
    shown.get("button_group")[1].set_value(color).run()
    assert not shown.exception
    assert not shown.error
    assert shown.session_state["nnguide.page.map_color"] == color


def test_without_datasets_nothing_is_shown_but_a_hint(shown):
    shown.get("button_group")[0].set_value([]).run()
    assert not shown.exception
    assert "No dataset is shown" in said(shown, "info")
