"""Cleaning up: what is needed stays, what is young stays, the rest goes."""

import logging
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from nnguide_core.records import Dataset, Features, ImageRef, Role, Run, RunDataset, Threshold, fingerprint
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from tests.synthetic import lose_dataset

DAY = 24 * 3600.0


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "w")


def dataset(name, root=Path("/data"), location="1.png"):
    image = ImageRef(fingerprint(name), name, "1.png", None, location)
    return Dataset(name, Role.ID, root, (image,))


def features(of):
    return Features(
        torch.ones(1, 4), torch.ones(1, 3), of.ids, torch.zeros(1, dtype=torch.int64), "m", of.fingerprint
    )


def run(*datasets):
    parts = tuple(RunDataset.of(each) for each in datasets)
    return Run("m", "model", parts[0], parts, BankSettings(), 1, Threshold("id_kept", 0.95))


def age(folder, seconds):
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - seconds,) * 2)


def test_what_datasets_and_runs_need_stays_and_the_rest_goes(workspace):
    kept, in_a_run, gone = (dataset(name) for name in ("kept", "in a run", "gone"))
    for each in (kept, in_a_run, gone):
        workspace.save_dataset(each)
        workspace.save_features(features(each))
    question = run(in_a_run)
    workspace.save_run(question)
    for stored in workspace.datasets():
        if stored.name != "kept":
            lose_dataset(workspace, stored)
    key = fingerprint("key")
    workspace.save("maps", key, {}, {}, needs=[question.question, in_a_run.fingerprint])
    workspace.save("plots", key, {}, {}, needs=[question.id])
    workspace.save("banks", key, {}, {}, needs=[kept.fingerprint, gone.fingerprint])
    workspace.save("notes", key, {"mine": torch.ones(1)}, {})
    age(workspace.root, 2 * DAY)
    assert workspace.clean_up() > 0
    assert workspace.load_features("m", kept.fingerprint) is not None
    assert workspace.load_features("m", in_a_run.fingerprint) is not None
    assert workspace.load_features("m", gone.fingerprint) is None
    assert [workspace.load(kind, key) is not None for kind in ("maps", "plots", "notes", "banks")] == [
        True,
        True,
        True,
        False,
    ]
    workspace.remove_run(question.id)
    age(workspace.root, 2 * DAY)
    workspace.clean_up()
    assert workspace.load_features("m", in_a_run.fingerprint) is None
    assert [workspace.load(kind, key) is not None for kind in ("maps", "plots", "notes")] == [
        False,
        False,
        True,
    ]
    assert workspace.clean_up() == 0


def test_what_is_young_stays_since_what_needs_it_may_come_later(workspace):
    workspace.save_dataset(dataset("known"))
    workspace.save_features(features(dataset("new")))
    (workspace.blobs / fingerprint("upload")).write_bytes(b"new")
    shard = workspace.shards_folder("m", dataset("new").fingerprint) / "0.safetensors"
    shard.write_bytes(b"new")
    assert workspace.clean_up() == 0
    assert shard.exists()
    assert workspace.load_features("m", dataset("new").fingerprint) is not None
    assert workspace.clean_up(min_age=-1.0) > 0
    assert not shard.exists()
    assert list(workspace.blobs.iterdir()) == []


def test_shards_stay_while_their_dataset_is_known_or_someone_adds_to_them(workspace):
    known, unknown = dataset("known"), dataset("unknown")
    workspace.save_dataset(known)
    folders = [workspace.shards_folder("m", each.fingerprint) for each in (known, unknown)]
    for folder in folders:
        (folder / "0.safetensors").write_bytes(b"batch")
    age(workspace.root, 2 * DAY)
    (folders[1] / "1.safetensors").write_bytes(b"a moment ago")
    os.utime(folders[1], (time.time() - 2 * DAY,) * 2)
    workspace.clean_up()
    assert all(folder.exists() for folder in folders)
    age(workspace.root, 2 * DAY)
    assert workspace.clean_up() == len(b"batch") + len(b"a moment ago")
    assert [folder.exists() for folder in folders] == [True, False]
    workspace.remove_shards("m", known.fingerprint)
    assert list((workspace.root / "shards").iterdir()) == []


def test_blobs_that_a_dataset_shows_stay_whether_single_files_or_a_zip(workspace):
    used, member, zipped, unused = (workspace.blobs / fingerprint(name) for name in ("a", "b", "c", "d"))
    for blob in (used, member, zipped, unused):
        blob.write_bytes(b"12345")
    workspace.save_dataset(dataset("uploads", workspace.blobs, used.name))
    (workspace.blobs / "folder").mkdir()
    member = member.rename(workspace.blobs / "folder" / member.name)
    deeper = dataset("deeper", workspace.blobs / "folder", member.name)
    workspace.save_dataset(deeper)
    workspace.save_run(run(deeper))
    workspace.save_dataset(dataset("zip", zipped, "inside.png"))
    age(workspace.root, 2 * DAY)
    assert workspace.clean_up() == 5
    assert [path.exists() for path in (used, member, zipped, unused)] == [True, True, True, False]


def test_uploads_stay_also_where_the_workspace_is_reached_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    workspace = Workspace(tmp_path / "link")
    blob = workspace.blobs / "ab" / fingerprint("a")
    blob.parent.mkdir()
    blob.write_bytes(b"12345")
    linked = dataset("uploads", tmp_path / "link" / "blobs" / "ab", blob.name)
    real = dataset("others", (tmp_path / "real" / "blobs").resolve(), f"ab/{blob.name}")
    workspace.save_dataset(linked)
    workspace.save_dataset(real)
    workspace.save_run(run(linked, real))
    age(workspace.root, 2 * DAY)
    assert workspace.clean_up() == 0
    assert blob.exists()


