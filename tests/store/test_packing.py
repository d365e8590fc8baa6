"""Datasets and features through tensors and back: equal, small, and refused when they are something else."""

from dataclasses import fields
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from nnguide_core.errors import StoreError
from nnguide_core.records import Dataset, Features, ImageRef, Role, Skipped, fingerprint
from nnguide_core.store.packing import pack_dataset, pack_features, unpack_dataset, unpack_features

# Any text that Python can hold, lone surrogates among it: file names are bytes before they are text.
names = st.text(st.characters(exclude_categories=()), max_size=6)
images = st.builds(
    ImageRef,
    id=names.map(fingerprint) | names,
    dataset=names | st.just("same"),
    path=names,
    label=st.none() | names,
    location=names,
    look=st.none() | names | names.map(lambda name: fingerprint(name)[:32]),
)
datasets = st.builds(
    Dataset,
    name=names,
    role=st.sampled_from(Role),
    root=st.just(Path("/data/caf\udce9")),
    images=st.lists(images, max_size=5).map(tuple),
    skipped=st.lists(st.builds(Skipped, names, names), max_size=2).map(tuple),
)


@settings(max_examples=150)
@given(datasets)
def test_any_dataset_comes_back_equal(dataset):
    assert unpack_dataset(*pack_dataset(dataset)) == dataset


def test_no_field_of_these_records_was_forgotten():
    assert [field.name for field in fields(ImageRef)] == [
        "id",
        "dataset",
        "path",
        "label",
        "location",
        "look",
    ]
    assert [field.name for field in fields(Dataset)] == ["name", "role", "root", "images", "skipped"]
    assert [field.name for field in fields(Features)] == [
        "features",
        "logits",
        "ids",
        "labels",
        "model",
        "dataset",
        "skipped",
        "device",
    ]


def features(count: int, hexadecimal: bool = True) -> Features:
    random = torch.Generator().manual_seed(count)
    ids = tuple(fingerprint(str(number)) if hexadecimal else f"row {number}" for number in range(count))
    labels = torch.arange(count)
    skipped = (Skipped("late.png", "truncated"),)
    tensors = torch.randn(count, 4, generator=random), torch.randn(count, 3, generator=random)
    return Features(*tensors, ids, labels, "m" * 64, "d" * 64, skipped, "cuda (made up)")


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("hexadecimal", [True, False])
def test_features_come_back_equal(count, hexadecimal):
    saved = features(count, hexadecimal)
    read = unpack_features(*pack_features(saved))
    for name in ("ids", "model", "dataset", "skipped", "device"):
        assert getattr(read, name) == getattr(saved, name)
    for one, other in (
        (read.features, saved.features),
        (read.logits, saved.logits),
        (read.labels, saved.labels),
    ):
        assert torch.equal(one, other)


def test_features_that_were_kept_before_devices_were_noted_come_from_an_unknown_one():
    tensors, about = pack_features(features(1))
    assert unpack_features(tensors, {key: about[key] for key in ("model", "dataset")}).device == ""


def test_an_image_takes_less_than_seventy_bytes():
    count = 5000
    paths = [f"class_{number % 10}/photo_{number:06}.jpeg" for number in range(count)]
    refs = tuple(
        ImageRef(fingerprint(path), "photos", path, path[:7], path, fingerprint(path)[:32]) for path in paths
    )
    tensors, _ = pack_dataset(Dataset("photos", Role.BANK, Path("/data"), refs))
    assert sum(tensor.nbytes for tensor in tensors.values()) < 70 * count


def test_images_of_a_class_share_its_name_in_memory():
    refs = tuple(
        ImageRef(fingerprint(str(n)), "d", f"{n}.png", "a class" + str(n % 2), "x") for n in range(4)
    )
    read = unpack_dataset(*pack_dataset(Dataset("d", Role.ID, Path("/data"), refs)))
    assert read.images[0].label is read.images[2].label


@pytest.mark.parametrize("missing", ["features", "logits", "labels", "ids", "skipped"])
def test_features_without_one_of_their_arrays_are_refused(missing):
    tensors, about = pack_features(features(3))
    del tensors[missing]
    with pytest.raises(StoreError, match="It holds no features"):
        unpack_features(tensors, about)


@pytest.mark.parametrize("short", ["features", "logits", "labels", "ids"])
def test_features_whose_rows_do_not_fit_each_other_are_refused(short):
    tensors, about = pack_features(features(3))
    tensors[short] = tensors[short][:-1] if short != "ids" else tensors[short][:-32]
    with pytest.raises(StoreError, match="It holds no features"):
        unpack_features(tensors, about)


@pytest.mark.parametrize("missing", ["ids", "looks", "names", "paths", "labels", "locations", "skipped"])
def test_a_dataset_without_one_of_its_columns_is_refused(missing):
    ref = ImageRef(fingerprint("1"), "d", "1.png", None, "1.png", "0" * 32)
    tensors, about = pack_dataset(Dataset("d", Role.ID, Path("/data"), (ref,)))
    with pytest.raises(StoreError, match="It holds no dataset"):
        unpack_dataset({name: tensor for name, tensor in tensors.items() if name != missing}, about)
    with pytest.raises(StoreError, match="It holds no dataset"):
        unpack_dataset({**tensors, missing: torch.zeros(5, dtype=torch.uint8)}, about)
    with pytest.raises(StoreError, match="It holds no dataset"):
        unpack_dataset(tensors, {**about, "role": "judge"})
