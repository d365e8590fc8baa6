"""Tests of nnguide_core.evaluation.questions"""

from dataclasses import replace

import pytest
import torch

from nnguide_core.errors import StoreError
from nnguide_core.evaluation import Question, evaluate
from nnguide_core.evaluation.questions import keep, open_question
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from tests.synthetic import make_question


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def scores(question: Question) -> list[torch.Tensor]:
    return [judged.neighbors.score_at(10) for judged in evaluate(question, baselines=()).queries]


@pytest.mark.parametrize(
    "settings", [BankSettings(), BankSettings(react_percentile=90.0, fraction=0.5, seed=3)]
)
def test_a_kept_question_is_opened_with_the_same_scores(workspace, settings):
    question = make_question(settings=settings)
    keep(workspace, question)
    opened = open_question(workspace, question.run(10))
    for before, after in zip(scores(question), scores(opened), strict=True):
        assert torch.equal(before, after)
    assert opened.class_names == question.class_names
    assert opened.run(10).id == question.run(10).id


def test_a_question_without_a_head_stays_without_one(workspace):
    question = replace(make_question(), head=None)
    keep(workspace, question)
    assert open_question(workspace, question.run(10)).head is None


@pytest.mark.parametrize("gone", ["features", "dataset", "model"])
def test_what_is_gone_is_named(workspace, gone):
    question = make_question()
    keep(workspace, question)
    part = question.queries[-1]
    if gone == "dataset":
        stored = next(each for each in workspace.datasets() if each.fingerprint == part.dataset.fingerprint)
        workspace.remove_dataset(stored)
    elif gone == "features":
        for file in (workspace.root / "tensors" / "features").glob("*.safetensors"):
            file.unlink()
    else:
        workspace.remove("heads", question.model)
    expected = {
        "features": "the features of bank",
        "dataset": "the images of OOD 1",
        "model": "the model synthetic",
    }
    with pytest.raises(StoreError, match=expected[gone]):
        open_question(workspace, question.run(10))


def test_labels_follow_the_class_names_of_the_dataset(workspace):
    question = make_question()
    keep(workspace, question)
    opened = open_question(workspace, question.run(10))
    assert torch.equal(opened.queries[0].features.labels, question.queries[0].features.labels)
    assert (opened.queries[-1].features.labels == -1).all()
