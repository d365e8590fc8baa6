"""Which typed paths are read, when they are typed and when their turn comes."""

import os

import pytest

from nnguide_core.datasets import open_dataset, read_bytes
from nnguide_core.errors import DatasetError, ForbiddenPathError, ImageError
from nnguide_core.paths.allowed import allowed_path
from nnguide_core.workers import Workers
from tests.zip_corpus import RawEntry, image_bytes, raw_zip


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


def test_only_paths_below_an_allowed_root_are_allowed(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "in").symlink_to("data")
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", f"{root}{os.pathsep}{tmp_path / 'second'}")
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root))
    for text in (str(root / "data"), f" {root}/data/ ", "data", "in", "data/../data", "~/data"):
        assert allowed_path(text) == root / "data"
    assert allowed_path(str(root)) == root
    with pytest.raises(DatasetError, match=r"^There is nothing at .*missing"):
        allowed_path(str(root / "missing"))


@pytest.fixture(params=["photos", "photos.zip", "list.txt"])
def swapped(request, tmp_path, monkeypatch):
    """swap(): put a link to what is private in the place of an allowed folder, zip or list, and its path."""
    root, private = tmp_path / "root", tmp_path / "private"
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(root))
    for place, seed in ((root, 1), (private, 2)):
        (place / "photos").mkdir(parents=True)
        (place / "photos" / "a.png").write_bytes(image_bytes(seed))
        (place / "photos.zip").write_bytes(raw_zip([RawEntry(b"a.png", image_bytes(seed))]))
        (place / "list.txt").write_text("photos/a.png")
    path = root / request.param

    def swap():
        path.rename(root / "away")
        path.symlink_to(private / path.name)

    return path, swap


def test_a_typed_path_is_checked_again_when_it_is_read(swapped, workers):
    path, swap = swapped
    assert len(open_dataset(allowed_path(str(path)), workers=workers, typed=True).images) == 1
    swap()
    with pytest.raises(ForbiddenPathError, match=r"^This path is not in a folder that may be read here"):
        open_dataset(path, workers=workers, typed=True)


def test_a_link_put_in_the_place_of_a_typed_path_after_the_check_is_not_followed(
    swapped, workers, monkeypatch
):
    path, swap = swapped

    def check_then_swap(given):
        swap()
        return given

    monkeypatch.setattr("nnguide_core.datasets.sources.still_allowed", check_then_swap)
    with pytest.raises(DatasetError, match=r"(A link was put in its place|Link leads out)"):
        open_dataset(path, workers=workers, typed=True)


def test_a_typed_path_is_refused_once_its_root_is_no_longer_allowed(swapped, monkeypatch, tmp_path):
    path, _ = swapped
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path / "other"))
    with pytest.raises(ForbiddenPathError):
        open_dataset(path, typed=True)


def test_a_dataset_whose_root_was_replaced_by_a_link_is_not_read_through_it(swapped, workers):
    path, swap = swapped
    dataset = open_dataset(path, workers=workers)
    (path.parent.parent / "private" / "photos" / "a.png").write_bytes(image_bytes(1))
    if path.name == "list.txt":
        path = path.parent / "photos"
        path.rename(path.parent / "away")
        path.symlink_to(path.parent.parent / "private" / "photos")
    else:
        swap()
    with pytest.raises(ImageError, match="Link leads out"):
        read_bytes(dataset, dataset.images[0])


@pytest.mark.parametrize(("workspace", "refused"), [("work", True), (".hidden/work", False)])
def test_the_workspace_is_not_allowed_nor_a_folder_whose_scan_would_find_it(
    tmp_path, monkeypatch, workspace, refused
):
    (tmp_path / workspace / "blobs").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "in").symlink_to(tmp_path / workspace)
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path))
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / workspace))
    assert allowed_path(str(tmp_path / "photos")) == tmp_path / "photos"
    for inside in (workspace, f"{workspace}/blobs", f"{workspace}/missing", "photos/in", "photos/in/blobs"):
        with pytest.raises(ForbiddenPathError):
            allowed_path(str(tmp_path / inside))
    if refused:
        with pytest.raises(ForbiddenPathError):
            allowed_path(str(tmp_path))
    else:
        assert allowed_path(str(tmp_path)) == tmp_path


def test_a_path_outside_is_refused_in_the_same_words_whether_or_not_it_exists(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "root-of-others").mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "dangling").symlink_to(tmp_path / "missing")
    (root / "loop").symlink_to("loop")
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(root))
    monkeypatch.chdir(root)
    typed = ["/", "/etc", "/etc/passwd", "/missing", "..", "../missing", "out", "out/root-of-others"]
    typed += ["dangling", str(tmp_path / "root-of-others"), "data/../../..", "a\0b", "~"]
    for text in typed:
        with pytest.raises(ForbiddenPathError) as caught:
            allowed_path(text)
        assert str(caught.value) == f"This path is not in a folder that may be read here. Allowed: {root}."


@pytest.mark.parametrize("text", ["loop", "x" * 5_000, "x/" * 3_000, "~root", "a\u202eb"])
def test_a_path_that_cannot_be_is_refused_in_a_printable_sentence(tmp_path, monkeypatch, text):
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError) as caught:
        allowed_path(text)
    assert str(caught.value).isprintable()
