"""Features of a dataset: those of a plain loop, whatever fails, stops or is killed in between."""

import logging
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nnguide_core.datasets import scan_folder, scan_zip
from nnguide_core.errors import CancelledError, DatasetError, ModelError
from nnguide_core.features import extract, extraction, shards
from nnguide_core.models import ModelSpec, load_model
from nnguide_core.records import Role

COUNT, BATCH = 21, 4
ROOT = Path(__file__).parents[2]


def _write_images(root):
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        path = root / ("cat", "dog", "unknown")[index % 3] / f"{index:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (30 + index, 60 - index, 3)
        Image.fromarray(rng.integers(0, 256, size=size, dtype=np.uint8)).save(path, "JPEG", quality=90)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    _write_images(root)
    return root


@pytest.fixture(scope="module")
def dataset(photos):
    return scan_folder(photos, "photos", Role.ID)


@pytest.fixture(scope="module")
def classifier():
    return load_model(ModelSpec("demo", "DemoResNet"), "cpu")


@pytest.fixture(scope="module")
def whole(dataset, classifier):
    """What an extraction without any trouble gives."""
    return extract(dataset, classifier, batch_size=BATCH, workers=1)


@pytest.fixture
def often(monkeypatch):
    """A shard after every batch."""
    monkeypatch.setattr(extraction, "_SHARD_SECONDS", 0.0)


def _same(one, other):
    return (
        torch.equal(one.features, other.features)
        and torch.equal(one.logits, other.logits)
        and torch.equal(one.labels, other.labels)
        and (one.ids, one.skipped, one.model, one.dataset)
        == (other.ids, other.skipped, other.model, other.dataset)
    )


def _after(calls):
    """Say stop from the given call on."""
    asked = iter(range(10_000))
    return lambda: next(asked) >= calls - 1


def test_rows_are_those_of_a_plain_loop_in_the_datasets_order(dataset, classifier, whole, photos):
    network = classifier.network
    for row, image in enumerate(dataset.images):
        picture = Image.open(photos / image.path)
        with torch.inference_mode():
            expected = network(classifier.normalise(classifier.preprocess(picture)[None]))
        assert torch.allclose(whole.logits[row], expected[0], rtol=1e-4, atol=1e-5)
        assert torch.allclose(classifier.head(whole.features[row]), whole.logits[row], rtol=1e-4, atol=1e-5)
    assert whole.ids == dataset.ids
    assert whole.features.dtype == whole.logits.dtype == torch.float32
    assert whole.features.shape == (COUNT, 128)
    assert not whole.features.is_inference()
    assert (whole.model, whole.dataset, whole.skipped) == (classifier.fingerprint, dataset.fingerprint, ())


def test_labels_are_the_models_class_indices(dataset, classifier, whole):
    expected = [{"cat": 3, "dog": 4}.get(image.label, -1) for image in dataset.images]
    assert classifier.class_names[3:5] == ("cat", "dog")
    assert whole.labels.tolist() == expected


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (5, 2), (100, 3), (None, None)])
def test_batches_and_workers_change_nothing_but_rounding(dataset, classifier, whole, batch_size, workers):
    found = extract(dataset, classifier, batch_size=batch_size, workers=workers)
    assert found.ids == whole.ids
    assert torch.allclose(found.features, whole.features, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found.logits, whole.logits, rtol=1e-4, atol=1e-5)


def test_the_same_extraction_gives_the_same_bits_with_one_core_or_more(dataset, classifier, whole):
    before = torch.get_num_threads()
    for cores in (1, 3):
        torch.set_num_threads(cores)
        assert _same(extract(dataset, classifier, batch_size=BATCH, workers=2), whole)
        assert torch.get_num_threads() == cores
    torch.set_num_threads(before)


def test_a_zip_gives_what_its_folder_gives(photos, classifier, whole, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.jpg")):
            archive.write(path, path.relative_to(photos))
    packed = scan_zip(tmp_path / "photos.zip", "photos", Role.ID)
    assert _same(extract(packed, classifier, batch_size=BATCH, workers=1), whole)


def test_progress_counts_every_batch_up_to_the_total(dataset, classifier):
    told = []
    extract(dataset, classifier, batch_size=BATCH, workers=1, progress=told.append)
    assert [step.done for step in told] == [4, 8, 12, 16, 20, 21]
    assert {(step.total, step.resumed) for step in told} == {(COUNT, 0)}
    assert sorted(step.seconds for step in told) == [step.seconds for step in told]
    assert told[-1].rate > 0
    assert told[-1].left == 0


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_cancelled_extraction_goes_on_where_it_stopped_with_the_same_bits(
    dataset, classifier, whole, tmp_path, stopped_after
):
    with pytest.raises(CancelledError, match=f"Stopped after {BATCH * stopped_after} of 21 images"):
        extract(
            dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path, cancelled=_after(stopped_after)
        )
    told = []
    found = extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path, progress=told.append)
    assert _same(found, whole)
    assert {step.resumed for step in told} == {BATCH * stopped_after}
    assert told[0].done == BATCH * (stopped_after + 1)


