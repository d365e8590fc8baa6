import os

import pytest

from nnguide_core.paths import folders
from nnguide_core.paths.folders import is_litter, walk
from nnguide_core.paths.regular_files import open_folder


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_everything_is_found_in_the_order_of_its_characters(tmp_path):
    make(tmp_path, "b.png", "a/2.png", "a/10.png", "a/x/y/z.txt", "B.png", "é.png", "a.png")
    expected = ["B.png", "a.png", "a/10.png", "a/2.png", "a/x/y/z.txt", "b.png", "é.png"]
    assert [found.path for found in walk(tmp_path)] == expected


@pytest.mark.parametrize(
    "path", [".hidden.png", ".git/x.png", "a/.b/c.png", "Thumbs.db", "a/desktop.ini", "__MACOSX/a/._x.png"]
)
def test_hidden_files_and_what_systems_leave_do_not_count(tmp_path, path):
    make(tmp_path, path, "kept.png")
    assert [found.path for found in walk(tmp_path)] == ["kept.png"]
    assert is_litter(path)


@pytest.mark.parametrize("path", ["a.png", "a.b/c", "../x", "./x", "thumbs.db.png"])
def test_other_names_count(path):
    assert not is_litter(path)


def test_links_to_folders_are_named_and_never_followed(tmp_path):
    make(tmp_path / "data", "cat/1.png")
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "out").symlink_to(tmp_path)
    found = {each.path: each.reason for each in walk(tmp_path / "data")}
    # What a link outside is, is not even looked at: reading it gives the reason.
    assert found == {"cat/1.png": None, "cat/loop": "Link to a folder: these are not followed.", "out": None}


@pytest.mark.parametrize("place", ["", "cat"])
def test_a_folder_that_becomes_a_link_while_it_is_walked_is_not_entered(tmp_path, monkeypatch, place):
    root = tmp_path / "data"
    make(root, "cat/1.png", "dog/2.png")
    make(tmp_path / "private", "secret.png")
    true_open = folders.open_folder

    def swap_then_open(path):
        if path == str(root / place) and not (root / place).is_symlink():
            (root / place).rename(tmp_path / "away")
            (root / place).symlink_to(tmp_path / "private")
        return true_open(path)

    monkeypatch.setattr(folders, "open_folder", swap_then_open)
    if place:
        found = [(each.path, each.reason) for each in walk(root)]
        assert [path for path, _ in found] == ["cat", "dog/2.png"]
        assert found[0][1] == "Not readable: A link was put in its place."
    else:
        with pytest.raises(OSError, match="A link was put in its place"):
            walk(root)


def test_no_part_of_a_path_of_a_folder_may_have_become_a_link(tmp_path):
    make(tmp_path, "real/inside/x")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="A link was put in its place"), open_folder(f"{tmp_path}/link/inside"):
        pytest.fail("it was opened")
    with open_folder(f"{tmp_path}/real/inside") as handle:
        assert os.listdir(handle) == ["x"]  # noqa: PTH208 - a handle, no path


def test_a_name_that_is_no_text_is_shown_with_escapes_and_found_again(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    os.close(os.open(raw, os.O_CREAT))
    (found,) = walk(tmp_path)
    assert (found.path, found.location) == ("caf\\xe9.png", "/636166e92e706e67")


def test_a_very_deep_folder_is_walked(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "x").touch()
    assert [found.path for found in walk(tmp_path)] == ["d/" * 300 + "x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    (found,) = walk(tmp_path)
    assert (found.path, found.reason) == ("closed", "Not readable: Permission denied.")
