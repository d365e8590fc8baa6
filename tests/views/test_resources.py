"""What sessions share: the answer that a session holds on to is never computed again."""

import gc

import pytest
import streamlit as st

from nnguide_core.evaluation.questions import keep
from tests.synthetic import make_question
from views import resources

RUNS = 6  # more than are kept for sessions that are gone


@pytest.fixture
def questions(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path))
    st.cache_resource.clear()
    found = []
    for size in range(10, 10 + RUNS):
        question = make_question(ood_sizes=(size,))
        keep(resources.workspace(), question)
        run = question.run(5)
        resources.workspace().save_run(run)
        found.append(run.question)
    yield found
    st.cache_resource.clear()


@pytest.mark.filterwarnings("ignore")
def test_any_number_of_sessions_keep_the_runs_that_they_show(questions, monkeypatch):
    answered = []
    evaluate = resources.evaluate
    monkeypatch.setattr(
        resources, "evaluate", lambda *each, **more: answered.append(1) or evaluate(*each, **more)
    )
    sessions = [resources.evaluation(question) for question in questions]
    for _ in range(2):
        for question, held in zip(questions, sessions, strict=True):
            assert resources.evaluation(question) is held
    assert len(answered) == RUNS
    del sessions, held
    gc.collect()
    resources.evaluation(questions[0])  # nobody holds it, and four newer ones have been opened
    assert len(answered) == RUNS + 1
