import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnguide_core.datasets import (
    from_files,
    from_uploads,
    labels_for,
    open_dataset,
    read_bytes,
    scan_folder,
    scan_zip,
    split,
    store_upload,
)
from nnguide_core.errors import ArchiveError, CancelledError, DatasetError, ImageError
from nnguide_core.images import image_id
from nnguide_core.records import Dataset, ImageRef, Role, Skipped
from nnguide_core.workers import Workers
from tests import corpus
from tests.zip_corpus import RawEntry, image_bytes, raw_zip, zips

ZIPS = {case.name: case for case in zips()}


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


@pytest.fixture
def folder(tmp_path):
    """A folder with two classes, a nested image, one in no class, and files that are no images."""
    root = tmp_path / "photos"
    for path, seed in (("cat/b.png", 0), ("cat/deep/er/a.jpg", 1), ("dog/c", 2), ("top.png", 3)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(image_bytes(seed))
    (root / "notes.txt").write_text("hello")
    (root / "cat" / "broken.png").write_bytes(image_bytes()[:60])
    (root / ".DS_Store").write_bytes(b"x")
    return root


def labels(dataset):
    return {image.path: image.label for image in dataset.images}


def test_a_folder_gives_a_class_per_first_level_and_a_reason_per_skipped_file(folder, workers):
    dataset = scan_folder(folder, "photos", Role.ID, workers=workers)
    assert labels(dataset) == {
        "cat/b.png": "cat",
        "cat/deep/er/a.jpg": "cat",
        "dog/c": "dog",
        "top.png": None,
    }
    assert {each.path: each.reason.partition(":")[0] for each in dataset.skipped} == {
        "cat/broken.png": "Damaged PNG",
        "notes.txt": "No image",
    }
    assert dataset.found == len(dataset.images) + len(dataset.skipped) == 6
    assert (dataset.name, dataset.role, dataset.root) == ("photos", Role.ID, folder)
    assert all(read_bytes(dataset, image) == (folder / image.path).read_bytes() for image in dataset.images)
    assert [image.id for image in dataset.images] == [
        image_id(read_bytes(dataset, i)) for i in dataset.images
    ]
    assert all(len(image.look) == 32 for image in dataset.images)


def test_a_flat_folder_has_no_classes(tmp_path, workers):
    (tmp_path / "x.png").write_bytes(image_bytes())
    assert labels(scan_folder(tmp_path, "flat", Role.OOD, workers=workers)) == {"x.png": None}


def test_an_empty_folder_is_a_dataset_without_images(tmp_path, workers):
    dataset = scan_folder(tmp_path, "empty", Role.OOD, workers=workers)
    assert (dataset.images, dataset.skipped, dataset.found) == ((), (), 0)


def test_what_a_folder_can_hold_instead_of_files_is_named_and_skipped(folder, workers):
    cases = {case.name: case for case in corpus.files()}
    for case in cases.values():
        case.make(folder / "dog" / case.name)
    reasons = {each.path: each.reason for each in scan_folder(folder, "x", Role.OOD, workers=workers).skipped}
    for name, case in cases.items():
        assert re.search(case.expected, reasons[f"dog/{name}"])


def test_names_of_any_kind_are_read(tmp_path, workers):
    names = ["<b>&.png", "a\nb", "\u202egnp.exe", "猫", "x" * 255, "=1+1", "-", "%2e%2e", "🐈 .png"]
    for seed, name in enumerate(names):
        (tmp_path / name).write_bytes(image_bytes(seed))
    (tmp_path / os.fsdecode(b"\xff\xfe")).write_bytes(image_bytes(50))
    dataset = scan_folder(tmp_path, "x", Role.OOD, workers=workers)
    assert {image.path for image in dataset.images} == {*names, "\\xff\\xfe"}
    assert all(image_id(read_bytes(dataset, image)) == image.id for image in dataset.images)
    for image in dataset.images:
        f"{image.path}{image.location}".encode()  # a database and a CSV can hold them


def test_the_same_folder_gives_the_same_fingerprint_in_whatever_order_files_were_made(tmp_path, workers):
    for name, order in (("one", [0, 1, 2]), ("two", [2, 0, 1])):
        (tmp_path / name).mkdir()
        for seed in order:
            (tmp_path / name / f"{seed}.png").write_bytes(image_bytes(seed))
    one, two = (scan_folder(tmp_path / name, name, Role.ID, workers=workers) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot be listed: No such file"):
        scan_folder(tmp_path / "missing", "x", Role.ID)


@pytest.mark.parametrize("name", [name for name, case in ZIPS.items() if not case.refused])
def test_every_zip_of_the_corpus_keeps_what_is_good_and_names_the_rest(tmp_path, workers, name):
    case, path = ZIPS[name], tmp_path / "x.zip"
    case.make(path)
    dataset = scan_zip(path, "x", Role.OOD, workers=workers)
    assert [image.path for image in dataset.images] == list(case.kept)
    assert {each.path for each in dataset.skipped} == set(case.reasons)
    for each in dataset.skipped:
        assert re.search(case.reasons[each.path], each.reason)
    assert all(image_id(read_bytes(dataset, image)) == image.id for image in dataset.images)
    assert [found.name for found in tmp_path.iterdir()] == ["x.zip"]


def test_a_zip_that_is_refused_as_a_whole_is_an_error(tmp_path, workers):
    ZIPS["packed-1000-to-1"].make(tmp_path / "x.zip")
    with pytest.raises(ArchiveError, match=r"^Packed too tightly"):
        scan_zip(tmp_path / "x.zip", "x", Role.OOD, workers=workers)


def test_a_zip_of_nothing_but_empty_files_takes_no_line_each_in_the_log_and_no_worker(tmp_path, caplog):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"%d.png" % n, b"", method=0) for n in range(2_000)]))
    with caplog.at_level("INFO", "nnguide_core"), Workers(1) as workers:
        dataset = open_dataset(path, workers=workers)
        assert workers._idle == []  # the directory said enough
    assert (len(dataset.images), len(dataset.skipped)) == (0, 2_000)
    assert {each.reason for each in dataset.skipped} == {"Empty: the file has no bytes."}
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("(and 1,999 more of this kind)")