def test_what_was_finished_before_a_cancellation_is_kept_even_early(dataset, classifier, tmp_path):
    with pytest.raises(CancelledError):
        extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path, cancelled=_after(2))
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["000000000-000000008.safetensors"]


@pytest.mark.usefixtures("often")
def test_nothing_is_computed_again_once_everything_is_there(
    dataset, classifier, whole, tmp_path, monkeypatch
):
    extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path)
    monkeypatch.setattr(type(classifier), "forward", pytest.fail)
    assert _same(extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path), whole)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("harm", ["flipped", "truncated", "gone"])
def test_a_lost_shard_in_the_middle_is_computed_again_with_the_same_bits(
    dataset, classifier, whole, tmp_path, harm
):
    extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path)
    path = tmp_path / "000000008-000000012.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data if harm == "flipped" else data[:100])
    if harm == "gone":
        path.unlink()
    told = []
    found = extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path, progress=told.append)
    assert _same(found, whole)
    assert [(step.done, step.resumed) for step in told] == [(COUNT, COUNT - BATCH)]
    assert path.exists()
    assert path.with_suffix(".damaged").exists() == (harm != "gone")


@pytest.mark.usefixtures("often")
def test_shards_of_another_batch_size_are_not_mixed_in(dataset, classifier, whole, tmp_path):
    extract(dataset, classifier, batch_size=7, workers=1, shards=tmp_path)
    assert _same(extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path), whole)


KILLED = """
import sys, time
from pathlib import Path
from nnguide_core.features import shards
from nnguide_core.features import extraction
from nnguide_core.datasets import scan_folder
from nnguide_core.models import ModelSpec, load_model
from nnguide_core.records import Role

extraction._SHARD_SECONDS = float(sys.argv[3])
dataset = scan_folder(Path(sys.argv[1]), "photos", Role.ID)
classifier = load_model(ModelSpec("demo", "DemoResNet"), "cpu")
slow = lambda step: time.sleep(60 if step.done >= 12 else 0)
extraction.extract(dataset, classifier, batch_size=4, workers=1, shards=Path(sys.argv[2]), progress=slow)
"""


@pytest.mark.parametrize("seconds", ["0", "999"])
def test_a_killed_extraction_is_resumed_with_the_same_bits(
    photos, dataset, classifier, whole, tmp_path, seconds
):
    process = subprocess.Popen([sys.executable, "-c", KILLED, photos, tmp_path, seconds], cwd=ROOT)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    told = []
    found = extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path, progress=told.append)
    assert _same(found, whole)
    assert told[0].resumed == 12


@pytest.fixture
def own_photos(tmp_path):
    """Photos that a test may harm, and their dataset as it was before."""
    _write_images(tmp_path / "own")
    return scan_folder(tmp_path / "own", "photos", Role.ID)


@pytest.mark.usefixtures("often")
def test_images_that_fail_are_skipped_with_a_reason_and_the_others_keep_their_rows(
    own_photos, classifier, whole, tmp_path
):
    paths = [own_photos.root / image.path for image in own_photos.images]
    paths[2].unlink()
    paths[9].write_bytes(b"no image")
    for path in paths[12:16]:
        path.unlink()
    found = extract(own_photos, classifier, batch_size=BATCH, workers=1, shards=tmp_path / "shards")
    kept = [row for row in range(COUNT) if row not in {2, 9, 12, 13, 14, 15}]
    assert [skipped.path for skipped in found.skipped] == [
        own_photos.images[row].path for row in (2, 9, 12, 13, 14, 15)
    ]
    assert "nothing is there" in found.skipped[0].reason
    assert found.skipped[1].reason.startswith("Changed")
    assert len(found) + len(found.skipped) == len(own_photos.images)
    assert found.ids == tuple(whole.ids[row] for row in kept)
    assert found.labels.tolist() == whole.labels[kept].tolist()
    assert torch.allclose(found.features, whole.features[kept], rtol=1e-4, atol=1e-5)
    again = extract(own_photos, classifier, batch_size=BATCH, workers=1, shards=tmp_path / "shards")
    assert _same(again, found)


