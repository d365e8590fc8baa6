"""The workspace's SQLite files: their tables, connections for many threads and processes, errors in words."""

import contextlib
import os
import re
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from nnguide_core.errors import StoreError
from nnguide_core.files import open_atomic

__all__ = [
    "APPLICATION_ID",
    "THUMBNAIL_TABLES",
    "WORKSPACE_TABLES",
    "Database",
    "back_up",
    "damage",
    "make_empty",
    "row_checksum",
    "version",
]

APPLICATION_ID = 0x4E4E4745  # "NNGE", in the header of every SQLite file of ours

# One script per version, oldest first; a released script is never changed, only followed by another.
WORKSPACE_TABLES = (
    """
    CREATE TABLE datasets (
        key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, json TEXT NOT NULL, saved TEXT NOT NULL
    ) STRICT;
    CREATE INDEX datasets_by_fingerprint ON datasets (fingerprint);
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, question TEXT NOT NULL, json TEXT NOT NULL, saved TEXT NOT NULL
    ) STRICT;
    CREATE TABLE run_datasets (
        run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, fingerprint TEXT NOT NULL,
        PRIMARY KEY (run, fingerprint)
    ) STRICT;
    CREATE TABLE verdicts (
        number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, question TEXT NOT NULL,
        image TEXT NOT NULL, decision TEXT NOT NULL, note TEXT NOT NULL, said TEXT NOT NULL
    ) STRICT;
    CREATE INDEX verdicts_by_image ON verdicts (image);
    CREATE INDEX verdicts_by_run ON verdicts (run);
    CREATE INDEX verdicts_by_question ON verdicts (question);
    CREATE TRIGGER verdicts_stay BEFORE UPDATE ON verdicts
        BEGIN SELECT RAISE (ABORT, 'verdicts are append-only'); END;
    CREATE TRIGGER verdicts_remain BEFORE DELETE ON verdicts
        BEGIN SELECT RAISE (ABORT, 'verdicts are append-only'); END;
    CREATE TABLE settings (name TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
    CREATE TABLE uploads (
        session TEXT PRIMARY KEY, bytes INTEGER NOT NULL, latest REAL NOT NULL
    ) STRICT;
    CREATE TABLE jobs (key TEXT PRIMARY KEY, json TEXT NOT NULL, started TEXT NOT NULL) STRICT;
    """,
    # Casts, because text that is damaged already would not reach a function.
    """
    ALTER TABLE datasets ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE verdicts ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE settings ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
    DROP TRIGGER verdicts_stay;
    UPDATE datasets SET checksum = row_checksum(CAST (key AS BLOB), CAST (fingerprint AS BLOB),
        CAST (json AS BLOB), CAST (saved AS BLOB));
    UPDATE runs SET checksum = row_checksum(CAST (id AS BLOB), CAST (question AS BLOB),
        CAST (json AS BLOB), CAST (saved AS BLOB));
    UPDATE verdicts SET checksum = row_checksum(CAST (run AS BLOB), CAST (question AS BLOB),
        CAST (image AS BLOB), CAST (decision AS BLOB), CAST (note AS BLOB), CAST (said AS BLOB));
    UPDATE settings SET checksum = row_checksum(CAST (name AS BLOB), CAST (json AS BLOB));
    UPDATE jobs SET checksum = row_checksum(CAST (key AS BLOB), CAST (json AS BLOB),
        CAST (started AS BLOB));
    CREATE TRIGGER verdicts_stay BEFORE UPDATE ON verdicts
        BEGIN SELECT RAISE (ABORT, 'verdicts are append-only'); END;
    """,
)
THUMBNAIL_TABLES = (
    """
    CREATE TABLE thumbnails (
        image TEXT NOT NULL, side INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (image, side)
    ) STRICT, WITHOUT ROWID;
    """,
)

_BUSY_SECONDS = 30.0  # how long a writer waits for the others
_SPARE_CONNECTIONS = 8
_ELSEWHERE = "Make its folder writable, or set NNGUIDE_HOME to another folder."
_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full. Free some space and try again; what was saved before is kept.",
    sqlite3.SQLITE_BUSY: "another process kept it locked for too long. Try again.",
    sqlite3.SQLITE_READONLY: f"it may not be written. {_ELSEWHERE}",
    sqlite3.SQLITE_CANTOPEN: f"it cannot be opened. {_ELSEWHERE}",
    sqlite3.SQLITE_IOERR: "the disk refused to read or write. Check the disk and its free space.",
    sqlite3.SQLITE_CORRUPT: "it is damaged. Restart the program: it sets the damaged file aside.",
    sqlite3.SQLITE_NOTADB: "it is no database. Restart the program: it sets the foreign file aside.",
}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)
_SPACE = re.compile(r'[\s"]+')


