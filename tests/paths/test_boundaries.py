"""What may be read as a part of a folder, and from which folders: never what others uploaded."""

import os

import pytest

from nnguide_core.errors import ForbiddenPathError, ImageError
from nnguide_core.images.reading import read
from nnguide_core.paths.allowed import allowed_path
from nnguide_core.paths.boundaries import lies_in, readable_roots
from nnguide_core.paths.regular_files import read_regular
from nnguide_core.settings import workspace_home
from tests.zip_corpus import image_bytes


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A hidden workspace in an allowed folder, with one upload."""
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path))
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / ".work"))
    (tmp_path / ".work" / "blobs").mkdir(parents=True)
    (tmp_path / ".work" / "blobs" / "upload.png").write_bytes(image_bytes())
    return tmp_path / ".work"


def test_the_workspace_is_a_part_of_no_folder_but_those_in_it(tmp_path, home):
    blobs = home / "blobs"
    assert lies_in(tmp_path / "x", tmp_path)
    assert lies_in(tmp_path, tmp_path)
    assert not lies_in(tmp_path.parent, tmp_path)
    assert not lies_in(home, tmp_path)
    assert not lies_in(blobs / "upload.png", tmp_path)
    assert lies_in(blobs / "upload.png", blobs)
    assert not lies_in(home / "workspace.sqlite", blobs)


def test_a_root_in_the_workspace_is_none(tmp_path, home, monkeypatch):
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", f"{tmp_path}{os.pathsep}{home / 'blobs'}")
    assert readable_roots() == (tmp_path,)
    with pytest.raises(ForbiddenPathError):
        allowed_path(str(home / "blobs"))


@pytest.mark.parametrize("place", [".work/blobs/upload.png", "link.png", "folder/upload.png"])
def test_no_way_leads_from_a_folder_into_the_workspace_in_it(tmp_path, home, place):
    (tmp_path / "link.png").symlink_to(home / "blobs" / "upload.png")
    (tmp_path / "folder").symlink_to(home / "blobs")
    with pytest.raises(ImageError, match=r"^Link leads out: "):
        read(tmp_path, place)
    assert read(home / "blobs", "upload.png") == image_bytes()


def test_the_workspace_is_known_by_its_real_place(tmp_path, monkeypatch):
    (tmp_path / "real" / "nnguide-explorer").mkdir(parents=True)
    (tmp_path / "share").symlink_to("real")
    monkeypatch.delenv("NNGUIDE_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path))
    assert workspace_home() == tmp_path / "real" / "nnguide-explorer"
    for name in ("real", "share"):
        with pytest.raises(ForbiddenPathError):
            allowed_path(str(tmp_path / name / "nnguide-explorer"))


def test_a_name_that_no_file_can_have_is_a_reason(tmp_path):
    with pytest.raises(ImageError, match=r"^Not a file: no file has a zero byte in its name"):
        read_regular(tmp_path / "a\0b", 9)
