import pytest

from nnguide_core.errors import DatasetError
from nnguide_core.listings import Listed, below, read_listing


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