@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE, errno.ENOTCONN])
def test_a_folder_that_cannot_be_looked_at_is_refused_in_words(folder, monkeypatch, error):
    def gone(*_, **__):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "is_dir", gone)
    with pytest.raises(DatasetError, match=f"photos cannot be read: {os.strerror(error)}"):
        open_dataset(folder)


def test_a_zip_and_the_folder_that_was_packed_give_the_same_dataset(folder, tmp_path, workers):
    packed = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos"))
    from_zip = scan_zip(packed, "x", Role.ID, workers=workers)
    from_folder = scan_folder(folder, "x", Role.ID, workers=workers)
    assert from_zip.fingerprint == from_folder.fingerprint
    assert labels(from_zip) == labels(from_folder)
    assert [each.path for each in from_zip.skipped] == [each.path for each in from_folder.skipped]


def test_progress_ends_at_the_number_of_files_found(folder, workers):
    told = []
    dataset = scan_folder(folder, "x", Role.ID, progress=told.append, workers=workers)
    assert (told[-1].done, told[-1].total) == (dataset.found, dataset.found)
    assert [each.done for each in told] == sorted({each.done for each in told})


def test_a_cancelled_scan_stops_and_leaves_the_workers_usable(folder, workers):
    answers = iter([False, False, True])
    with pytest.raises(CancelledError, match=r"Stopped after checking 2 of 6 images"):
        scan_folder(folder, "x", Role.ID, cancelled=lambda: next(answers), workers=workers)
    assert scan_folder(folder, "x", Role.ID, workers=workers).found == 6


def test_a_list_file_names_images_and_classes_in_its_own_folder(folder, workers):
    listing = folder / "list.csv"
    listing.write_text(
        "path,label\ndog/c,dog\ncat/b.png,feline\nmissing.png,cat\n/etc/passwd,x\ncat/b.png,cat\n"
    )
    dataset = from_files(listing, "listed", Role.ID, workers=workers)
    assert labels(dataset) == {"cat/b.png": "feline", "dog/c": "dog"}
    assert {each.path: each.reason.partition(":")[0] for each in dataset.skipped} == {
        "/etc/passwd": "Outside",
        "cat/b.png": "Listed twice",
        "missing.png": "Not a file",
    }
    assert dataset.found == 5
    assert all(read_bytes(dataset, image) for image in dataset.images)


