"""Tests of nnguide_core.evaluation.questions"""

from dataclasses import fields, replace

import pytest
import torch
from PIL import Image

from nnguide_core.datasets import open_dataset
from nnguide_core.detector import NNGuide
from nnguide_core.errors import StoreError
from nnguide_core.evaluation import Question, evaluate
from nnguide_core.evaluation.comparison import metrics_table
from nnguide_core.evaluation.provenance import save_detector, spec_from_json
from nnguide_core.evaluation.questions import ask, keep, open_question
from nnguide_core.models import ModelSpec, load_model, specs
from nnguide_core.models.architectures import torchvision_model
from nnguide_core.records import Features, Role, Run, Threshold
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from tests.synthetic import lose_dataset, make_question


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


def test_two_runs_of_one_network_keep_their_own_class_names(workspace):
    first = replace(make_question(), spec={"library": "demo"})
    second = replace(first, class_names=("owl", "dog", "cat"))
    for question in (first, second):
        keep(workspace, question)
        workspace.save_run(question.run(10))
    assert first.run(10).question != second.run(10).question
    labels = []
    for question in (first, second):
        opened = open_question(workspace, question.run(10))
        assert opened.class_names == question.class_names
        labels.append(opened.bank.features.labels)
    assert torch.equal(labels[0], 2 - labels[1])


def test_a_run_saved_before_runs_named_their_classes_keeps_its_name_when_it_is_opened(workspace):
    question = replace(make_question(), kept_classes="")
    keep(workspace, question)  # the head goes under the model's fingerprint, as it did then
    run = question.run(10)
    assert (run.classes, run.question) == ("", replace(make_question().run(10), classes="").question)
    workspace.save_run(Run.from_json(run.to_json().replace('"format": 2', '"format": 1')))
    (kept,) = workspace.runs()
    again = evaluate(open_question(workspace, kept), baselines=()).run(10)
    assert (again.question, again.id) == (run.question, run.id)


def test_a_head_without_a_bias_comes_back_without_one(workspace):
    question = make_question()
    head = torch.nn.Linear(question.head.in_features, question.head.out_features, bias=False)
    keep(workspace, replace(question, head=head))
    opened = open_question(workspace, question.run(10)).head
    assert opened.bias is None
    assert torch.equal(opened.weight, head.weight)


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
        lose_dataset(workspace, stored)
    elif gone == "features":
        for file in (workspace.root / "tensors" / "features").glob("*.safetensors"):
            file.unlink()
    else:
        for file in (workspace.root / "tensors" / "heads").glob("*.safetensors"):
            file.unlink()
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photos of noise: two classes for the bank and the ID images, and OOD images."""
    root, generator = tmp_path_factory.mktemp("photos"), torch.Generator().manual_seed(1)
    counts = {"bank/cat": 8, "bank/dog": 8, "id/cat": 4, "id/dog": 4, "ood": 6}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(0, 256, (40, 32, 3), dtype=torch.uint8, generator=generator).numpy()
            Image.fromarray(pixels).save(root / name / f"{number}.{('png', 'jpg')[number % 2]}")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(torchvision_model("shufflenet_v2_x0_5", class_count=2).network.state_dict(), path)
    return path


@pytest.mark.parametrize("react", [None, 90.0])
def test_a_run_of_a_loaded_network_gives_the_same_numbers_after_a_restart(
    workspace, folders, checkpoint, react
):
    spec = ModelSpec(
        "torchvision", "shufflenet_v2_x0_5", checkpoint=checkpoint, class_names=("cat", "dog"), image_size=32
    )
    roles = {"bank": Role.BANK, "id": Role.ID, "ood": Role.OOD}
    datasets = [open_dataset(folders / name, name, role) for name, role in roles.items()]
    question = ask(load_model(spec), datasets, BankSettings(react_percentile=react), workspace=workspace)
    answered = evaluate(question, k=5)
    workspace.save_run(answered.run(5))
    (run,) = Workspace(workspace.root).runs()
    opened = open_question(Workspace(workspace.root), run)
    assert_same_question(opened, question)
    again = evaluate(opened, k=5)
    assert again.run(5) == answered.run(5)
    assert again.without == answered.without
    assert metrics_table(again, 5) == metrics_table(answered, 5)
    for before, after in zip(answered.queries, again.queries, strict=True):
        assert torch.equal(before.neighbors.score_at(5), after.neighbors.score_at(5))
        assert before.baselines.keys() == after.baselines.keys()
        for name, found in before.baselines.items():
            assert torch.equal(found, after.baselines[name])


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_in_automatic_precision_says_which_one_was_used_and_is_named_as_before(
    workspace, folders, checkpoint, tmp_path, monkeypatch, fast
):
    monkeypatch.setattr(specs, "_fast_in_bfloat16", lambda _: fast)
    monkeypatch.setattr(specs, "_SAFE_COSINE", -2.0)
    monkeypatch.setattr(specs, "_SAFE_LOGITS", 1e9)
    used = "bfloat16" if fast else "float32"
    spec = ModelSpec("torchvision", "shufflenet_v2_x0_5", checkpoint=checkpoint, class_count=2, image_size=32)
    roles = {"bank": Role.BANK, "ood": Role.OOD}
    datasets = [open_dataset(folders / name, name, role) for name, role in roles.items()]
    question = ask(load_model(replace(spec, precision="auto")), datasets, workspace=workspace)
    answered = evaluate(question, k=5, baselines=())
    save_detector(answered, tmp_path / "a.nnguide", 5, Threshold("value", -1.0))
    about = NNGuide.load(tmp_path / "a.nnguide").provenance
    assert about["spec"]["precision"] == question.spec["precision"] == used
    monkeypatch.setattr(specs, "_fast_in_bfloat16", lambda _: not fast)
    assert load_model(spec_from_json(about["spec"])).fingerprint == about["model"]
    named = ask(load_model(replace(spec, precision=used)), datasets, workspace=workspace)
    assert named.run(5).id == question.run(5).id


def assert_same_question(opened, asked):
    names = ("model", "model_name", "class_names", "settings", "spec")
    assert [getattr(opened, name) for name in names] == [getattr(asked, name) for name in names]
    state = asked.head.state_dict()
    assert opened.head.state_dict().keys() == state.keys()
    assert all(torch.equal(opened.head.state_dict()[name], value) for name, value in state.items())
    for before, after in zip(asked.parts, opened.parts, strict=True):
        assert before.dataset == after.dataset
        for each in fields(Features):
            kept, found = (getattr(part.features, each.name) for part in (before, after))
            assert torch.equal(kept, found) if isinstance(kept, torch.Tensor) else kept == found, each.name