class Database:
    """One SQLite file, used by any number of threads and processes at once.

    Every block of read() or write() has a connection to itself; connections are kept for the next block. The
    file is made when it is missing, also when it went missing while the program ran.

    Args:
        path: the file.
        tables: its scripts, one per version.
        durable: whether what is written must outlive a power cut.
        make: makes the file where it is missing; None makes an empty one.
    """

    def __init__(
        self,
        path: Path,
        tables: Sequence[str],
        *,
        durable: bool = True,
        make: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self._make = make or (lambda: make_empty(path))
        self._tables = tables
        self._synchronous = "FULL" if durable else "OFF"
        self._spare: list[tuple[sqlite3.Connection, os.stat_result]] = []
        self._not_ours: list[tuple[sqlite3.Connection, os.stat_result]] = []
        self._guard = threading.Lock()
        self._process = os.getpid()
        with self.read():
            pass

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees one state of the file throughout the block."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are kept together when the block ends, or not at all."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def close(self) -> None:
        """Close the spare connections; the next block opens new ones."""
        with self._guard:
            while self._spare:
                self._spare.pop()[0].close()

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with _errors_in_words(self.path):
            connection, identity = self._take()
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # Closing takes the changes back, whatever state the connection is in.
                connection.close()
                raise
            self._give_back(connection, identity)

    def _take(self) -> tuple[sqlite3.Connection, os.stat_result]:
        if self._process != os.getpid():
            # A connection must not be used across a fork, and not be closed there either.
            self._not_ours, self._spare = self._spare, []
            self._guard, self._process = threading.Lock(), os.getpid()
        with self._guard:
            while self._spare:
                connection, identity = self._spare.pop()
                if self.path.exists() and os.path.samestat(identity, self.path.stat()):
                    return connection, identity
                connection.close()
        return self._open()

    def _give_back(self, connection: sqlite3.Connection, identity: os.stat_result) -> None:
        with self._guard:
            if len(self._spare) < _SPARE_CONNECTIONS:
                self._spare.append((connection, identity))
                return
        connection.close()

    def _open(self) -> tuple[sqlite3.Connection, os.stat_result]:
        if not self.path.exists():
            self._make()
        identity = self.path.stat()
        connection = _connect(self.path)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            _use_write_ahead_log(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            _migrate(connection, self._tables, self.path.name)
        except BaseException:
            connection.close()
            raise
        return connection, identity


def make_empty(path: Path) -> None:
    """Make an empty file that only this user can read, unless there is one."""
    # Only where there is none: closing a file takes away all locks of this process on it, and another
    # process that then closes the database would delete the log that our other connections write to.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def row_checksum(*values: str | bytes) -> int:
    """Return the CRC-32 of a row's values, each delimited; what every connection knows by the same name."""
    raw = [value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in values]
    return zlib.crc32(b"\0".join(raw))


def damage(path: Path, tables: Sequence[str]) -> str | None:
    """Return why a file cannot be used as a database of ours, in words, or None if it can or is not there.

    A file that a newer version wrote is not damaged, as far as this one can tell.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return None
    if not path.is_file():
        return "it is no regular file"
    try:
        with contextlib.closing(_connect(path)) as connection:
            return _finding(connection, tables)
    except sqlite3.DatabaseError as error:
        return str(error) if _primary_code(error) in _DAMAGE else None
    except UnicodeDecodeError:  # SQLite's own words quote what is damaged
        return "its tables cannot be read"


def version(path: Path) -> int:
    """Return the version of a database that is not damaged; 0 where nothing was ever written to it."""
    with _errors_in_words(path), contextlib.closing(_connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def back_up(database: Database, target: Path) -> None:
    """Write a whole, checked copy of the database; the old copy is replaced once the new one is complete."""
    draft = target.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    try:
        with (
            _errors_in_words(database.path),
            contextlib.closing(_connect(database.path)) as connection,
        ):
            connection.execute("VACUUM INTO ?", (str(draft),))
        with draft.open("rb") as source, open_atomic(target, private=True) as file:
            shutil.copyfileobj(source, file)
    finally:
        draft.unlink(missing_ok=True)


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # Damaged text must come out as something that its checksum does not fit, not as an error.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    connection.create_function("row_checksum", -1, row_checksum, deterministic=True)
    return connection


def _finding(connection: sqlite3.Connection, tables: Sequence[str]) -> str | None:
    # One state of the file for all that follows: another process may be making its tables right now.
    connection.execute("BEGIN")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    objects = _objects(connection)
    if objects and application != APPLICATION_ID:
        return "it belongs to another program"
    (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        return str(finding)
    is_blank, is_newer = number == 0 and not objects, number > len(tables)
    if is_blank or is_newer or (number > 0 and objects == _expected(tuple(tables[:number]))):
        return None
    return "its tables are not those of this program"


def _objects(connection: sqlite3.Connection) -> frozenset[tuple[str, ...]]:
    found = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_*'"
    ).fetchall()
    # Versions of SQLite space and quote differently what they change in a definition.
    return frozenset((kind, name, of, _SPACE.sub("", str(sql))) for kind, name, of, sql in found)


@cache
def _expected(tables: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    with contextlib.closing(_connect(":memory:")) as connection:
        for script in tables:
            for statement in _statements(script):
                connection.execute(statement)
        return _objects(connection)


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # Switching the mode does not wait for the others by itself.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _migrate(connection: sqlite3.Connection, tables: Sequence[str], name: str) -> None:
    if _version(connection, tables, name) == len(tables):
        return
    connection.execute("BEGIN IMMEDIATE")
    for number in range(_version(connection, tables, name), len(tables)):
        for statement in _statements(tables[number]):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(tables)}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, tables: Sequence[str], name: str) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(tables):
        raise StoreError(
            f"{name} has format {version}, which a newer version of this program wrote; this one knows "
            f"{len(tables)}. Bring the program up to date, or set NNGUIDE_HOME to another folder."
        )
    return version


def _statements(script: str) -> Iterator[str]:
    # executescript() would commit the transaction that holds the migration together.
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _primary_code(error: sqlite3.DatabaseError) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextlib.contextmanager
def _errors_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if (reason := _REASONS.get(_primary_code(error))) is None:
            raise
        raise StoreError(f"The workspace's file {path.name} could not be used: {reason}") from error
    except OSError as error:
        raise StoreError(
            f"The workspace's file {path} could not be used: {error.strerror}. {_ELSEWHERE}"
        ) from error
