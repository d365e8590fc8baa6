"""The workspace: remembered across restarts, shared by many, and never wrong in silence."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from nnguide_core.errors import StoreError
from nnguide_core.records import Dataset, Features, ImageRef, Role, Skipped, Verdict, fingerprint
from nnguide_core.store import Workspace
from tests.disks import small_disk

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "w")


def dataset(*labels, name="pets", role=Role.ID, root=Path("/data")):
    images = tuple(
        ImageRef(fingerprint(str(number)), name, f"{number}.png", label, f"{label}/{number}.png")
        for number, label in enumerate(labels)
    )
    return Dataset(name, role, root, images, (Skipped("broken.png", "truncated"),))


def features(of):
    random = torch.Generator().manual_seed(0)
    count = len(of.images)
    values = torch.randn(count, 4, generator=random), torch.randn(count, 3, generator=random)
    return Features(*values, of.ids, torch.zeros(count, dtype=torch.int64), "model", of.fingerprint)


def said(image, decision="unsure"):
    return Verdict(image, decision, "", NOON)


def test_all_is_remembered_after_a_restart(workspace):
    pets = dataset("cat", "dog", None)
    workspace.save_dataset(pets)
    workspace.save_features(features(pets))
    workspace.add_verdicts([said(pets.ids[0])])
    workspace.thumbnails.put({pets.ids[0]: b"picture"}, 96)
    workspace.close()
    again = Workspace(workspace.root)
    assert again.dataset(pets.fingerprint) == pets
    assert again.load_features("model", pets.fingerprint).ids == pets.ids
    assert torch.equal(again.load_features("model", pets.fingerprint).logits, features(pets).logits)
    assert again.current_verdicts() == {pets.ids[0]: said(pets.ids[0])}
    assert again.thumbnails.get(pets.ids, 96) == {pets.ids[0]: b"picture"}


def test_the_root_is_the_one_of_the_settings_unless_given(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))
    assert Workspace().root == tmp_path / "home"
    monkeypatch.chdir(tmp_path)
    assert Workspace(Path("mine")).root == tmp_path / "mine"


def test_datasets_are_told_apart_by_contents_name_and_role(workspace):
    ours, theirs = dataset("cat"), dataset("cat", name="others", role=Role.OOD, root=Path("/other/caf\udce9"))
    workspace.save_dataset(ours)
    workspace.save_dataset(theirs)
    workspace.save_dataset(dataset("dog"))
    listed = [
        (stored.name, stored.role, stored.root, stored.size, stored.skipped)
        for stored in workspace.datasets()
    ]
    assert listed == [
        ("pets", Role.ID, Path("/data"), 1, 1),
        ("others", Role.OOD, Path("/other/caf\udce9"), 1, 1),
        ("pets", Role.ID, Path("/data"), 1, 1),
    ]
    assert ours.fingerprint == theirs.fingerprint
    assert workspace.dataset(ours.fingerprint) == theirs
    assert workspace.dataset(ours.fingerprint, name="pets") == ours
    assert workspace.dataset(ours.fingerprint, role=Role.OOD) == theirs
    assert workspace.dataset(ours.fingerprint, name="pets", role=Role.OOD) is None
    assert workspace.dataset("unknown") is None


def test_a_dataset_saved_again_from_a_new_place_replaces_the_old(workspace):
    workspace.save_dataset(dataset("cat"))
    workspace.save_dataset(dataset("cat", root=Path("/moved")))
    assert [stored.root for stored in workspace.datasets()] == [Path("/moved")]


def test_a_dataset_that_is_kept_as_it_is_is_not_written_again(workspace, monkeypatch):
    pets = dataset("cat")
    moved = replace(pets, images=tuple(replace(each, location="b.png") for each in pets.images))
    seen = replace(moved, images=tuple(replace(each, look="0" * 32) for each in pets.images))
    skipping = replace(seen, skipped=(Skipped("notes.txt", "No image."),))
    written = []
    monkeypatch.setattr(workspace._tensors, "save", counted(workspace._tensors.save, written))
    for number, each in enumerate((pets, moved, seen, skipping), start=1):
        workspace.save_dataset(each)
        workspace.save_dataset(each)
        Workspace(workspace.root).save_dataset(each)
        assert len(written) == number
        assert workspace.dataset(pets.fingerprint) == each
    (file,) = (workspace.root / "tensors" / "datasets").iterdir()
    file.unlink()
    workspace.save_dataset(skipping)
    assert workspace.dataset(pets.fingerprint) == skipping


def counted(work, calls):
    def call(*arguments, **options):
        calls.append(arguments)
        return work(*arguments, **options)

    return call


def test_a_dataset_whose_file_is_damaged_is_no_longer_offered(workspace):
    pets, others = dataset("cat"), dataset("dog", name="others")
    for each in (pets, others):
        workspace.save_dataset(each)
    for path in (workspace.root / "tensors" / "datasets").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
        assert workspace.dataset(pets.fingerprint) is None or workspace.dataset(others.fingerprint) is None
    assert workspace.datasets() == ()
    assert len(workspace.all_set_aside()) == 2
    workspace.save_dataset(pets)
    assert workspace.dataset(pets.fingerprint) == pets


def test_features_are_told_apart_by_what_else_changed_them(workspace):
    pets = dataset("cat")
    workspace.save_features(features(pets), extra="react 95")
    assert workspace.load_features("model", pets.fingerprint) is None
    assert workspace.load_features("model", pets.fingerprint, extra="react 95") is not None
    assert workspace.load_features("other", pets.fingerprint, extra="react 95") is None


@pytest.mark.parametrize("kind", ["features", "datasets"])
def test_a_whole_file_with_the_wrong_contents_is_set_aside(workspace, kind):
    pets = dataset("cat")
    workspace.save_dataset(pets)
    workspace.save_features(features(pets))
    (path,) = (workspace.root / "tensors" / kind).iterdir()
    workspace.save(kind, path.stem, {"something": torch.ones(2)}, {"else": True})
    assert workspace.load_features("model", pets.fingerprint) is None or kind == "datasets"
    assert workspace.dataset(pets.fingerprint) is None or kind == "features"
    (aside,) = workspace.all_set_aside()
    assert aside.reason == f"It holds no {kind.removesuffix('s') if kind == 'datasets' else kind}."


def test_everything_in_the_workspace_is_the_users_alone(workspace):
    before = os.umask(0)
    try:
        other = Workspace(workspace.root.parent / "open")
        other.save_dataset(dataset("cat"))
        other.add_verdicts([said("x")])
        other.thumbnails.put({"x": b"x"}, 96)
        other.shards_folder("m", "d")
        other.save("banks", fingerprint("key"), {}, {})
        other.set_aside("banks", fingerprint("key"), "damaged")
        with other.lock("x"):
            modes = {path: path.stat().st_mode & 0o777 for path in (other.root, *other.root.rglob("*"))}
    finally:
        os.umask(before)
    assert {
        path: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)
    } == {}


@pytest.mark.parametrize("place", ["a file", "a file/below", "/proc/nothing", "w/tensors"])
def test_a_root_that_cannot_be_a_folder_is_said_in_words(tmp_path, place):
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "tensors").write_text("mine")
    root = tmp_path / place
    with pytest.raises(StoreError, match=r"The workspace .* cannot be used: .* Set NNGUIDE_HOME to a folder"):
        Workspace(root.parent if place == "w/tensors" else root)


def spoil_header(path):
    path.write_bytes(b"garbage in the header" + path.read_bytes()[21:])


def spoil_pages(path):
    whole = bytearray(path.read_bytes())
    whole[4096:] = os.urandom(len(whole) - 4096)
    path.write_bytes(whole)


def cut(path):
    path.write_bytes(path.read_bytes()[:10_000])


def replace_by_another_programs(path):
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")


def replace_by_a_folder(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


@pytest.mark.parametrize(
    "spoil", [spoil_header, spoil_pages, cut, replace_by_another_programs, replace_by_a_folder]
)
def test_a_damaged_or_foreign_database_is_set_aside_and_the_daily_copy_takes_over(workspace, spoil, caplog):
    workspace.add_verdicts([said("yesterday")])
    (workspace.root / "workspace.backup").unlink()
    with closing(Workspace(workspace.root)) as other:
        other.add_verdicts([said("today")])
    workspace.close()
    spoil(workspace.root / "workspace.sqlite")
    again = Workspace(workspace.root)
    assert "yesterday" in again.current_verdicts()
    (aside,) = again.all_set_aside()
    assert aside.was == "w/workspace.sqlite"
    assert aside.path.exists()
    assert "restored workspace.sqlite from the copy of 20" in caplog.text
    again.add_verdicts([said("tomorrow")])
    assert "tomorrow" in Workspace(workspace.root).current_verdicts()


def test_a_damaged_copy_is_not_restored(workspace):
    workspace.add_verdicts([said("x")])
    workspace.close()
    for name in ("workspace.sqlite", "workspace.backup"):
        spoil_header(workspace.root / name)
    again = Workspace(workspace.root)
    assert again.verdicts() == ()
    assert {aside.was for aside in again.all_set_aside()} == {"w/workspace.sqlite", "w/workspace.backup"}


def test_the_copy_is_made_once_a_day(workspace):
    copy = workspace.root / "workspace.backup"
    first = copy.stat().st_mtime_ns
    workspace.add_verdicts([said("x")])
    assert copy.stat().st_mtime_ns == first
    os.utime(copy, (time.time() - 25 * 3600,) * 2)
    workspace.add_verdicts([said("y")])
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM verdicts").fetchone() == (2,)


def test_a_workspace_of_a_newer_version_is_refused_and_left_as_it_is(workspace):
    workspace.close()
    with sqlite3.connect(workspace.root / "workspace.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format 99, which a newer version"):
        Workspace(workspace.root)
    assert (workspace.root / "workspace.sqlite").exists()
    assert list((workspace.root / "set-aside").iterdir()) == []


def test_a_workspace_deleted_while_the_program_runs_is_made_again(workspace):
    workspace.add_verdicts([said("x")])
    shutil.rmtree(workspace.root)
    with pytest.raises(StoreError, match="could not be used"):
        workspace.add_verdicts([said("y")])
    workspace.root.mkdir()
    workspace.add_verdicts([said("z")])
    assert set(Workspace(workspace.root).current_verdicts()) == {"z"}


def fill(path):
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_an_error_in_words_and_what_was_saved_before_is_kept(tmp_path):
    with small_disk(tmp_path / "small", megabytes=3) as folder:
        workspace = Workspace(folder / "w")
        key, pets = fingerprint("key"), dataset("cat")
        workspace.save("banks", key, {"rows": torch.ones(1000)}, {"which": "old"})
        workspace.add_verdicts([said("before")])
        with pytest.raises(OSError, match="No space left"):
            workspace.save("banks", key, {"rows": torch.ones(1_000_000)}, {"which": "new"})
        filler = folder / "filler"
        fill(filler)
        with pytest.raises(OSError, match="No space left"):
            workspace.save_dataset(pets)
        with pytest.raises(StoreError, match="the disk is full"):
            workspace.add_verdicts([said(str(number)) for number in range(5000)])
        assert workspace.load("banks", key)[1] == {"which": "old"}
        assert workspace.datasets() == ()
        assert set(workspace.current_verdicts()) == {"before"}
        filler.unlink()
        workspace.save_dataset(pets)
        workspace.add_verdicts([said("after")])
        assert set(Workspace(folder / "w").current_verdicts()) == {"before", "after"}
        assert list(folder.rglob("*.part")) == []
        workspace.close()


def test_sessions_in_many_threads_share_one_workspace(workspace):
    errors = []

    def use(number: int) -> None:
        try:
            mine = dataset(*["cat"] * (number + 1), name=f"set {number}")
            for turn in range(5):
                workspace.save_dataset(mine)
                workspace.save_features(features(mine))
                assert workspace.load_features("model", mine.fingerprint).ids == mine.ids
                assert workspace.dataset(mine.fingerprint) == mine
                workspace.add_verdicts([said(f"{number}-{turn}")])
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(workspace.datasets()) == 6
    assert len(workspace.current_verdicts()) == 30
    assert workspace.all_set_aside() == ()


def run_processes(*arguments):
    script = Path(__file__).parents[1] / "store_processes.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_processes_that_write_the_same_things_at_once_lose_nothing(tmp_path):
    assert run_processes("crowd", tmp_path / "w", 4) == "4 processes, 0 errors\n"
    workspace = Workspace(tmp_path / "w")
    assert len(workspace.verdicts()) == 4 * 25
    assert workspace.uploaded("everyone") == 4 * 25
    assert workspace.all_set_aside() == ()
    assert len(workspace.datasets()) == 1


def test_writers_killed_at_random_moments_leave_nothing_half_written(tmp_path):
    kills = int(os.environ.get("NNGUIDE_KILLS", "15"))
    assert run_processes("kill", tmp_path / "w", kills) == f"{kills} kills, 0 losses, 0 half-written files\n"
