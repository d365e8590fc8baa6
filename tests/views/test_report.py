"""Tests of views.report on a question with hostile names."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import streamlit as st
import torch

from nnguide_core.evaluation import DEFAULT_THRESHOLD, Part
from nnguide_core.evaluation.questions import keep
from nnguide_core.records import Verdict
from tests.synthetic import make_question
from views import resources
from views.classified import wrongly_classified
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
    images = tuple(replace(image, label="dog") for image in last.dataset.images)
    dataset = replace(last.dataset, name=HOSTILE, images=images)  # its folder is called like a class
    labels = torch.ones_like(last.features.labels)
    renamed = Part(dataset, replace(last.features, labels=labels, dataset=dataset.fingerprint))
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


def test_only_id_images_are_hatched_as_wrongly_classified(view):
    (named,) = [judged for judged in view.evaluation.ood if judged.dataset.name == HOSTILE]
    assert (named.features.labels == 1).all()
    assert not named.correct.all()
    assert not wrongly_classified(named).any()
    known = view.evaluation.id[0]
    labels, predicted = known.features.labels.tolist(), known.predicted.tolist()
    wrong = [0 <= label != found for label, found in zip(labels, predicted, strict=True)]
    assert wrongly_classified(known).tolist() == wrong
    bars = figures(view, LIGHT)["scores"].data
    assert [bar.name for bar in bars if bar.marker.pattern.shape and "OOD" in bar.name] == []


def test_the_points_at_the_threshold_are_what_is_flagged_there(view):
    drawn, alarms = figures(view, LIGHT), view.evaluation.id[0].flagged(5, view.threshold)
    for kind in ("roc", "precision-recall"):
        points = [trace for trace in drawn[kind].data if trace.legendgroup == "operating"]
        for judged, point in zip(view.evaluation.ood, points, strict=True):
            caught = judged.flagged(5, view.threshold)
            recall, precision = caught.float().mean(), caught.sum() / (caught.sum() + alarms.sum())
            wanted = (alarms.float().mean(), recall) if kind == "roc" else (recall, precision)
            assert (point.x[0], point.y[0]) == pytest.approx([float(each) for each in wanted])


def test_every_figure_stands_below_a_heading_and_the_threshold_comes_last_in_its_legend(view):
    page = html_report(view, LIGHT)
    for heading in ("Scores of every dataset", "Precision and recall", "Every k"):
        assert f"<h2>{heading}</h2>" in page
    curves = [trace for trace in figures(view, LIGHT)["roc"].data if trace.showlegend is not False]
    assert [trace.name for trace in sorted(curves, key=lambda each: each.legendrank or 1000)][-1] == (
        "at the threshold"
    )


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
def test_without_ood_there_is_a_report_with_the_histogram_that_says_what_curves_need():
    question = make_question(ood_sizes=())
    keep(resources.workspace(), question)
    resources.workspace().save_run(question.run(5))
    answered = resources.evaluation(question.run(5).question)
    view = View(answered, 5, DEFAULT_THRESHOLD, {})
    (histogram,) = figures(view, LIGHT).values()
    assert sum(sum(bar.y) for bar in histogram.data if bar.y[0] is not None) >= len(answered.id[0].features)
    assert "Add OOD images to see curves, AUROC, AUPR and both FPRs." in html_report(view, LIGHT)