def test_a_bad_line_of_a_list_is_skipped_with_its_reason_and_the_rest_is_read(folder, workers):
    (folder / "loop").symlink_to("loop")
    listing = folder / "list.txt"
    lines = ["cat/b.png", "a\0b.png", "a\0b/c.png", "loop", "loop/x.png", "y" * 300, "z/" * 3_000, "cat", "."]
    listing.write_text("\n".join(lines))
    dataset = from_files(listing, "listed", Role.ID, workers=workers)
    assert [image.path for image in dataset.images] == ["cat/b.png"]
    assert {each.path: each.reason.partition(":")[0] for each in dataset.skipped} == {
        "a\0b.png": "Bad path",
        "a\0b/c.png": "Bad path",
        "z/" * 3_000: "Bad path",
        "loop": "Not a file",
        "loop/x.png": "Not a file",
        "cat": "Not a file",
        "y" * 300: "Not readable",
        ".": "Outside",
    }
    assert dataset.found == len(lines)


def test_given_files_are_read_wherever_they_lie(folder, tmp_path, workers):
    (tmp_path / "other.png").write_bytes(image_bytes(9))
    paths = [folder / "cat" / "b.png", tmp_path / "other.png"]
    dataset = from_files(paths, "given", Role.ID, labels=["cat", None], workers=workers)
    assert labels(dataset) == {"other.png": None, "photos/cat/b.png": "cat"}
    assert all(read_bytes(dataset, image) for image in dataset.images)
    with pytest.raises(DatasetError, match=r"No files were given for nothing"):
        from_files([], "nothing", Role.ID)


def test_uploads_are_kept_under_the_hash_of_their_content_and_never_under_their_names(tmp_path, workers):
    files = [
        ("../../photos/dog/1.png", image_bytes(1)),
        ("photos\\cat\\2.png", image_bytes(2)),
        ("photos/cat/copy.png", image_bytes(2)),
        ("photos/cat/notes.txt", b"hello"),
        ("photos/.DS_Store", b"x"),
    ]
    dataset = from_uploads(iter(files), tmp_path, "up", Role.OOD, workers=workers)
    assert labels(dataset) == {"cat/2.png": "cat", "cat/copy.png": "cat", "dog/1.png": "dog"}
    assert [each.path for each in dataset.skipped] == ["cat/notes.txt"]
    kept = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {f"{image.id[:2]}/{image.id}" for image in dataset.images}
    assert {image_id(read_bytes(dataset, image)) for image in dataset.images} == set(dataset.ids)


def test_an_upload_that_was_kept_half_is_kept_again(tmp_path):
    path = store_upload(b"hello", tmp_path)
    path.write_bytes(b"hel")
    assert store_upload(b"hello", tmp_path).read_bytes() == b"hello"


def test_uploads_that_were_all_refused_leave_nothing_behind(tmp_path, workers):
    dataset = from_uploads(
        [("a.png", b"x"), ("b.png", b"")], tmp_path / "store", "up", Role.OOD, workers=workers
    )
    assert (len(dataset.images), len(dataset.skipped)) == (0, 2)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("change", ["other content", "gone", "a pipe"])
def test_a_file_that_changed_since_the_scan_is_an_error_and_not_another_image(folder, workers, change):
    dataset = scan_folder(folder, "x", Role.ID, workers=workers)
    path = folder / dataset.images[0].path
    path.unlink()
    if change == "other content":
        path.write_bytes(image_bytes(7))
    elif change == "a pipe":
        os.mkfifo(path)
    with pytest.raises(ImageError, match=r"^(Changed|Not a file): "):
        read_bytes(dataset, dataset.images[0])


