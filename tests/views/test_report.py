"""Tests of views.report on a question with hostile names."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import streamlit as st

from nnguide_core.evaluation import DEFAULT_THRESHOLD, Part
from nnguide_core.questions import keep
from nnguide_core.records import Verdict
from tests.synthetic import make_question
from views import resources
from views.current import View
from views.report import figures, html_report
from views.theme import LIGHT

HOSTILE = "<script>document.title='hacked'</script>"


@pytest.fixture
def view(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path))
    st.cache_resource.clear()
    question = make_question()
    last = question.parts[-1]
    renamed = Part(replace(last.dataset, name=HOSTILE), last.features)
    question = replace(question, parts=(*question.parts[:-1], renamed), class_names=(HOSTILE, "dog", "owl"))
    keep(resources.workspace(), question)
    run = question.run(5)
    resources.workspace().save_run(run)
    said = Verdict(last.dataset.images[0].id, "really ID", f"note {HOSTILE}", datetime.now(UTC), run.id)
    yield View(resources.evaluation(run.question), 5, DEFAULT_THRESHOLD, {said.image: said})
    st.cache_resource.clear()


def test_every_figure_is_there_and_has_data(view):
    drawn = figures(view, LIGHT)
    assert list(drawn) == ["scores", "roc", "precision-recall", "over-k"]
    assert all(len(figure.data) > 0 for figure in drawn.values())


def test_no_name_becomes_markup(view):
    page = html_report(view, LIGHT)
    assert HOSTILE not in page
    assert "&lt;script&gt;document.title" in page


def test_it_names_no_address_outside_of_plotly_itself(view):
    page = html_report(view, LIGHT)
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", without_scripts)
    assert "default-src 'none'" in page


def test_it_shows_the_metrics_of_every_ood_dataset(view):
    page = html_report(view, LIGHT)
    for judged in view.evaluation.ood[:1]:
        assert judged.dataset.name in page
    assert page.count("Mahalanobis") >= 1
    assert view.run.id in page


@pytest.mark.usefixtures("view")
def test_without_ood_there_is_a_report_without_figures():
    question = make_question(ood_sizes=())
    keep(resources.workspace(), question)
    resources.workspace().save_run(question.run(5))
    answered = resources.evaluation(question.run(5).question)
    assert figures(View(answered, 5, DEFAULT_THRESHOLD, {}), LIGHT) == {}
    assert "NNGuide report" in html_report(View(answered, 5, DEFAULT_THRESHOLD, {}), LIGHT)
