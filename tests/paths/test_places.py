"""Where the paths of lists and features files lie, compared with what the system itself says."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nnguide_core.paths.places import Place, Places

PARTS = st.sampled_from(["a", "b", "up", "out", "loop", "..", ".", "", "missing"])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with links up, out and in a circle."""
    root = tmp_path_factory.mktemp("data") / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "out").symlink_to("/")
    (root / "loop").symlink_to("loop")
    return root


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.lists(PARTS, max_size=6).map("/".join), absolute=st.booleans())
@example(path="loop///a", absolute=False)  # realpath makes /a of it
@example(path="loop//a/.", absolute=False)
@example(path="loop//.", absolute=True)
def test_a_place_is_where_the_system_says(root, path, absolute):
    path = f"{root}/{path}" if absolute else path
    place = Places(root, (root,)).find(path)
    full = re.sub("/+", "/", f"{'' if path.startswith('/') else f'{root}/'}{path}")  # several slashes are one
    folder, _, name = full.rstrip("/").rpartition("/")
    real = Path(os.path.realpath(folder or "/"), name)
    real = Path(os.path.realpath(f"{folder}/{name}")) if name in ("", ".", "..") else real
    inside = real != root and real.is_relative_to(root)
    assert place == (Place(root, str(real.relative_to(root))) if inside else Place(None, ""))


def test_the_first_root_that_holds_a_path_is_its_root(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    find = Places(tmp_path, (one, two, tmp_path)).find
    assert find("two/x/y.png") == Place(two, "x/y.png")
    assert find(str(one / "y.png")) == Place(one, "y.png")
    assert find("z.png") == Place(tmp_path, "z.png")


def test_the_workspace_is_no_place(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "work"))
    (tmp_path / "in").symlink_to(tmp_path / "work")
    find = Places(tmp_path, (tmp_path,)).find
    assert [find(path) for path in ("work/x", "in/x", "in/../work/deep/x")] == [Place(None, "")] * 3


@pytest.mark.parametrize(
    ("path", "reason"),
    [("a\0b/c", "^Bad path: it holds a zero byte"), ("x/" * 3_000, "^Bad path: it has 6,000 characters")],
)
def test_a_path_that_no_file_can_have_is_a_reason(tmp_path, path, reason):
    with pytest.raises(ValueError, match=reason):
        Places(tmp_path, (tmp_path,)).find(path)


def test_each_folder_is_looked_at_once(tmp_path, monkeypatch):
    asked = []
    true_path = os.path.realpath
    find = Places(tmp_path, (tmp_path,)).find
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(path) or true_path(path))
    assert [find(f"{row % 3}/{row}").path for row in range(99)] == [f"{row % 3}/{row}" for row in range(99)]
    assert len(asked) == 3
