"""The shipped demo: its photos, weights and features are whole, and fit each other."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nnguide_core.datasets import open_dataset, sources
from nnguide_core.demo import (
    FEATURES,
    IMAGES,
    demo_datasets,
    demo_features,
    demo_head,
    demo_sets,
    demo_spec,
)
from nnguide_core.evaluation.questions import ask_demo
from nnguide_core.features import extract
from nnguide_core.models import load_model
from nnguide_core.models.demo_network import CLASS_NAMES, FEATURE_WIDTH, IMAGE_SIDE, WEIGHTS, DemoResNet
from nnguide_core.records import Role
from nnguide_core.store import Workspace
from nnguide_core.workers import Workers

FOLDER = WEIGHTS.parent
COUNTS = {"bank": 2000, "ID test": 1000, "deer and truck": 600, "Fashion-MNIST": 400, "noise": 100}


@pytest.fixture(scope="module")
def manifest():
    return json.loads((FOLDER / "manifest.json").read_text())


@pytest.fixture(scope="module")
def classifier():
    return load_model(demo_spec())


@pytest.fixture(scope="module")
def datasets():
    return demo_datasets()


@pytest.fixture(scope="module")
def shipped():
    return demo_features()


@pytest.fixture(scope="module")
def recomputed(datasets, classifier):
    return {name: extract(dataset, classifier) for name, dataset in datasets.items()}


def _guided_scores(bank, queries, k):
    """NNGuide's scores written down from the formula: minus the mean of the k best products, times energy."""
    unit = torch.nn.functional.normalize
    rows = unit(bank.features) * bank.logits.logsumexp(1, keepdim=True)
    best = (unit(queries.features) @ rows.T).sort(dim=1, descending=True).values[:, :k]
    return -best.mean(dim=1) * queries.logits.logsumexp(1)


def test_the_sets_hold_the_promised_photos_and_none_is_skipped(datasets):
    assert {name: len(dataset.images) for name, dataset in datasets.items()} == COUNTS
    assert not [dataset.skipped for dataset in datasets.values() if dataset.skipped]
    assert [dataset.role for dataset in datasets.values()] == [part.role for part in demo_sets()]


def test_the_listed_images_are_what_reading_the_zips_finds(datasets):
    with Workers() as workers:
        for each in demo_sets():
            read = open_dataset(each.path, each.name, each.role, workers=workers)
            listed = datasets[each.name]
            assert (listed.images, listed.skipped) == (read.images, read.skipped)
            assert listed.root.samefile(read.root)


def test_the_demo_opens_without_reading_an_image(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "check_places", None)
    question = ask_demo(Workspace(tmp_path))
    assert {part.dataset.name: len(part.dataset.images) for part in question.parts} == COUNTS


def test_the_known_classes_fill_bank_and_id_test_evenly_and_are_nowhere_else(datasets):
    assert datasets["bank"].class_counts == dict.fromkeys(CLASS_NAMES, 250)
    assert datasets["ID test"].class_counts == dict.fromkeys(CLASS_NAMES, 125)
    assert datasets["deer and truck"].class_counts == {"deer": 300, "truck": 300}
    for name, dataset in datasets.items():
        if dataset.role is Role.OOD:
            assert not set(dataset.class_counts) & set(CLASS_NAMES), name


def test_no_photo_is_in_the_demo_twice(datasets):
    ids = [image for dataset in datasets.values() for image in dataset.ids]
    assert len(set(ids)) == len(ids)


def test_every_file_is_the_one_that_manifest_and_data_card_name(manifest):
    card = (FOLDER / "DATA_CARD.md").read_text()
    assert set(manifest["files"]) == {part.path.name for part in demo_sets()} | {
        WEIGHTS.name,
        IMAGES.name,
        FEATURES.name,
    }
    for name, file in manifest["files"].items():
        digest = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
        assert digest == file["sha256"], name
        assert f"`{digest}`" in card


def test_the_demo_is_at_most_fifteen_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) <= 15e6


def test_zips_say_nothing_of_when_and_where_they_were_built():
    for part in demo_sets():
        with zipfile.ZipFile(part.path) as archive:
            entries = archive.infolist()
        assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
        assert {entry.date_time for entry in entries} == {(2017, 8, 25, 0, 0, 0)}


def test_the_weights_fill_the_network_and_its_features_are_not_negative(manifest):
    network = DemoResNet()
    network.load_state_dict(load_file(WEIGHTS))
    network.eval()
    images = torch.randn(4, 3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network.encoder(images)
        torch.testing.assert_close(network.head(features), network(images))
    assert features.shape == (4, FEATURE_WIDTH)
    assert features.min() >= 0
    assert sum(parameter.numel() for parameter in network.parameters()) == manifest["parameters"]


def test_the_classifier_names_at_least_91_percent_of_the_id_photos_right(recomputed, manifest):
    made = recomputed["ID test"]
    accuracy = (made.logits.argmax(dim=1) == made.labels).float().mean().item()
    assert accuracy >= 0.91
    assert manifest["accuracy"]["share"] >= 0.91


def test_the_bank_is_among_what_the_classifier_has_learned(recomputed):
    made = recomputed["bank"]
    assert (made.logits.argmax(dim=1) == made.labels).float().mean().item() > 0.95


def test_shipped_features_belong_to_the_shipped_photos_and_weights(shipped, datasets, classifier):
    assert list(shipped) == list(datasets)
    for name, made in shipped.items():
        assert made.ids == datasets[name].ids
        assert made.dataset == datasets[name].fingerprint
        assert made.model == classifier.fingerprint
        assert made.features.shape == (COUNTS[name], FEATURE_WIDTH)


def test_the_head_turns_shipped_features_into_shipped_logits(shipped):
    for made in shipped.values():
        torch.testing.assert_close(demo_head()(made.features), made.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_features_are_what_the_pipeline_computes(shipped, recomputed, name):
    torch.testing.assert_close(shipped[name].features, recomputed[name].features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shipped[name].logits, recomputed[name].logits, rtol=1e-3, atol=1e-3)
    assert (shipped[name].labels == recomputed[name].labels).all()


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "bank"])
def test_shipped_and_recomputed_features_give_the_same_scores(shipped, recomputed, name):
    ours = _guided_scores(shipped["bank"], shipped[name], k=10)
    again = _guided_scores(recomputed["bank"], recomputed[name], k=10)
    torch.testing.assert_close(ours, again, rtol=1e-3, atol=1e-3)


def test_its_images_are_read_when_the_package_is_reached_through_a_link(tmp_path):
    (tmp_path / "linked").symlink_to(Path(__file__).parents[1])
    code = (
        "from nnguide_core.datasets import read_bytes; from nnguide_core.demo import demo_datasets; "
        "each = demo_datasets()['bank']; print(read_bytes(each, each.images[0])[1:4])"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "linked")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "b'PNG'", done.stderr
