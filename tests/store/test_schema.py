"""SQLite files: shared by threads and processes, judged before use, and full disks in words."""

import os
import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from nnguide_core.errors import StoreError
from nnguide_core.store import schema
from nnguide_core.store.schema import APPLICATION_ID, WORKSPACE_TABLES, Database, back_up, damage
from tests.disks import small_disk
from tests.processes import fork, succeeded

ROOT = Path(__file__).parents[2]

TABLES = ("CREATE TABLE numbers (number INTEGER NOT NULL) STRICT;",)


def insert(database, number):
    with database.write() as connection:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))


def numbers(database):
    with database.read() as connection:
        return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY 1")]


def test_a_database_that_another_process_makes_during_the_check_is_sound(tmp_path, monkeypatch):
    path, look = tmp_path / "x.sqlite", schema._objects
    made = []

    def make_then_look(connection):
        if connection.execute("PRAGMA database_list").fetchone()[2] and not made:
            made.append(True)
            insert(Database(path, TABLES), 1)
        return look(connection)

    with sqlite3.connect(path) as connection:  # as far as another process has come that makes one
        connection.execute("PRAGMA journal_mode = WAL")
    monkeypatch.setattr(schema, "_objects", make_then_look)
    assert damage(path, TABLES) is None
    assert made
    assert numbers(Database(path, TABLES)) == [1]


def test_many_threads_with_databases_of_their_own_lose_no_row(tmp_path):
    def write(start: int) -> None:
        database = Database(tmp_path / "x.sqlite", TABLES)
        for number in range(start, start + 20):
            insert(database, number)

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = sorted(start * 100 + number for start in range(6) for number in range(20))
    assert numbers(Database(tmp_path / "x.sqlite", TABLES)) == written


def test_a_writer_waits_for_the_writer_before_it_and_sees_what_that_one_wrote(tmp_path):
    database, seen = Database(tmp_path / "x.sqlite", TABLES), []

    def look_and_write() -> None:
        with database.write() as connection:
            seen.extend(connection.execute("SELECT number FROM numbers").fetchall())
            connection.execute("INSERT INTO numbers VALUES (2)")

    second = threading.Thread(target=look_and_write)
    with database.write() as connection:
        connection.execute("INSERT INTO numbers VALUES (1)")
        second.start()
        second.join(timeout=0.2)
    second.join()
    assert seen == [(1,)]
    assert numbers(database) == [1, 2]


def test_an_error_takes_back_all_that_the_block_wrote(tmp_path):
    database = Database(tmp_path / "x.sqlite", TABLES)

    def fail_halfway() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO numbers VALUES (1)")
            raise KeyError("bug")

    with pytest.raises(KeyError):
        fail_halfway()
    insert(database, 2)
    assert numbers(database) == [2]


def test_a_reader_sees_one_state_throughout_its_block(tmp_path):
    database = Database(tmp_path / "x.sqlite", TABLES)
    insert(database, 1)
    with database.read() as connection:
        before = connection.execute("SELECT count(*) FROM numbers").fetchone()
        insert(database, 2)
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == before
    assert numbers(database) == [1, 2]


def test_a_file_deleted_while_the_program_runs_is_made_again(tmp_path):
    database = Database(tmp_path / "x.sqlite", TABLES)
    insert(database, 1)
    for path in tmp_path.iterdir():
        path.unlink()
    insert(database, 2)
    assert numbers(database) == [2]
    assert numbers(Database(tmp_path / "x.sqlite", TABLES)) == [2]


def test_a_file_that_another_process_put_in_its_place_is_the_one_that_is_used(tmp_path):
    database = Database(tmp_path / "x.sqlite", TABLES)
    insert(database, 1)
    insert(newer := Database(tmp_path / "new", TABLES), 2)
    newer.close()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"x.sqlite{suffix}").unlink()
    (tmp_path / "new").replace(tmp_path / "x.sqlite")
    insert(database, 3)
    assert numbers(database) == [2, 3]


def test_a_forked_child_writes_through_connections_of_its_own(tmp_path):
    database = Database(tmp_path / "x.sqlite", TABLES)
    with database.read() as inherited:
        pass

    def write_in_child() -> None:
        with database.read() as connection:
            assert connection is not inherited
        insert(database, 2)

    insert(database, 1)
    assert succeeded(fork(write_in_child))
    insert(database, 3)
    assert numbers(database) == [1, 2, 3]


def test_files_are_the_users_alone(tmp_path):
    insert(database := Database(tmp_path / "x.sqlite", TABLES), 1)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) > 1
    database.close()


def test_an_older_file_is_brought_up_to_date_and_keeps_its_rows(tmp_path):
    insert(Database(tmp_path / "x.sqlite", TABLES), 1)
    newer = (*TABLES, "ALTER TABLE numbers ADD COLUMN word TEXT; CREATE INDEX i ON numbers (word);")
    database = Database(tmp_path / "x.sqlite", newer)
    with database.read() as connection:
        assert connection.execute("SELECT number, word FROM numbers").fetchall() == [(1, None)]
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_migration_that_fails_leaves_the_older_file_as_it_was(tmp_path):
    insert(Database(tmp_path / "x.sqlite", TABLES), 1)
    broken = (*TABLES, "ALTER TABLE numbers ADD COLUMN word TEXT; INSERT INTO absent VALUES (1);")
    with pytest.raises(sqlite3.OperationalError, match="absent"):
        Database(tmp_path / "x.sqlite", broken)
    database = Database(tmp_path / "x.sqlite", TABLES)
    with database.read() as connection:
        assert connection.execute("SELECT * FROM numbers").fetchall() == [(1,)]


