"""Rows and their checksums: what is damaged is left out when it is read, and set aside at the next start."""

import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nnguide_core.errors import StoreError
from nnguide_core.files import write_atomic
from nnguide_core.store.schema import Database, row_checksum
from nnguide_core.store.tensors import set_aside

__all__ = ["mend", "sound"]

_LOG = logging.getLogger(__name__)
_REASON = "their checksums do not fit: they were damaged on the disk"

# Each with its place, its checksum and then the values that the checksum was made of.
_ROWS = {
    "datasets": "SELECT rowid, checksum, key, fingerprint, json, saved FROM datasets",
    "runs": "SELECT rowid, checksum, id, question, json, saved FROM runs",
    "verdicts": "SELECT rowid, checksum, run, question, image, decision, note, said FROM verdicts",
    "settings": "SELECT rowid, checksum, name, json FROM settings",
    "jobs": "SELECT rowid, checksum, key, json, started FROM jobs",
}
_DELETE = {
    "datasets": "DELETE FROM datasets WHERE rowid = ?",
    "runs": "DELETE FROM runs WHERE rowid = ?",
    "verdicts": "DELETE FROM verdicts WHERE rowid = ?",
    "settings": "DELETE FROM settings WHERE rowid = ?",
    "jobs": "DELETE FROM jobs WHERE rowid = ?",
}

Row = tuple[Any, ...]


def sound(table: str, rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """Return the values of undamaged rows, given as checksum and values; one log line tells of the others."""
    found = list(rows)
    kept = [row[1:] for row in found if _is_sound(row)]
    if len(kept) < len(found):
        _LOG.warning("left out rows of %s (%d): %s", table, len(found) - len(kept), _REASON)
    return kept


def mend(database: Database, aside: Path) -> None:
    """Make damaged indexes anew, and move damaged rows into the folder of what was set aside, with a note."""
    _mend_indexes(database)
    with database.read() as connection:
        damaged = [table for table in _ROWS if _damaged(connection, table)]
    for table in damaged:
        with database.write() as connection:
            # Looked at again: another process may have been faster.
            if rows := _damaged(connection, table):
                _keep(rows, database.path.with_name(f"{table} of {database.path.name}"), aside)
                _delete(connection, table, [row[0] for row in rows])


def _mend_indexes(database: Database) -> None:
    if (finding := _index_damage(database)) is None:
        return
    _LOG.warning("made the indexes of %s anew: %s", database.path.name, finding)
    try:
        with database.write() as connection:
            connection.execute("REINDEX")
    except (StoreError, sqlite3.IntegrityError) as error:
        _LOG.warning("the indexes of %s stay as they are: %s", database.path.name, error)


def _index_damage(database: Database) -> str | None:
    try:
        with database.read() as connection:
            (finding,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except StoreError as error:  # an entry that cannot even be compared
        return str(error)
    return None if finding == "ok" else str(finding)


def _is_sound(row: Row) -> bool:
    values = row[1:]
    return {*map(type, values)} == {str} and row[0] == row_checksum(*values)


def _damaged(connection: sqlite3.Connection, table: str) -> list[Row]:
    return [row for row in connection.execute(_ROWS[table]) if not _is_sound(row[1:])]


def _keep(rows: Sequence[Row], path: Path, aside: Path) -> None:
    write_atomic(path, json.dumps(rows, default=repr).encode("ascii"), private=True)
    set_aside(path, aside, f"rows ({len(rows)}): {_REASON}")


def _delete(connection: sqlite3.Connection, table: str, places: Sequence[int]) -> None:
    guards = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name = 'verdicts_remain'"
    ).fetchall()
    # Verdicts can be deleted for this reason alone.
    connection.execute("DROP TRIGGER verdicts_remain")
    connection.executemany(_DELETE[table], [(place,) for place in places])
    for _, definition in guards:
        connection.execute(definition)
