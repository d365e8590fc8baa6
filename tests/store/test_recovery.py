"""A workspace that lost rows gets them back from its daily copy, says so, and never spoils that copy."""

import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime

import pytest

from nnguide_core.errors import StoreError
from nnguide_core.records import Role, Run, RunDataset, Threshold, Verdict, fingerprint
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from nnguide_core.store.schema import APPLICATION_ID
from tests.processes import fork, succeeded

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WORDS = ("one", "two", "three")


def said(image):
    return Verdict(image, "unsure", "", NOON)


@pytest.fixture
def root(tmp_path):
    """A closed workspace with three verdicts, all of them in a copy of two days ago."""
    root = tmp_path / "w"
    with closing(Workspace(root)) as workspace:
        for word in WORDS:
            workspace.add_verdicts([said(word)])
        age_copy(root)
        workspace._back_up_daily(workspace._database)
    age_copy(root)
    return root


def age_copy(root, days=2):
    os.utime(root / "workspace.backup", (time.time() - days * 24 * 3600,) * 2)


def in_the_copy(root):
    with closing(sqlite3.connect(root / "workspace.backup")) as connection:
        return {word for (word,) in connection.execute("SELECT image FROM verdicts")}


def remove(root):
    (root / "workspace.sqlite").unlink()


def empty(root):
    (root / "workspace.sqlite").write_bytes(b"")


def begin_anew(root):
    """Leave what a killed process leaves that had just begun to make the database."""
    remove(root)
    with closing(sqlite3.connect(root / "workspace.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def lose_the_last(root):
    with closing(sqlite3.connect(root / "workspace.sqlite")) as connection:
        connection.execute("DROP TRIGGER verdicts_remain")
        connection.execute("DELETE FROM verdicts WHERE number = 3")
        connection.execute("UPDATE sqlite_sequence SET seq = 2")
        connection.execute(
            "CREATE TRIGGER verdicts_remain BEFORE DELETE ON verdicts"
            " BEGIN SELECT RAISE (ABORT, 'verdicts are append-only'); END"
        )
        connection.commit()


@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        (remove, "it was missing; restored from the copy of 20"),
        (empty, "it was empty; restored from the copy of 20"),
        (begin_anew, "it was empty; restored from the copy of 20"),
        (lose_the_last, "it held 2 verdicts, its copy of 20"),
    ],
)
def test_what_a_database_lost_comes_back_from_its_copy_with_a_note(root, lose, reason):
    lose(root)
    for _ in range(2):
        with closing(Workspace(root)) as again:
            assert set(again.current_verdicts()) == set(WORDS)
            (aside,) = again.all_set_aside()
    assert aside.was == "w/workspace.sqlite"
    assert aside.reason.startswith(reason)
    assert aside.path.exists()
    assert in_the_copy(root) == set(WORDS)


def test_the_log_of_a_database_that_went_missing_is_not_replayed_into_its_copy(root):
    workspace = Workspace(root)
    workspace.add_verdicts([said("four")])
    log = (root / "workspace.sqlite-wal").read_bytes()
    workspace.close()
    remove(root)
    (root / "workspace.sqlite-wal").write_bytes(log)
    age_copy(root)
    with closing(Workspace(root)) as again:
        assert "one" in again.current_verdicts()
        again.add_verdicts([said("five")])
        (aside,) = again.all_set_aside()
    assert aside.path.with_name(aside.path.name + "-wal").read_bytes() == log
    assert "five" in Workspace(root).current_verdicts()


def test_a_database_that_goes_missing_while_the_program_runs_comes_back_in_every_process(root):
    def add(word: str) -> None:
        Workspace(root).add_verdicts([said(word)])

    workspace = Workspace(root)
    workspace.add_verdicts([said("lost")])
    remove(root)
    children = [fork(lambda word=word: add(word)) for word in ("four", "five", "six")]
    workspace.add_verdicts([said("seven")])
    assert succeeded(*children)
    assert set(workspace.current_verdicts()) >= {*WORDS, "four", "five", "six", "seven"}
    assert [aside.was for aside in workspace.all_set_aside()] == ["w/workspace.sqlite"]


def test_a_copy_is_not_replaced_by_a_database_with_fewer_verdicts(root, caplog):
    workspace = Workspace(root)
    with closing(sqlite3.connect(root / "workspace.backup")) as connection:
        connection.execute(
            "INSERT INTO verdicts (run, question, image, decision, note, said)"
            " VALUES ('', '', 'mine', '', '', '')"
        )
        connection.commit()
    age_copy(root)
    workspace._back_up_daily(workspace._database)
    assert in_the_copy(root) == {*WORDS, "mine"}
    assert "no daily copy: the one of 20" in caplog.text


def test_runs_that_were_removed_stay_removed_and_the_copy_follows(root):
    part = RunDataset(fingerprint("x"), "x", Role.ID, 1)
    run = Run("m", "model", part, (part,), BankSettings(), 1, Threshold("id_kept", 0.95))
    with closing(Workspace(root)) as workspace:
        workspace.save_run(run)
        age_copy(root)
        workspace._back_up_daily(workspace._database)
        workspace.remove_run(run.id)
        age_copy(root)
    with closing(Workspace(root)) as again:
        assert again.runs() == ()
        assert again.all_set_aside() == ()
    with closing(sqlite3.connect(root / "workspace.backup")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


@pytest.mark.parametrize("lose", [remove, empty])
def test_a_copy_of_a_newer_version_that_is_needed_is_a_sentence_with_a_way_out(root, lose):
    lose(root)
    with closing(sqlite3.connect(root / "workspace.backup")) as connection:
        connection.execute("PRAGMA user_version = 9")
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"cannot be used: it was \w+\. Its copy .* has format 9, .* or move"
        ):
            Workspace(root)
    (root / "workspace.backup").rename(root / "elsewhere")
    with closing(Workspace(root)) as again:
        again.add_verdicts([said("x")])
    assert set(Workspace(root).current_verdicts()) == {"x"}


@pytest.mark.parametrize("how", ["garbage", "empty", "a folder", "of a newer version"])
def test_a_copy_that_cannot_be_used_is_set_aside_and_made_anew(root, how):
    copy = root / "workspace.backup"
    match how:
        case "garbage":
            copy.write_bytes(os.urandom(9000))
        case "empty":
            copy.write_bytes(b"")
        case "a folder":
            copy.unlink()
            copy.mkdir()
        case "of a newer version":
            with closing(sqlite3.connect(copy)) as connection:
                connection.execute("PRAGMA user_version = 9")
    age_copy(root)
    with closing(Workspace(root)) as again:
        assert set(again.current_verdicts()) == set(WORDS)
        assert [aside.was for aside in again.all_set_aside()] == ["w/workspace.backup"]
    assert in_the_copy(root) == set(WORDS)


def foreign(root, *statements):
    remove(root)
    with closing(sqlite3.connect(root / "workspace.sqlite")) as connection:
        for statement in (f"PRAGMA application_id = {APPLICATION_ID}", *statements):
            connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize(
    "statements",
    [
        ["PRAGMA user_version = 1"],
        ["PRAGMA user_version = -1"],
        ["PRAGMA user_version = 2", "CREATE TABLE jobs (a)", "CREATE TABLE datasets (a)"],
        ["CREATE TABLE datasets (a)"],
    ],
)
def test_a_database_with_tables_that_are_not_ours_is_set_aside(root, statements):
    foreign(root, *statements)
    with closing(Workspace(root)) as again:
        assert set(again.current_verdicts()) == set(WORDS)
        (aside,) = again.all_set_aside()
    assert aside.reason.startswith("its tables are not those of this program; restored")
