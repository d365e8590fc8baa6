"""Settings: what can be chosen, what is refused, and what the environment says."""

import os
import tomllib
from pathlib import Path

import pytest

from nnguide_core.settings import (
    VERSION,
    BankSettings,
    ask_for_large_pages,
    data_roots,
    session_upload_limit,
    workspace_home,
)


def test_the_version_is_the_one_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ({"fraction": 1.1}, r"fraction must be in \(0, 1\], got 1.1"),
        ({"fraction": float("nan")}, r"fraction must be in \(0, 1\], got nan"),
        ({"react_percentile": 0.0}, r"percentile must be in \(0, 100\], got 0.0"),
        ({"react_percentile": 101.0}, r"percentile must be in \(0, 100\], got 101.0"),
        ({"scoring": "euclid"}, 'must be "paper" or "cosine"'),
        ({"energy_offset": float("inf")}, "offset"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bank_settings_that_mean_nothing_are_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        BankSettings(**choice)


def test_the_defaults_are_the_whole_training_set_as_in_the_paper():
    assert BankSettings() == BankSettings(1.0, 0, "random", None, "paper", 0.0)


def test_a_draw_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match='draw must be "random", "stratified" or "balanced", got True'):
        BankSettings(draw=True)


def test_typed_paths_are_allowed_under_the_roots_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", f"{tmp_path / 'link'}::{tmp_path / 'a' / '..' / 'b'}")
    assert data_roots() == (tmp_path / "real", tmp_path / "b")


def test_without_the_environment_the_roots_are_the_working_and_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("NNGUIDE_DATA_ROOTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert data_roots() == (tmp_path.resolve(), tmp_path.resolve() / "nnguide-data")


def test_the_workspace_is_where_the_environment_says_or_in_the_users_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("NNGUIDE_HOME", "~/mine")
    assert workspace_home() == tmp_path / "mine"
    monkeypatch.delenv("NNGUIDE_HOME")
    assert workspace_home() == tmp_path / ".local" / "share" / "nnguide-explorer"


def test_the_upload_limit_is_a_number_of_bytes(monkeypatch):
    monkeypatch.delenv("NNGUIDE_UPLOAD_LIMIT", raising=False)
    assert session_upload_limit() == 4 * 2**30
    monkeypatch.setenv("NNGUIDE_UPLOAD_LIMIT", "1000")
    assert session_upload_limit() == 1000
    monkeypatch.setenv("NNGUIDE_UPLOAD_LIMIT", "4 GB")
    with pytest.raises(ValueError, match="whole number of bytes, got '4 GB'"):
        session_upload_limit()


def test_a_program_asks_for_large_pages_unless_its_user_has_decided(monkeypatch):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    ask_for_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    ask_for_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
