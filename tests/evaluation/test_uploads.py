"""Uploads live as long as their session or a job needs them, in this process and in all others."""

import os
import time
from dataclasses import asdict
from datetime import UTC, datetime

import pytest

from nnguide_core.evaluation.plans import Chosen, Plan
from nnguide_core.evaluation.uploads import SessionUploads
from nnguide_core.models import ModelSpec
from nnguide_core.records import Dataset, ImageRef, JobRecord, JobState, Role, fingerprint
from nnguide_core.store import Workspace
from tests.processes import fork
from tests.synthetic import lose_dataset

DAY = 24 * 3600.0
UNFINISHED = (JobState.WAITING, JobState.RUNNING, JobState.INTERRUPTED)


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    workspace.save_dataset(Dataset("known", Role.ID, tmp_path, ()))  # so that no row seems to be missing
    return workspace


def age(folder, seconds):
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - seconds,) * 2)


def remember(workspace, state, **about):
    workspace.save_job(JobRecord("key", "a job", state, about, "", datetime.now(UTC), None))


def plan_for(checkpoint, *datasets):
    spec = ModelSpec("torchvision", "resnet18", checkpoint=checkpoint)
    return Plan(spec, tuple(Chosen.of(each) for each in datasets)).to_json()


@pytest.mark.parametrize("state", UNFINISHED)
def test_the_checkpoint_and_the_images_of_an_unfinished_job_outlive_their_session(workspace, state):
    uploads = SessionUploads(workspace, "a0")
    checkpoint, other = uploads.add_file(b"weights", "net.pt"), uploads.add_file(b"others", "other.pt")
    image = uploads.add_file(b"pixels", "1.png")
    location = str(image.relative_to(uploads.folder))
    images = (ImageRef(fingerprint("1"), "up", "1.png", None, location),)
    dataset = Dataset("up", Role.ID, uploads.folder, images)
    workspace.save_dataset(dataset)
    remember(workspace, state, kind="compute", plan=plan_for(checkpoint, dataset))
    uploads.release()
    assert [path.exists() for path in (checkpoint, other, image)] == [True, False, True]
    age(workspace.blobs, 30 * DAY)
    workspace.clean_up()
    assert checkpoint.read_bytes() == b"weights"
    assert workspace.dataset(dataset.fingerprint) == dataset
    workspace.remove_job("key")
    workspace.clean_up()
    assert not uploads.folder.exists()
    assert workspace.dataset(dataset.fingerprint) is None


def test_the_features_file_of_an_unfinished_job_outlives_its_session(workspace):
    uploads = SessionUploads(workspace, "a0")
    kept, gone = uploads.add_file(b"rows", "bank.npz"), uploads.add_file(b"more", "id.npz")
    remember(workspace, JobState.RUNNING, kind="features", files=[str(kept)])
    uploads.release()
    assert (kept.exists(), gone.exists()) == (True, False)
    remember(workspace, JobState.DONE, kind="features", files=[str(kept)])
    uploads.release()
    assert not uploads.folder.exists()


def test_what_the_draft_of_another_session_lists_outlives_its_own_session(workspace):
    uploads = SessionUploads(workspace, "a0")
    image, checkpoint = uploads.add_file(b"pixels", "1.png"), uploads.add_file(b"weights", "net.pt")
    images = (ImageRef(fingerprint("1"), "up", "1.png", None, str(image.relative_to(uploads.folder))),)
    dataset = Dataset("up", Role.ID, uploads.folder, images)
    workspace.save_dataset(dataset)
    lists = {"datasets": [asdict(Chosen.of(dataset))], "saved": time.time()}
    workspace.save_setting("draft.a", {**lists, "session": "a0", "checkpoint": str(checkpoint)})
    workspace.save_setting("draft.b", {**lists, "session": "b0", "checkpoint": None})
    workspace.save_setting("draft.none", "of no use")
    uploads.release()
    assert (image.exists(), checkpoint.exists()) == (True, False)
    age(workspace.blobs, 30 * DAY)
    workspace.clean_up()
    assert workspace.dataset(dataset.fingerprint) == dataset
    assert image.read_bytes() == b"pixels"
    workspace.save_setting("draft.b", {**lists, "session": "b0", "saved": 0.0})
    for _ in range(2):  # the draft, then what it listed
        workspace.clean_up()
    assert not uploads.folder.exists()
    assert workspace.dataset(dataset.fingerprint) is None


def test_uploads_of_an_open_session_stay_however_old_they_are(workspace):
    uploads = SessionUploads(workspace, "a0")
    path = uploads.add_file(b"weights", "net.pt")
    uploads.claim([7])
    age(workspace.blobs, 30 * DAY)
    with uploads.held():
        Workspace(workspace.root).clean_up(min_age=-DAY)
        assert path.exists()
        assert workspace.uploaded("a0") == 7
    workspace.clean_up(min_age=-DAY)
    assert not path.exists()
    assert workspace.uploaded("a0") == 0


def test_uploads_of_a_killed_server_go_a_day_after_the_last_of_them(workspace):
    reading, writing = os.pipe()

    def serve():
        with SessionUploads(workspace, "a0").held():
            os.write(writing, b"x")
            time.sleep(60)

    server = fork(serve)
    os.read(reading, 1)
    uploads = SessionUploads(workspace, "a0")
    old, new = uploads.add_file(b"old", "old.pt"), uploads.add_file(b"new", "new.pt")
    age(workspace.blobs, 30 * DAY)
    workspace.clean_up()
    assert old.exists()
    os.kill(server, 9)
    os.waitpid(server, 0)
    os.utime(new)
    workspace.clean_up()
    assert old.exists()
    age(workspace.blobs, 2 * DAY)
    workspace.clean_up()
    assert not uploads.folder.exists()


def test_nothing_is_freed_while_rows_may_be_missing(workspace):
    path = SessionUploads(workspace, "a0").add_file(b"weights", "net.pt")
    age(workspace.blobs, 30 * DAY)
    lose_dataset(workspace, workspace.datasets()[0])
    workspace.clean_up()
    assert path.exists()


def test_a_files_name_never_leaves_the_sessions_folder(workspace):
    uploads = SessionUploads(workspace, "a0")
    for name in ("../../evil.pt", "/etc/passwd", "..", "", "a/b\\c.pt"):
        path = uploads.add_file(name.encode(), name)
        assert path.resolve().is_relative_to(uploads.folder.resolve())
        assert path.read_bytes() == name.encode()
