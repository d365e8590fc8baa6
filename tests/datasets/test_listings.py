import pytest

from nnguide_core.datasets.listings import Listed, below, read_listing
from nnguide_core.errors import CancelledError, DatasetError


def written(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.png\nb c.png\r\n\n  \nd,e.png\n", [("a.png", None), ("b c.png", None), ("d,e.png", None)]),
        ("path,label\na.png,cat\nb.png,\n", [("a.png", "cat"), ("b.png", None)]),
        ("label, path\ncat, a.png\n", [("a.png", "cat")]),
        ("path\na.png\n", [("a.png", None)]),
        ('path,label\n"a,b.png","x ""y"""\n,dog\n', [("a,b.png", 'x "y"')]),
        ("\ufeffpath,label\na.png,cat\n", [("a.png", "cat")]),
        ('"path","label"\n"a.png","cat"\n', [("a.png", "cat")]),
        (" path , label \n a.png,cat\n", [("a.png", "cat")]),
        ("id,label,path\n7,cat,a.png\n8\n", [("a.png", "cat")]),
        ("path,label\r\na.png,cat\r\n", [("a.png", "cat")]),
        ('"a.png\nb.png\n', [('"a.png', None), ("b.png", None)]),
        (f"{'x' * 200_000}\npath\n", [("x" * 200_000, None), ("path", None)]),
        ("", []),
    ],
)
def test_a_list_is_lines_of_paths_or_a_csv_with_a_path_column(tmp_path, text, expected):
    assert read_listing(written(tmp_path, text)) == [Listed(*line) for line in expected]


def test_a_list_that_is_no_text_is_refused_with_the_place(tmp_path):
    with pytest.raises(DatasetError, match=r"list.csv is not UTF-8 text: byte 2"):
        read_listing(written(tmp_path, b"ab\xff"))


def test_a_list_that_is_no_csv_is_refused_with_the_line(tmp_path):
    with pytest.raises(DatasetError, match=r"list.csv is no proper CSV: after line 1, field larger"):
        read_listing(written(tmp_path, "path,label\n" + "x" * 200_000 + ",cat\n"))


def test_a_list_of_too_many_lines_is_refused_with_both_numbers(tmp_path):
    with pytest.raises(DatasetError, match=r"list.csv has 2,000,001 lines; at most 2,000,000 are read"):
        read_listing(written(tmp_path, "a\n" * 2_000_001))


def test_a_list_that_may_not_be_a_link_is_not_read_through_one(tmp_path):
    (tmp_path / "private.txt").write_text("somebody's notes")
    (tmp_path / "list.txt").symlink_to("private.txt")
    with pytest.raises(DatasetError, match=r"^The list list.txt cannot be read. Link leads out"):
        read_listing(tmp_path / "list.txt", within=tmp_path / "list.txt")


def test_a_list_that_is_missing_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"list missing.txt cannot be read. Not a file: nothing is there"):
        read_listing(tmp_path / "missing.txt")


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