@pytest.mark.usefixtures("often")
def test_an_extraction_whose_folder_is_gone_stops_with_a_sentence_and_goes_on_once_it_is_back(
    own_photos, classifier, whole, tmp_path
):
    dataset, root, away = own_photos, own_photos.root, tmp_path / "away"
    settings = {"batch_size": BATCH, "workers": 1, "shards": tmp_path / "shards"}
    with pytest.raises(CancelledError):
        extract(dataset, classifier, **settings, cancelled=_after(1))
    root.rename(away)
    root.mkdir()  # what stays of a mount
    with pytest.raises(DatasetError, match=r"images of photos are gone: .*the folder is empty.*Bring"):
        extract(dataset, classifier, **settings)
    root.rmdir()
    away.rename(root)
    steps = []
    found = extract(dataset, classifier, **settings, progress=steps.append)
    assert _same(found, whole)
    assert steps[0].resumed >= BATCH


@pytest.mark.usefixtures("often")
def test_images_that_failed_are_tried_again_when_the_extraction_is_resumed(
    own_photos, classifier, whole, tmp_path
):
    path = own_photos.root / own_photos.images[6].path
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(CancelledError):
        extract(
            own_photos,
            classifier,
            batch_size=BATCH,
            workers=1,
            shards=tmp_path / "shards",
            cancelled=_after(3),
        )
    path.write_bytes(data)
    for resumed in (2 * BATCH, COUNT):
        told = []
        found = extract(
            own_photos,
            classifier,
            batch_size=BATCH,
            workers=1,
            shards=tmp_path / "shards",
            progress=told.append,
        )
        assert _same(found, whole)
        assert {step.resumed for step in told} <= {resumed}


def test_a_dataset_of_which_nothing_is_left_gives_no_rows(own_photos, classifier):
    for image in own_photos.images:
        (own_photos.root / image.path).unlink()
    found = extract(own_photos, classifier, workers=1)
    assert found.features.shape == (0, 128)
    assert found.logits.shape == (0, 8)
    assert len(found.skipped) == COUNT


def test_an_empty_dataset_gives_no_rows_and_starts_no_worker(dataset, classifier):
    told = []
    found = extract(replace(dataset, images=()), classifier, progress=told.append)
    assert len(found) == 0
    assert told == []


class Spoilt(nn.Module):
    """The demo network, whose first layer is given to a test."""

    def __init__(self, network, spoil):
        super().__init__()
        self.network, self.spoil = network, spoil

    def forward(self, images):
        return self.network(self.spoil(images))


def _spoilt(classifier, spoil):
    return replace(classifier, network=Spoilt(classifier.network, spoil))


def test_rows_that_are_not_finite_are_kept(dataset, classifier, whole):
    def spoil(images):
        images = images.clone()
        images[0] = torch.nan
        return images

    found = extract(dataset, _spoilt(classifier, spoil), batch_size=BATCH, workers=1)
    assert len(found) == COUNT
    assert found.features.isnan().any(dim=1).nonzero().flatten().tolist() == list(range(0, COUNT, BATCH))
    assert found.features[::BATCH].isnan().all()
    assert torch.allclose(found.features[1], whole.features[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_batch_and_goes_on(dataset, classifier, whole, caplog, error):
    sizes = []

    def spoil(images):
        sizes.append(len(images))
        if len(images) > 2:
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return images

    with caplog.at_level(logging.WARNING):
        found = extract(dataset, _spoilt(classifier, spoil), batch_size=8, workers=1)
    assert "Out of memory: going on with 2 images at a time" in caplog.text
    assert sizes[-3:] == [2, 2, 1]
    assert torch.allclose(found.features, whole.features, rtol=1e-4, atol=1e-5)


def test_one_image_that_is_too_much_is_a_sentence(dataset, classifier):
    def spoil(_):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    with pytest.raises(
        ModelError, match="One image is too much for the memory of cpu: tried to allocate 2 GiB"
    ):
        extract(dataset, _spoilt(classifier, spoil), workers=1)


def test_a_defect_of_the_network_is_not_taken_for_a_lack_of_memory(dataset, classifier):
    def spoil(_):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        extract(dataset, _spoilt(classifier, spoil), workers=1)


def test_a_full_disk_stops_with_an_error_and_keeps_every_batch_that_was_told_of(
    dataset, classifier, whole, tmp_path, monkeypatch
):
    real, written = shards.save_tensors, []

    def save_tensors(path, *arguments, **options):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, *arguments, **options)

    told = []
    monkeypatch.setattr(shards, "save_tensors", save_tensors)
    with pytest.raises(OSError, match="No space left"):
        extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path, progress=told.append)
    assert [step.done for step in told] == [BATCH, 2 * BATCH]
    monkeypatch.undo()
    found = extract(dataset, classifier, batch_size=BATCH, workers=1, shards=tmp_path, progress=told.append)
    assert told[2].resumed == 2 * BATCH
    assert _same(found, whole)


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"workers": 0}])
def test_no_images_at_a_time_and_no_workers_are_refused(dataset, classifier, given):
    with pytest.raises(ValueError, match=r"[Aa]t least (1|one worker)"):
        extract(dataset, classifier, **given)