def test_a_zip_that_changed_since_the_scan_is_an_error(tmp_path, workers):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"1.png", image_bytes()), RawEntry(b"2.png", image_bytes(1))]))
    dataset = scan_zip(path, "x", Role.OOD, workers=workers)
    path.write_bytes(raw_zip([RawEntry(b"longer name.png", image_bytes(5))]))
    with pytest.raises(ImageError):
        read_bytes(dataset, dataset.images[1])
    path.unlink()
    with pytest.raises(ImageError, match=r"^Zip gone: "):
        read_bytes(dataset, dataset.images[0])


@pytest.mark.parametrize("kind", ["folder", "zip", "zip without its name", "list"])
def test_open_dataset_tells_the_kinds_apart(folder, tmp_path, workers, kind):
    path = folder
    if kind.startswith("zip"):
        path = tmp_path / ("pack.zip" if kind == "zip" else "pack")
        path.write_bytes(raw_zip([RawEntry(b"a.png", image_bytes())]))
    elif kind == "list":
        path = folder / "list.TXT"
        path.write_text("cat/b.png")
    dataset = open_dataset(path, role=Role.ID, workers=workers)
    assert dataset.name == path.stem
    assert dataset.role == Role.ID
    assert dataset.images


@pytest.mark.parametrize(
    ("content", "reason"), [(b"hello", "is no folder, zip or list"), (None, "cannot be read")]
)
def test_open_dataset_refuses_the_rest(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        open_dataset(tmp_path / "x")


def dataset_of(*images):
    """A dataset of (content, label) pairs."""
    refs = [
        ImageRef(content, "d", f"{n}.png", label, f"{n}.png") for n, (content, label) in enumerate(images)
    ]
    return Dataset("d", Role.ID, Path("/d"), tuple(refs), (Skipped("x", "Empty: nothing."),))


contents = st.lists(
    st.tuples(st.sampled_from("abcdefghijklmnop"), st.sampled_from(["cat", "dog", None])), max_size=30
)


@given(contents, st.floats(0.01, 0.99), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_split_keeps_every_image_once_and_copies_together(images, share, seed, generator):
    dataset = dataset_of(*images)
    bank, queries = split(dataset, share, seed)
    assert sorted(i.path for i in bank.images + queries.images) == sorted(i.path for i in dataset.images)
    assert not set(bank.ids) & set(queries.ids)
    assert (bank.role, queries.role) == (Role.BANK, Role.ID)
    assert bank.found + queries.found == dataset.found
    generator.shuffle(images)
    again, _ = split(dataset_of(*images), share, seed)
    if len({content for content, _ in images}) == len(set(images)):
        assert set(again.ids) == set(bank.ids)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 10), (0.01, 1), (0.99, 19), (0.77, 15)])
def test_a_split_takes_its_share_of_every_class_and_at_least_one_image_on_each_side(share, expected):
    dataset = dataset_of(
        *((f"{label}{n}", label) for label in ("cat", "dog") for n in range(20)), ("one", "rare")
    )
    bank, queries = split(dataset, share, seed=0)
    assert bank.class_counts == {"cat": expected, "dog": expected, "rare": 1}
    assert queries.class_counts == {"cat": 20 - expected, "dog": 20 - expected}


def test_another_seed_draws_another_split_and_the_same_seed_the_same():
    dataset = dataset_of(*((f"{n}", None) for n in range(50)))
    drawn = [frozenset(split(dataset, 0.5, seed)[0].ids) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(ValueError, match=rf"between 0 and 1, got {share}"):
        split(dataset_of(), share, 0)


def test_the_parts_of_a_split_name_themselves_in_their_images():
    bank, queries = split(dataset_of(("a", "x"), ("b", "x")), 0.5, 0)
    assert {image.dataset for image in bank.images} == {bank.name} == {"d bank"}
    assert {image.dataset for image in queries.images} == {queries.name} == {"d ID"}


def test_labels_are_places_among_the_class_names_and_unknown_ones_are_minus_one():
    dataset = dataset_of(("a", "dog"), ("b", "cat"), ("c", "emu"), ("d", None), ("e", ""))
    assert labels_for(dataset, ["cat", "dog"]).tolist() == [1, 0, -1, -1, -1]
    assert labels_for(dataset, None).tolist() == [-1] * 5
