"""Uploads of sessions that are over: freed when they are stale, and never while rows may be missing."""

import os
import time

import pytest

from nnguide_core.evaluation.uploads import SessionUploads, release_stale
from nnguide_core.store import Workspace

OLD = 3 * 24 * 3600.0  # seconds; longer than a silent session is kept


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path / "workspace")
    monkeypatch.setattr(Workspace, "knows_all", lambda _: True)
    return workspace


def left_behind(workspace, session, age):
    path = SessionUploads(workspace, session).add_file(b"weights", "model.pt")
    moment = time.time() - age
    os.utime(workspace.blobs / session, (moment, moment))
    return path


def test_files_of_a_session_that_never_said_goodbye_are_freed_after_two_days(workspace):
    old, new = left_behind(workspace, "a0", OLD), left_behind(workspace, "b1", 60.0)
    release_stale(workspace)
    assert not old.exists()
    assert new.exists()


def test_nothing_is_freed_while_rows_may_be_missing(workspace, monkeypatch):
    old = left_behind(workspace, "a0", OLD)
    monkeypatch.setattr(Workspace, "knows_all", lambda _: False)
    release_stale(workspace)
    assert old.exists()


def test_a_files_name_never_leaves_the_sessions_folder(workspace):
    uploads = SessionUploads(workspace, "a0")
    for name in ("../../evil.pt", "/etc/passwd", "..", "", "a/b\\c.pt"):
        path = uploads.add_file(name.encode(), name)
        assert path.resolve().is_relative_to(uploads.folder.resolve())
        assert path.read_bytes() == name.encode()