def test_what_was_set_aside_goes_after_thirty_days(workspace):
    key = fingerprint("key")
    for days in (29, 31):
        workspace.save("banks", key, {}, {})
        workspace.set_aside("banks", key, f"{days} days ago")
        (newest, *_) = workspace.all_set_aside()
        for path in (newest.path, newest.path.with_name(newest.path.name + ".json")):
            os.utime(path, (time.time() - days * DAY,) * 2)
    workspace.clean_up()
    assert [aside.reason for aside in workspace.all_set_aside()] == ["29 days ago"]


def test_parts_of_killed_writers_and_forgotten_sessions_go(workspace, monkeypatch):
    workspace.save("banks", fingerprint("key"), {}, {})
    (workspace.blobs / "ab").mkdir()
    for folder in (workspace.blobs, workspace.blobs / "ab", workspace.root / "tensors" / "banks"):
        (folder / ".nnguide-0.part").write_bytes(b"half")
    age(workspace.root, 2 * DAY)
    workspace.claim_upload("new", 5)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 0.0)
        workspace.claim_upload("old", 5)
    workspace.clean_up()
    assert list(workspace.root.rglob("*.part")) == []
    assert (workspace.uploaded("new"), workspace.uploaded("old")) == (5, 0)


def test_usage_counts_the_bytes_of_every_kind(workspace):
    workspace.save("banks", fingerprint("key"), {"rows": torch.zeros(1000)}, {})
    (workspace.blobs / "x").write_bytes(bytes(50))
    usage = workspace.usage()
    assert 4000 <= usage["banks"] < 6000
    assert usage["blobs"] == 50
    assert usage["database"] > 0
    assert usage["thumbnails"] > 0
    assert usage["shards"] == 0
    whole = sum(path.stat().st_size for path in workspace.root.rglob("*") if path.is_file())
    assert sum(usage.values()) == whole


def full_workspace(root):
    workspace = Workspace(root)
    pets = dataset("pets")
    workspace.save_dataset(pets)
    workspace.save_features(features(pets))
    (workspace.blobs / "ab").mkdir()
    (workspace.blobs / "ab" / fingerprint("upload")).write_bytes(b"12345")
    workspace.shards_folder("m", dataset("others").fingerprint).joinpath("0.safetensors").write_bytes(b"12")
    return workspace


def files_of(workspace):
    folders = (workspace.root / name for name in ("tensors", "blobs", "shards"))
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copied", [True, False], ids=["restored", "begun anew"])
def test_nothing_goes_for_being_unknown_while_rows_may_be_missing(tmp_path, copied):
    workspace = full_workspace(tmp_path / "w")
    workspace.close()
    (workspace.root / "workspace.sqlite").write_bytes(b"garbage" * 2000)
    if not copied:
        (workspace.root / "workspace.backup").unlink()
    again = Workspace(workspace.root)
    before = files_of(again)
    again.save_dataset(dataset("new"))
    assert (workspace.knows_all(), again.knows_all()) == (False, False)
    age(workspace.root, 20 * DAY)
    again.clean_up()
    assert files_of(again) >= before
    age(workspace.root, 31 * DAY)
    again.clean_up()
    again.clean_up()
    assert files_of(again) == {next((again.root / "tensors" / "datasets").iterdir())}


def test_nothing_goes_for_being_unknown_where_nothing_is_known(tmp_path):
    workspace = full_workspace(tmp_path / "w")
    lose_dataset(workspace, workspace.datasets()[0])
    age(workspace.root, 400 * DAY)
    before = files_of(workspace)
    assert workspace.clean_up() == 0
    assert files_of(workspace) == before


def test_an_old_file_that_was_set_aside_today_stays_for_thirty_days(workspace):
    key = fingerprint("key")
    workspace.save("banks", key, {}, {})
    age(workspace.root, 100 * DAY)
    workspace.set_aside("banks", key, "damaged")
    workspace.clean_up()
    (aside,) = workspace.all_set_aside()
    assert aside.path.exists()


def test_cleaning_in_the_background_says_what_it_did_and_disturbs_nobody(tmp_path, caplog):
    workspace = full_workspace(tmp_path / "w")
    age(workspace.root, 10 * DAY)
    with caplog.at_level(logging.INFO):
        workspace.clean_up_in_background().join(60)
    assert "cleaned up: 7 bytes given back" in caplog.text
    shutil.rmtree(workspace.root)
    workspace.clean_up_in_background().join(60)
    assert "not cleaned up: " in caplog.text
    assert not workspace.root.exists()


def test_writers_at_work_lose_nothing_to_a_cleaning_beside_them(tmp_path):
    workspace = full_workspace(tmp_path / "w")
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            workspace.clean_up()

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        for number in range(10):
            mine = dataset(f"set {number}")
            workspace.save_features(features(mine))
            workspace.save_dataset(mine)
            assert workspace.dataset(mine.fingerprint) == mine
            assert workspace.load_features("m", mine.fingerprint) is not None
    finally:
        stop.set()
        cleaner.join()


def test_drafts_go_after_a_week_and_other_settings_stay(workspace):
    for name, age_of_it in (("draft.old", 8 * DAY), ("draft.new", 6 * DAY), ("list", 8 * DAY)):
        workspace.save_setting(name, {"saved": time.time() - age_of_it})
    workspace.save_setting("draft.none", "of no use")
    workspace.clean_up()
    kept = [name for name in ("draft.old", "draft.new", "draft.none", "list") if workspace.setting(name)]
    assert kept == ["draft.new", "list"]
