import os

import pytest

from nnguide_core.folders import is_litter, walk


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