def test_a_file_of_a_newer_version_is_refused_and_not_damaged(tmp_path):
    Database(tmp_path / "x.sqlite", (*TABLES, "CREATE TABLE more (a TEXT) STRICT;"))
    with pytest.raises(StoreError, match="has format 2, which a newer version of this program wrote"):
        Database(tmp_path / "x.sqlite", TABLES)
    assert damage(tmp_path / "x.sqlite", TABLES) is None


def test_many_processes_may_make_the_file_at_once(tmp_path):
    def make(number: int) -> None:
        insert(Database(tmp_path / "x.sqlite", TABLES), number)

    assert succeeded(*(fork(partial(make, number)) for number in range(6)))
    assert numbers(Database(tmp_path / "x.sqlite", TABLES)) == list(range(6))


def filled(path):
    database = Database(path, TABLES)
    with database.write() as connection:
        connection.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(5000)])
    database.close()
    return path.read_bytes()


def test_a_whole_file_an_empty_one_and_none_are_not_damaged(tmp_path):
    filled(tmp_path / "x.sqlite")
    (tmp_path / "empty").touch()
    with sqlite3.connect(tmp_path / "unfinished") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    for name in ("x.sqlite", "empty", "unfinished", "absent"):
        assert damage(tmp_path / name, TABLES) is None


@pytest.mark.parametrize("where", ["header", "middle", "end"])
def test_a_damaged_file_is_told(tmp_path, where):
    whole = bytearray(filled(tmp_path / "x.sqlite"))
    match where:
        case "header":
            whole[:16] = b"not a database!!"
        case "middle":
            whole[4096:8192] = os.urandom(4096)
        case "end":
            del whole[-5000:]
    (tmp_path / "x.sqlite").write_bytes(whole)
    assert damage(tmp_path / "x.sqlite", TABLES)


def test_another_programs_database_and_what_is_no_file_are_told(tmp_path):
    with sqlite3.connect(tmp_path / "theirs") as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    os.mkfifo(tmp_path / "pipe")
    assert damage(tmp_path / "theirs", TABLES) == "it belongs to another program"
    assert damage(tmp_path / "pipe", TABLES) == "it is no regular file"
    assert damage(tmp_path, TABLES) == "it is no regular file"


def test_a_copy_is_whole_and_ours(tmp_path):
    database = Database(tmp_path / "x.sqlite", TABLES)
    insert(database, 1)
    (tmp_path / "copy.draft").write_bytes(b"left by a killed process")
    back_up(database, tmp_path / "copy")
    insert(database, 2)
    assert damage(tmp_path / "copy", TABLES) is None
    with sqlite3.connect(tmp_path / "copy") as connection:
        assert connection.execute("SELECT * FROM numbers").fetchall() == [(1,)]
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert not (tmp_path / "copy.draft").exists()


def test_a_full_disk_is_said_in_words_and_loses_nothing_that_was_saved(tmp_path):
    with small_disk(tmp_path / "small", megabytes=1) as folder:
        database = Database(folder / "x.sqlite", ("CREATE TABLE t (bytes BLOB) STRICT;",))
        with database.write() as connection:
            connection.execute("INSERT INTO t VALUES (?)", (b"kept",))

        def overfill() -> None:
            with database.write() as connection:
                connection.execute("INSERT INTO t VALUES (?)", (bytes(2_000_000),))

        with pytest.raises(StoreError, match=r"x\.sqlite could not be used: the disk is full\. Free some"):
            overfill()
        with database.read() as connection:
            assert connection.execute("SELECT * FROM t").fetchall() == [(b"kept",)]
        database.close()


def test_a_folder_that_is_missing_is_said_in_words(tmp_path):
    with pytest.raises(StoreError, match=r"No such file or directory\. Make its folder"):
        Database(tmp_path / "absent" / "x.sqlite", TABLES)


def test_the_workspaces_tables_are_made_from_nothing(tmp_path):
    with Database(tmp_path / "x.sqlite", WORKSPACE_TABLES).read() as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert tables >= {"datasets", "runs", "run_datasets", "verdicts", "settings", "uploads", "jobs"}


LOOK = """
import sys
from pathlib import Path
from nnguide_core.store.schema import Database

database = Database(Path(sys.argv[1]), ("CREATE TABLE t (n INTEGER);",))
with database.read() as connection:
    print(connection.execute("SELECT count(*) FROM t").fetchone()[0])
database.close()
"""


def test_a_second_connection_does_not_let_other_processes_delete_the_log(tmp_path):
    def insert(number):
        with database.write() as connection:
            connection.execute("INSERT INTO t VALUES (?)", (number,))

    def seen_by_another():
        command = [sys.executable, "-c", LOOK, tmp_path / "x.sqlite"]
        return int(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)

    database = Database(tmp_path / "x.sqlite", ("CREATE TABLE t (n INTEGER);",))
    insert(1)
    with database.read(), database.read():  # the second one opens the file again
        pass
    assert seen_by_another() == 1
    insert(2)
    assert seen_by_another() == 2
