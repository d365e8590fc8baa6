"""Own features files as questions: which fit each other, and which of their images can be shown."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from nnguide_core.datasets import read_bytes
from nnguide_core.errors import CancelledError, FeaturesFileError, ForbiddenPathError, ImageError
from nnguide_core.evaluation import evaluate, own_features
from nnguide_core.evaluation.own_features import OwnFile, own_question
from nnguide_core.evaluation.questions import keep, open_question
from nnguide_core.features import files as feature_files
from nnguide_core.images import image_id
from nnguide_core.records import Role
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from tests.trial_errands import here


@pytest.fixture(autouse=True)
def reading(monkeypatch, request):
    """Read in this process, which is quicker, except in tests whose names say kept or stopped."""
    if not {"kept", "stopped"} & set(request.node.name.split("_")):
        monkeypatch.setattr(feature_files, "tensors_apart", here)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def write(path, rng, rows=20, width=6, classes=3, **more):
    arrays = {
        "features": rng.random((rows, width), dtype=np.float32),
        "logits": rng.random((rows, classes), dtype=np.float32) + 1,
    }
    np.savez(path, **arrays, **more)
    return path


@pytest.fixture
def files(tmp_path, rng, monkeypatch):
    """Three files in an allowed folder; the OOD file names an image there, one elsewhere, one missing."""
    root, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    for folder in (root, elsewhere):
        Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(root))
    paths = np.array(["a.png", str(elsewhere / "a.png"), "../elsewhere/a.png", "missing.png", "x\0y"])
    return [
        OwnFile(write(root / "bank.npz", rng, labels=np.arange(20) % 3), "bank", Role.BANK),
        OwnFile(write(root / "id.npz", rng), "ID", Role.ID),
        OwnFile(write(root / "ood.npz", rng, rows=5, paths=paths), "OOD", Role.OOD),
    ]


def test_files_become_a_question_that_can_be_answered_kept_and_opened_again(files, tmp_path):
    question = own_question(files, class_names=("cat", "dog", "owl"))
    answered = evaluate(question, k=3)
    workspace = Workspace(tmp_path / "workspace")
    keep(workspace, question)
    again = evaluate(open_question(workspace, answered.run(3)), k=3)
    assert again.ood_scores("NNGuide", 3).tolist() == answered.ood_scores("NNGuide", 3).tolist()
    assert question.bank.dataset.class_counts == {"cat": 7, "dog": 7, "owl": 6}


def test_two_classes_of_one_name_stay_two_when_the_question_is_opened_again(files, tmp_path):
    question = own_question(files, BankSettings(fraction=0.5, draw="balanced"), ("crane", "dog", "crane"))
    answered = evaluate(question, k=3)
    workspace = Workspace(tmp_path / "workspace")
    keep(workspace, question)
    opened = open_question(workspace, answered.run(3))
    assert opened.bank.features.labels.tolist() == [row % 3 for row in range(20)]
    again = evaluate(opened, k=3)
    assert again.bank.ids == answered.bank.ids
    assert again.ood_scores("NNGuide", 3).tolist() == answered.ood_scores("NNGuide", 3).tolist()


def test_only_images_in_an_allowed_folder_can_be_read(files):
    dataset = own_question(files).parts[2].dataset
    readable = []
    for image in dataset.images:
        try:
            readable.append(bool(read_bytes(dataset, image)))
        except ImageError:
            readable.append(False)
    assert readable == [True, False, False, False, False]


def test_without_paths_no_image_can_be_read_and_every_row_has_an_id_of_its_own(files):
    dataset = own_question(files).parts[1].dataset
    assert len(set(dataset.ids)) == 20
    with pytest.raises(ImageError):
        read_bytes(dataset, dataset.images[0])


def test_other_features_of_the_same_images_are_another_model(files, rng):
    first = own_question(files).model
    write(files[0].path, rng)
    assert own_question(files).model != first


def test_files_of_other_widths_are_refused_with_both_widths(files, rng):
    write(files[2].path, rng, width=5)
    with pytest.raises(FeaturesFileError, match="OOD has 5 features and 3 classes, but bank has 6 and 3"):
        own_question(files)


def test_files_with_different_heads_are_refused(files, rng):
    for file in files[:2]:
        write(file.path, rng, head_weight=rng.random((3, 6), dtype=np.float32))
    with pytest.raises(FeaturesFileError, match="different head_weight"):
        own_question(files)


def test_class_names_must_be_as_many_as_the_classes(files):
    with pytest.raises(FeaturesFileError, match="3 classes, but 2 class names"):
        own_question(files, class_names=("cat", "dog"))


def test_no_file_is_no_question():
    with pytest.raises(FeaturesFileError, match="No features file"):
        own_question([])


def test_only_an_image_in_an_allowed_folder_and_outside_the_workspace_gets_the_id_of_its_content(
    files, rng, tmp_path, monkeypatch
):
    root, home = tmp_path / "allowed", tmp_path / "allowed" / "work"
    monkeypatch.setenv("NNGUIDE_HOME", str(home))
    (home / "blobs").mkdir(parents=True)
    shutil.copy(root / "a.png", home / "blobs" / "upload.png")
    (root / "secrets.toml").write_text("cookie_secret = 1")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:50])
    (root / "linked").symlink_to(home / "blobs")
    os.mkfifo(root / "pipe")
    named = ["a.png", "./a.png", str(home / "blobs" / "upload.png"), "linked/upload.png", "secrets.toml"]
    named += ["cut.png", "pipe", ".", "x" * 4_000]
    write(files[2].path, rng, rows=len(named), paths=np.array(named))
    dataset = own_question(files).parts[2].dataset
    whole = image_id((root / "a.png").read_bytes())
    assert [image.id == whole for image in dataset.images] == [True, True, *[False] * 7]
    assert [image.location for image in dataset.images] == ["a.png", "a.png", *[""] * 7]
    assert len(set(dataset.ids)) == 8
    for path in root.rglob("*"):
        if path.is_file() and path.name not in ("a.png", "upload.png"):
            assert image_id(path.read_bytes()) not in dataset.ids


def test_a_typed_path_is_checked_again_before_it_is_read(files, rng, tmp_path):
    away = write(tmp_path / "elsewhere" / "private.npz", rng)
    typed = OwnFile(files[0].path, "bank", Role.BANK, typed=True)
    assert own_question([typed])
    typed.path.unlink()
    typed.path.symlink_to(away)
    with pytest.raises(ForbiddenPathError, match="not in a folder that may be read here"):
        own_question([typed])


def test_reading_the_files_can_be_stopped(files):
    with pytest.raises(CancelledError, match="Stopped while a file was read"):
        own_question(files, cancelled=lambda: True)


def test_looking_for_images_can_be_stopped(files, monkeypatch):
    read, load = [], own_features.load
    monkeypatch.setattr(own_features, "load", lambda *a, **kw: read.append(load(*a, **kw)) or read[-1])
    with pytest.raises(CancelledError, match="Stopped after looking for 0 of 5 images"):
        own_question(files, cancelled=lambda: len(read) == len(files))
