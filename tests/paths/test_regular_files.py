import os
import socket

import pytest

from nnguide_core.errors import ImageError
from nnguide_core.paths.regular_files import open_regular, read_regular

OUT = "^Link leads out: "


def test_a_plain_file_is_read_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"hello")
    assert read_regular(tmp_path / "x", 5, within=tmp_path) == b"hello"
    with open_regular(tmp_path / "x") as file:
        assert file.read(2) == b"he"


def test_a_larger_file_is_refused_with_both_sizes_before_it_is_read(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ImageError, match=r"^Too large: 1,000,000,000,000 bytes; at most 64 are read.$"):
        read_regular(tmp_path / "x", 64)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(bytes(100))
    true_status = os.fstat

    def smaller(handle):
        fields = list(true_status(handle))
        fields[6] = 10
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", smaller)
    with pytest.raises(ImageError, match=r"^Too large: 51 bytes; at most 50"):
        read_regular(tmp_path / "x", 50)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "^Not a file: this is a named pipe.$"),
        (os.mkdir, "^Not a file: this is a folder.$"),
        (lambda path: path.symlink_to("/dev/null"), "^Not a file: this is a device.$"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "^Not a file: this is a socket.$"),
        (lambda path: path.symlink_to(path), "^Not a file: this is a link that cannot be followed.$"),
        (lambda path: path.symlink_to("nothing"), "^Not a file: nothing is there"),
        (lambda _: None, "^Not a file: nothing is there"),
    ],
)
def test_what_is_no_regular_file_is_never_opened(tmp_path, monkeypatch, make, reason):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ImageError, match=reason):
        open_regular(tmp_path / "x")


def test_a_name_too_long_for_the_system_is_a_reason(tmp_path):
    with pytest.raises(ImageError, match=r"^Not readable: its path is too long"):
        open_regular(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_a_reason(tmp_path):
    (tmp_path / "x").touch(mode=0)
    with pytest.raises(ImageError, match=r"^Not readable: permission was denied.$"):
        open_regular(tmp_path / "x")


def test_links_inside_the_folder_are_followed_and_those_that_lead_out_refused(tmp_path):
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    (inside / "x").write_bytes(b"in")
    (tmp_path / "secret").write_bytes(b"out")
    (inside / "deep" / "link").symlink_to("../x")
    (inside / "relative").symlink_to("../secret")
    (inside / "absolute").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    assert read_regular(inside / "deep" / "link", 9, within=inside) == b"in"
    for path in ("relative", "absolute", "folder/secret", "../secret"):
        with pytest.raises(ImageError, match=OUT):
            read_regular(inside / path, 9, within=inside)


def test_a_link_that_leads_out_does_not_tell_whether_anything_is_there(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for number, target in enumerate(["pipe", "folder", "missing", "folder/missing"]):
        link = inside / str(number)
        link.symlink_to(tmp_path / target)
        with pytest.raises(ImageError, match=OUT):
            read_regular(link, 9, within=inside)


def test_a_sibling_whose_name_begins_alike_is_outside(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data-of-others").write_bytes(b"x")
    with pytest.raises(ImageError, match=OUT):
        read_regular(tmp_path / "data" / ".." / "data-of-others", 9, within=tmp_path / "data")


@pytest.mark.parametrize(("swapped", "bound"), [("file", True), ("file", False), ("folder", True)])
def test_a_swap_between_the_look_and_the_opening_is_noticed(tmp_path, monkeypatch, swapped, bound):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "folder").mkdir(parents=True)
    outside.mkdir()
    for folder in (inside / "folder", outside):
        (folder / "x").write_bytes(b"x")
    true_open = os.open

    def swap_then_open(path, flags):
        if swapped == "file":
            (inside / "folder" / "x").unlink()
            (inside / "folder" / "x").symlink_to(outside / "x")
        else:
            (inside / "folder").rename(tmp_path / "away")
            (inside / "folder").symlink_to(outside)
        return true_open(path, flags)

    monkeypatch.setattr(os, "open", swap_then_open)
    with pytest.raises(ImageError, match=r"^(Not a file: this is a link|Link leads out)"):
        read_regular(inside / "folder" / "x", 9, within=inside if bound else None)
