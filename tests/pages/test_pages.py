"""Every page on the demo, run by Streamlit's own test driver: what is on it, and that nothing fails."""

from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nnguide_core.evaluation import judging

APP = Path(__file__).parents[2] / "app.py"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("NNGUIDE_HOME", str(tmp_path_factory.mktemp("home")))
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()
    patch.undo()


@pytest.fixture
def app():
    return AppTest.from_file(str(APP), default_timeout=180)


def texts(app: AppTest) -> str:
    return " ".join(str(element.value) for element in (*app.text, *app.title, *app.subheader, *app.caption))


@pytest.mark.parametrize("page", ["data", "scores", "triage", "export"])
def test_a_page_on_the_demo_shows_its_run_and_no_error(app, page):
    app.run()
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    assert not app.error
    assert "model demo" in texts(app)
    assert "k = 10" in texts(app)


def test_the_first_page_does_not_wait_for_the_baselines(app, monkeypatch):
    def only_if_none_is_asked_for(*given):
        assert given[3] == ()
        return {}, {}

    st.cache_resource.clear()
    monkeypatch.setattr(judging, "baseline_scores", only_if_none_is_asked_for)
    app.run()
    assert not app.exception
    assert not app.error
    assert "k = 10" in texts(app)


def test_the_scores_page_has_every_baseline(app):
    app.run()
    app.switch_page("pages/scores.py").run()
    detectors = [list(table.value["detector"]) for table in app.dataframe if "detector" in table.value]
    assert len(detectors) == 3
    assert all(
        each == ["NNGuide", "Energy", "MSP", "MaxLogit", "KNN", "ViM", "Mahalanobis"] for each in detectors
    )


def test_an_unknown_run_in_the_address_gets_a_sentence(app):
    app.query_params["run"] = "f" * 16
    app.run()
    assert not app.exception
    assert "is not in this workspace" in app.error[0].value


def test_a_nonsense_address_is_ignored(app):
    app.query_params["k"] = "minus one"
    app.query_params["threshold"] = "id_kept:7"
    app.run()
    assert not app.exception
    assert "k = 10" in texts(app)
