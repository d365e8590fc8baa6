import pytest

from nnguide_core.errors import DatasetError
from nnguide_core.paths.listings import Listed, read_listing


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
        (f"{'x' * 200_000}\npath\n", [("path", None), ("x" * 200_000, None)]),
        ("", []),
    ],
)
def test_a_list_is_lines_of_paths_or_a_csv_with_a_path_column(tmp_path, text, expected):
    assert read_listing(written(tmp_path, text)) == [Listed(*line) for line in expected]


def test_a_list_that_is_no_text_is_refused_with_the_place(tmp_path):
    with pytest.raises(DatasetError, match=r"list.csv is not UTF-8 text: byte 2"):
        read_listing(written(tmp_path, b"ab\xff"))


def test_a_list_that_is_no_csv_is_refused_with_the_line(tmp_path):
    with pytest.raises(DatasetError, match=r"list.csv is not a valid CSV: after line 1, field larger"):
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
