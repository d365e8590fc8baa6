"""Tests of nnguide_core.evaluation.provenance"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnguide_core.demo import demo_spec
from nnguide_core.detector import NNGuide
from nnguide_core.errors import ModelError, StoreError, UndefinedMetricError
from nnguide_core.evaluation import Evaluation, evaluate
from nnguide_core.evaluation.provenance import (
    bank_dataset,
    checked,
    save_detector,
    spec_from_json,
)
from nnguide_core.models import ModelSpec
from nnguide_core.records import Role, Run, Threshold
from nnguide_core.settings import BankSettings
from tests.synthetic import CLASSES, make_question

SPEC = ModelSpec("torchvision", "resnet18", "DEFAULT", class_names=CLASSES, class_count=3)
RULE = Threshold("id_kept", 0.9)


@pytest.fixture(scope="module")
def answered() -> Evaluation:
    question = replace(make_question(settings=BankSettings(fraction=0.5)), spec=SPEC.to_json())
    return evaluate(question, baselines=())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cats.safetensors"


def test_a_detector_file_comes_back_with_threshold_model_and_bank_paths(answered, path):
    threshold = save_detector(answered, path, 7, RULE)
    assert threshold == answered.threshold(RULE, 7)
    loaded = NNGuide.load(path)
    about = checked(loaded.provenance, path.name)
    assert loaded.k == 7
    assert (about["threshold"], about["model"]) == (threshold, answered.question.model)
    assert about["class_names"] == list(CLASSES)
    assert about["threshold_rule"] == {"kind": "id_kept", "level": 0.9}
    assert spec_from_json(about["spec"]) == SPEC
    assert Run.from_json(json.dumps(about["run"])) == answered.run(7, RULE)
    judged = answered.ood[0]
    scores = loaded.predict_features(judged.features.features, logits=judged.features.logits)
    assert torch.equal(scores, judged.neighbors.score_at(7))
    bank = bank_dataset(about, loaded)
    paths = {image.id: image.path for image in answered.question.bank.dataset.images}
    assert (bank.name, bank.role, bank.ids) == ("bank", Role.BANK, answered.bank.ids)
    assert [image.path for image in bank.images] == [paths[image] for image in answered.bank.ids]
    assert len(bank.images) == 45


def test_saving_changes_nothing_of_the_evaluation_that_others_share(answered, path):
    before = answered.detector.k
    save_detector(answered, path, 3, RULE)
    assert answered.detector.k == before != 3
    assert answered.detector.provenance == {}


@pytest.mark.parametrize("level", [-3, -3.5])
def test_a_threshold_that_was_typed_is_kept(answered, path, level):
    assert save_detector(answered, path, 3, Threshold("value", level)) == level
    assert checked(NNGuide.load(path).provenance, "x")["threshold"] == level


def test_without_the_queries_that_set_the_threshold_nothing_is_written(path):
    answered = evaluate(make_question(ood_sizes=()), baselines=())
    with pytest.raises(UndefinedMetricError, match="OOD"):
        save_detector(answered, path, 3, Threshold("ood_caught", 0.95))
    assert not path.exists()


def test_a_detector_of_features_alone_does_not_say_how_to_judge_images(path):
    save_detector(evaluate(make_question(), baselines=()), path, 3, RULE)
    with pytest.raises(StoreError, match=r"cats\.safetensors does not say which model"):
        checked(NNGuide.load(path).provenance, path.name)


@pytest.mark.parametrize("about", [{}, {"kind": "mine", "spec": {}}, {"spec": {}, "model": "m"}])
def test_foreign_provenance_is_refused(about):
    with pytest.raises(StoreError, match="other does not say which model and threshold"):
        checked(about, "other")


@pytest.mark.parametrize("damaged", ["spec", "model", "threshold", "bank", "bank_paths"])
@pytest.mark.parametrize("value", [(), "gone"])
def test_damaged_provenance_is_refused_by_the_name_of_what_is_missing(answered, path, damaged, value):
    save_detector(answered, path, 3, RULE)
    about = dict(NNGuide.load(path).provenance)
    about[damaged] = value
    if value == "gone" and damaged in ("model", "bank"):
        about[damaged] = None
    with pytest.raises(StoreError, match=f"damaged where it should give its {damaged}:"):
        checked(about, "it")


def test_paths_of_another_number_than_the_bank_images_are_refused(answered, path):
    save_detector(answered, path, 3, RULE)
    loaded = NNGuide.load(path)
    about = {**loaded.provenance, "bank_paths": ["one.png"]}
    with pytest.raises(StoreError, match="1 paths for 45 bank images"):
        bank_dataset(about, loaded)


def test_a_checkpoint_that_moved_is_named_anew(tmp_path):
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    old.touch()
    spec = ModelSpec("torchvision", "resnet18", checkpoint=old, class_count=3, feature_layer="fc")
    about = json.loads(json.dumps(spec.to_json()))
    assert spec_from_json(about) == spec
    old.rename(new)
    with pytest.raises(
        ModelError, match=r"old\.safetensors is not there any more: name it with --checkpoint"
    ):
        spec_from_json(about)
    assert spec_from_json(about, new) == replace(spec, checkpoint=new)


def test_a_checkpoint_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "own.pth").touch()
    monkeypatch.chdir(tmp_path)
    about = ModelSpec("torchvision", "resnet18", checkpoint=Path("own.pth"), class_count=3).to_json()
    monkeypatch.chdir("/")
    assert spec_from_json(json.loads(json.dumps(about))).checkpoint == tmp_path / "own.pth"


def test_the_demo_keeps_the_precision_that_it_was_used_with():
    spec = replace(demo_spec(), precision="bfloat16")
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_the_demo_is_found_wherever_it_is_installed():
    about = json.loads(json.dumps(demo_spec().to_json()))
    assert spec_from_json(about) == demo_spec()
    old = {**about, "source": "demo", "checkpoint": "/gone/demo.safetensors"}
    del old["library"]
    assert spec_from_json(old) == demo_spec()


@pytest.mark.parametrize(
    "change",
    [
        {"library": "elsewhere"},
        {"source": "elsewhere"},
        {"unknown": 1},
        {"checkpoint": 5},
        {"precision": "float8"},
    ],
)
def test_a_specification_that_cannot_be_read_is_refused(change):
    with pytest.raises(StoreError, match="cannot be read"):
        spec_from_json({**SPEC.to_json(), **change})
