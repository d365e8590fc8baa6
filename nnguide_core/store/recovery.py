"""The workspace's database and its daily copy: whichever lost something is set aside for the other."""

import contextlib
import logging
import os
import shutil
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

from nnguide_core.errors import StoreError
from nnguide_core.files import open_atomic
from nnguide_core.store.schema import WORKSPACE_TABLES, Database, back_up, damage, make_empty, version
from nnguide_core.store.tensors import set_aside

__all__ = ["back_up_daily", "prepare"]

_LOG = logging.getLogger(__name__)
_DAY = 24 * 3600.0  # seconds
_KNOWN = len(WORKSPACE_TABLES)
_COMPANIONS = ("-wal", "-shm", "-journal")


def prepare(path: Path, copy: Path, aside: Path) -> None:
    """Make sure that the database is there and sound, from its copy where it lost something.

    Call it while no other process does; a database that was never copied is made when it is missing.

    Args:
        path: the database.
        copy: its daily copy.
        aside: the folder for what turns out to be unusable, each file with a note.

    Raises:
        StoreError: the copy is needed, and a newer version of the program wrote it.
    """
    # In this order: another process makes the copy only after it has filled the database.
    has_copy = os.path.lexists(copy)
    reason = damage(path, WORKSPACE_TABLES)
    lost = reason or (_what_is_lost(path, copy) if has_copy else None)
    if lost is not None:
        flaw = _flaw(copy) if has_copy else None
        if has_copy and flaw is None:
            _check_not_newer(path, copy, lost)
            _restore(path, copy, aside, lost)
        elif reason is not None:
            _set_database_aside(path, aside, reason)
        if flaw is not None:
            set_aside(copy, aside, flaw)
    make_empty(path)


def back_up_daily(database: Database, copy: Path, aside: Path) -> None:
    """Copy the database unless that was done today, or the copy holds verdicts that the database lost.

    Call it while no other process does. What goes wrong is a line in the log.
    """
    if copy.exists() and time.time() - copy.stat().st_mtime < _DAY:
        return
    try:
        if os.path.lexists(copy):
            if (flaw := _flaw(copy) or _newer(copy)) is not None:
                set_aside(copy, aside, flaw)
            elif _verdicts_ever(copy) > _verdicts_ever(database.path):
                _LOG.warning("no daily copy: the one of %s holds more verdicts", _day(copy))
                return
        back_up(database, copy)
    except (StoreError, OSError) as error:
        _LOG.warning("no daily copy of the database: %s", error)


def _what_is_lost(path: Path, copy: Path) -> str | None:
    if not path.exists():
        return "it was missing"
    if (written := version(path)) == 0:
        return "it was empty"
    if written > _KNOWN or _flaw(copy) is not None or version(copy) > _KNOWN:
        return None
    here, there = _verdicts_ever(path), _verdicts_ever(copy)
    # Verdicts are only ever added.
    return f"it held {here} verdicts, its copy of {_day(copy)} {there}" if here < there else None


def _flaw(copy: Path) -> str | None:
    if (reason := damage(copy, WORKSPACE_TABLES)) is not None:
        return reason
    return None if copy.exists() and version(copy) != 0 else "it was empty"


def _newer(copy: Path) -> str | None:
    return "a newer version of this program wrote it" if version(copy) > _KNOWN else None


def _check_not_newer(path: Path, copy: Path, lost: str) -> None:
    if (written := version(copy)) > _KNOWN:
        raise StoreError(
            f"{path.name} cannot be used: {lost}. Its copy {copy.name} has format {written}, which a newer "
            f"version of this program wrote; this one knows {_KNOWN}. Bring the program up to date, or move "
            f"{copy} to another place to begin with an empty workspace."
        )


def _restore(path: Path, copy: Path, aside: Path, lost: str) -> None:
    # A file that went missing gets a note, too, and leaves its log behind, which must not be replayed.
    make_empty(path)
    _set_database_aside(path, aside, f"{lost}; restored from the copy of {_day(copy)}")
    with copy.open("rb") as source, open_atomic(path, private=True) as file:
        shutil.copyfileobj(source, file)
    _LOG.warning("restored %s from the copy of %s", path.name, _day(copy))


def _set_database_aside(path: Path, aside: Path, reason: str) -> None:
    place = set_aside(path, aside, reason)
    for suffix in _COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if place is not None and os.path.lexists(companion):
            companion.rename(moved := place.with_name(place.name + suffix))
            os.utime(moved, follow_symlinks=False)


def _verdicts_ever(path: Path) -> int:
    """Return how many verdicts were ever added to a sound database, those of removed runs among them."""
    query = (
        "SELECT max(last) FROM (SELECT seq AS last FROM sqlite_sequence WHERE name = 'verdicts'"
        " UNION ALL SELECT max(number) FROM verdicts)"
    )
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return int(connection.execute(query).fetchone()[0] or 0)
    except sqlite3.DatabaseError as error:
        raise StoreError(f"The workspace's file {path.name} could not be used: {error}.") from error


def _day(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="minutes")
