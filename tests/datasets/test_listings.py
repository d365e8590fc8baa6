import pytest

from nnguide_core.datasets.listings import below
from nnguide_core.errors import CancelledError
from nnguide_core.paths.listings import Listed


def test_listed_paths_are_sorted_and_must_lie_in_the_folder(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    listed = ["sub/../b.png", str(root / "a.png"), "/etc/passwd", "../x.png", "b.png", ".."]
    found = [(each.path, each.reason) for each, _ in below(root, [Listed(path, None) for path in listed])]
    outside = "Outside: it does not lie in the folder of the list."
    assert sorted(found, key=str) == sorted(
        [
            ("a.png", None),
            ("b.png", None),
            ("b.png", "Listed twice: an earlier line names it too."),
            ("..", outside),
            ("../x.png", outside),
            ("/etc/passwd", outside),
        ],
        key=str,
    )


def test_a_list_may_name_files_in_full_through_a_link_to_its_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    ((found, label),) = below(tmp_path / "data", [Listed(str(tmp_path / "link" / "a.png"), "cat")])
    assert (found.path, found.location, found.reason, label) == ("a.png", "a.png", None, "cat")


def test_a_line_that_can_be_no_path_costs_only_itself(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "work" / "blobs").mkdir(parents=True)
    bad = {
        "a\0b.png": "Bad path: it holds a zero byte.",
        "a\0b/c.png": "Bad path: it holds a zero byte.",
        "x/" * 3_000 + "a.png": "Bad path: it has 6,005 characters; at most 4,096 can be.",
    }
    lines = [*bad, "loop", "loop/x.png", "a.png/b.png", "x" * 300, "ok.png"]
    found = {each.path: each.reason for each, _ in below(tmp_path, [Listed(path, None) for path in lines])}
    assert found == bad | dict.fromkeys(["loop", "loop/x.png", "a.png/b.png", "x" * 300, "ok.png"])


def test_a_list_beside_the_workspace_does_not_name_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "work"))
    (tmp_path / "in").symlink_to("work")
    for path in ("work/blobs/x.png", "in/blobs/x.png", "work/../work/x.png"):
        ((found, _),) = below(tmp_path, [Listed(path, None)])
        assert (found.path, found.location) == (path, "")
        assert found.reason == "Outside: it does not lie in the folder of the list."


def test_looking_at_the_lines_can_be_stopped(tmp_path):
    answers = iter([False, False, True])
    listed = [Listed(str(row), None) for row in range(5_000)]
    with pytest.raises(CancelledError, match=r"^Stopped after looking at 2,000 of 5,000 lines"):
        below(tmp_path, listed, cancelled=lambda: next(answers))
